"""What ran and what runs."""
