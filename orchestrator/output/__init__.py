"""All text that a user reads."""
