"""What replaces layers of the model in a pack."""
