"""Attention over the packed batch."""
