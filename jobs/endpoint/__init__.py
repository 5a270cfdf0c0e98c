"""Answers over HTTP and in a terminal, from exported files."""
