"""What is known before anything starts."""
