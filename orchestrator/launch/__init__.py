"""Where the work runs: a Ray of our own here, or a cluster joined."""
