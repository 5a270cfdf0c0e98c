"""Answers from a registered version."""
