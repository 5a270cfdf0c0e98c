"""Settings: read, filled in, checked."""
