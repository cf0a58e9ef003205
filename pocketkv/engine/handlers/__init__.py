"""The commands, a file per type or topic. Importing this package fills the table of records."""

from __future__ import annotations

from pocketkv.engine.handlers import (
    clients,
    cluster,
    command,
    config,
    connection,
    debug,
    internal,
    jobs,
    keys,
    keys_expiry,
    keys_scan,
    memory,
    pubsub,
    server,
    set_algebra,
    sets,
    slowlog,
    strings,
    strings_lcs,
    strings_ranges,
)

__all__ = [
    "clients",
    "cluster",
    "command",
    "config",
    "connection",
    "debug",
    "internal",
    "jobs",
    "keys",
    "keys_expiry",
    "keys_scan",
    "memory",
    "pubsub",
    "server",
    "set_algebra",
    "sets",
    "slowlog",
    "strings",
    "strings_lcs",
    "strings_ranges",
]
