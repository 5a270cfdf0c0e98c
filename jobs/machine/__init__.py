"""What this machine is and how fast it multiplies: measured once, kept in the cache."""
