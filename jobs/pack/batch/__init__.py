"""Which token stands where."""
