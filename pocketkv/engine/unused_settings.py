"""Redis's settings of what PocketKV does not have: replicas, files of Redis's, its memory's upkeep.

Programs and tools set them, as they must where Redis runs. They are checked as Redis checks them
and shown as they were set; nothing comes of them, which `docs/commands.md` says. But for
`min-replicas-to-write`: as in Redis, nothing is written while there are fewer replicas; and for
`latency-tracking` and its percentiles, which INFO follows. Bounds and defaults are Redis 7.0's.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.arguments import INT32_MAX, INT64_MAX
from pocketkv.engine.setting_kinds import (
    AmountOrPercent,
    Choice,
    Flag,
    Kind,
    Number,
    Percentiles,
    SavePoints,
    Text,
)

_FLAG: Final = Flag()
_TEXT: Final = Text()
_COUNT: Final = Number(0, INT32_MAX)
_AMOUNT: Final = Number(0, INT64_MAX, is_amount=True)
_PERCENT: Final = Number(0, 1000)

UNUSED: Final[dict[str, tuple[Kind, bytes]]] = {
    "active-defrag-cycle-max": (Number(1, 99), b"25"),
    "active-defrag-cycle-min": (Number(1, 99), b"1"),
    "active-defrag-ignore-bytes": (Number(1, INT64_MAX, is_amount=True), b"104857600"),
    "active-defrag-max-scan-fields": (Number(1, INT64_MAX), b"1000"),
    "active-defrag-threshold-lower": (_PERCENT, b"10"),
    "active-defrag-threshold-upper": (_PERCENT, b"100"),
    "active-expire-effort": (Number(1, 10), b"1"),
    "activerehashing": (_FLAG, b"yes"),
    "aof-load-truncated": (_FLAG, b"yes"),
    "aof-rewrite-incremental-fsync": (_FLAG, b"yes"),
    "aof-timestamp-enabled": (_FLAG, b"no"),
    "aof-use-rdb-preamble": (_FLAG, b"yes"),
    "appendfsync": (Choice(("everysec", "always", "no")), b"everysec"),
    "appendonly": (_FLAG, b"no"),
    "auto-aof-rewrite-min-size": (_AMOUNT, b"67108864"),
    "auto-aof-rewrite-percentage": (_COUNT, b"100"),
    "cluster-allow-pubsubshard-when-down": (_FLAG, b"yes"),
    "cluster-allow-reads-when-down": (_FLAG, b"no"),
    "cluster-allow-replica-migration": (_FLAG, b"yes"),
    "cluster-migration-barrier": (_COUNT, b"1"),
    "cluster-node-timeout": (Number(0, INT64_MAX), b"15000"),
    "cluster-replica-no-failover": (_FLAG, b"no"),
    "cluster-replica-validity-factor": (_COUNT, b"10"),
    "cluster-require-full-coverage": (_FLAG, b"yes"),
    "crash-log-enabled": (_FLAG, b"yes"),
    "crash-memcheck-enabled": (_FLAG, b"yes"),
    "dbfilename": (_TEXT, b"dump.rdb"),
    "dir": (_TEXT, b""),
    "dynamic-hz": (_FLAG, b"yes"),
    "hz": (_COUNT, b"10"),
    "jemalloc-bg-thread": (_FLAG, b"yes"),
    "key-load-delay": (Number(-INT32_MAX - 1, INT32_MAX), b"0"),
    "latency-tracking": (_FLAG, b"yes"),
    "latency-tracking-info-percentiles": (Percentiles(), b"50 99 99.9"),
    "lazyfree-lazy-eviction": (_FLAG, b"no"),
    "lazyfree-lazy-expire": (_FLAG, b"no"),
    "lazyfree-lazy-server-del": (_FLAG, b"no"),
    "lazyfree-lazy-user-del": (_FLAG, b"no"),
    "lazyfree-lazy-user-flush": (_FLAG, b"no"),
    "lfu-decay-time": (_COUNT, b"1"),
    "lfu-log-factor": (_COUNT, b"10"),
    "loglevel": (Choice(("debug", "verbose", "notice", "warning")), b"notice"),
    "masterauth": (_TEXT, b""),
    "masteruser": (_TEXT, b""),
    "maxmemory-clients": (AmountOrPercent(), b"0"),
    "maxmemory-eviction-tenacity": (Number(0, 100), b"10"),
    "maxmemory-samples": (Number(1, INT32_MAX), b"5"),
    "min-replicas-max-lag": (_COUNT, b"10"),
    "min-replicas-to-write": (_COUNT, b"0"),
    "no-appendfsync-on-rewrite": (_FLAG, b"no"),
    "oom-score-adj": (Choice(("no", "yes", "relative", "absolute")), b"no"),
    "oom-score-adj-values": (_TEXT, b"0 200 800"),
    "protected-mode": (_FLAG, b"yes"),
    "rdb-del-sync-files": (_FLAG, b"no"),
    "rdb-key-save-delay": (Number(-INT32_MAX - 1, INT32_MAX), b"0"),
    "rdb-save-incremental-fsync": (_FLAG, b"yes"),
    "rdbcompression": (_FLAG, b"yes"),
    "repl-backlog-size": (Number(1, INT64_MAX, is_amount=True), b"1048576"),
    "repl-backlog-ttl": (Number(0, INT64_MAX), b"3600"),
    "repl-disable-tcp-nodelay": (_FLAG, b"no"),
    "repl-diskless-load": (Choice(("disabled", "on-empty-db", "swapdb")), b"disabled"),
    "repl-diskless-sync": (_FLAG, b"yes"),
    "repl-diskless-sync-delay": (_COUNT, b"5"),
    "repl-ping-replica-period": (Number(1, INT32_MAX), b"10"),
    "repl-timeout": (Number(1, INT32_MAX), b"60"),
    "replica-announced": (_FLAG, b"yes"),
    "replica-ignore-maxmemory": (_FLAG, b"yes"),
    "replica-lazy-flush": (_FLAG, b"no"),
    "replica-priority": (_COUNT, b"100"),
    "replica-read-only": (_FLAG, b"yes"),
    "replica-serve-stale-data": (_FLAG, b"yes"),
    "sanitize-dump-payload": (Choice(("no", "yes", "clients")), b"no"),
    "save": (SavePoints(), b""),
    "shutdown-timeout": (_COUNT, b"10"),
    "stop-writes-on-bgsave-error": (_FLAG, b"yes"),
    "tcp-keepalive": (_COUNT, b"300"),
}

# Shown only to who asks for just these.
HIDDEN: Final = frozenset(("key-load-delay", "rdb-key-save-delay"))

# Redis's older names of the same.
UNUSED_ALIASES: Final = {
    "cluster-slave-no-failover": "cluster-replica-no-failover",
    "cluster-slave-validity-factor": "cluster-replica-validity-factor",
    "min-slaves-max-lag": "min-replicas-max-lag",
    "min-slaves-to-write": "min-replicas-to-write",
    "repl-ping-slave-period": "repl-ping-replica-period",
    "slave-ignore-maxmemory": "replica-ignore-maxmemory",
    "slave-lazy-flush": "replica-lazy-flush",
    "slave-priority": "replica-priority",
    "slave-serve-stale-data": "replica-serve-stale-data",
}
