"""The folder that is registered, and other forms of it."""
