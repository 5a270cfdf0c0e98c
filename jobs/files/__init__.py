"""Folders, object stores, the cache."""
