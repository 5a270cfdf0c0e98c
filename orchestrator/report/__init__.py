"""One page that tells a whole sweep: what was found, what it is worth, what to try next."""
