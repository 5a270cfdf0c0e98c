"""Rows, splits, tokens, order."""
