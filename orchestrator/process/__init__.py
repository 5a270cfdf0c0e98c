"""How a command is stopped, and what must not outlive it."""
