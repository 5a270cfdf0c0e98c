"""The engine that trains many LoRA trials over one frozen base, each as it would train alone."""
