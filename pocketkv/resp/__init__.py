"""Redis's protocol: a codec that does no I/O, the reactor that serves it, and our own client."""
