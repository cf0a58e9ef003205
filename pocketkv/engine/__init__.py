"""What is stored and what commands do to it; no I/O, no clock and no randomness of its own."""
