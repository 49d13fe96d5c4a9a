"""Tables of tracked runs."""
