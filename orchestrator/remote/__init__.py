"""A command and its code on the way to a Ray head."""
