"""A base model in memory, and what is attached to it."""
