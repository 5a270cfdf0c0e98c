"""A base model's way to disk."""
