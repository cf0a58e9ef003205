"""Storage servers: the engine on a medium."""
