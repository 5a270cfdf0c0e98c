"""A sweep on Kubernetes: the manifest of its RayJob, the only Kubernetes client, and the way from its submission to its end."""
