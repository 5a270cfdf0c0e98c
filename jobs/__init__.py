"""What runs on the cluster: training, evaluation and prediction, in processes that know nothing of
Hydra, MLflow or Kubernetes.
"""
