"""The control plane: reads the configuration, plans, launches, sweeps, tracks and registers."""
