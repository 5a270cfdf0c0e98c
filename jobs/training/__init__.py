"""One trial by itself."""
