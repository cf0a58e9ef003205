"""Settings of Redis that nothing here obeys, but programs set: they are remembered and shown.

They are about what this server does by itself, in another way, or not at all: it keeps no file of
its values, has no replicas, frees memory in the background in any case. Refusing them would stop
programs that set them as a matter of course. `docs/commands.md` says what they do: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Remembered:
    """A setting and the values that Redis takes for it.

    Attributes:
        default: Redis's own.
        words: What it may be; none: a number within `low` and `high`, or, without those, any text.
        is_amount: Whether the number may have a unit of memory.
    """

    default: str
    words: tuple[str, ...] = ()
    low: int | None = None
    high: int = 2**63 - 1
    is_amount: bool = False


_FLAG: Final = ("yes", "no")


def _flag(default: str) -> Remembered:
    return Remembered(default, _FLAG)


def _number(default: int, low: int = 0, high: int = 2**31 - 1) -> Remembered:
    return Remembered(str(default), low=low, high=high)


def _amount(default: int) -> Remembered:
    return Remembered(str(default), low=0, is_amount=True)


REMEMBERED: Final[dict[str, Remembered]] = {
    # Files: there are none.
    "appendonly": _flag("no"),
    "appendfsync": Remembered("everysec", ("everysec", "always", "no")),
    "aof-load-truncated": _flag("yes"),
    "aof-use-rdb-preamble": _flag("yes"),
    "auto-aof-rewrite-min-size": _amount(64 << 20),
    "auto-aof-rewrite-percentage": _number(100),
    "no-appendfsync-on-rewrite": _flag("no"),
    "rdb-key-save-delay": _number(0, -(2**31)),
    "rdbcompression": _flag("yes"),
    "sanitize-dump-payload": Remembered("no", ("no", "yes", "clients")),
    "stop-writes-on-bgsave-error": _flag("yes"),
    # Replicas: there are none.
    "masterauth": Remembered(""),
    "masteruser": Remembered(""),
    "min-replicas-max-lag": _number(10),
    "repl-backlog-size": _amount(1 << 20),
    "repl-diskless-load": Remembered("disabled", ("disabled", "on-empty-db", "swapdb")),
    "repl-diskless-sync": _flag("yes"),
    "repl-diskless-sync-delay": _number(5),
    "repl-ping-replica-period": _number(10, 1),
    "repl-timeout": _number(60, 1),
    "replica-lazy-flush": _flag("no"),
    "replica-priority": _number(100),
    "replica-serve-stale-data": _flag("yes"),
    # Memory is freed, and kept compact, in the background, and nothing is evicted.
    "active-defrag-cycle-max": _number(25, 1, 99),
    "active-defrag-cycle-min": _number(1, 1, 99),
    "active-defrag-ignore-bytes": _amount(100 << 20),
    "active-defrag-max-scan-fields": _number(1000, 1),
    "active-defrag-threshold-lower": _number(10, 0, 1000),
    "active-defrag-threshold-upper": _number(100, 0, 1000),
    "active-expire-effort": _number(1, 1, 10),
    "activerehashing": _flag("yes"),
    "jemalloc-bg-thread": _flag("yes"),
    "lazyfree-lazy-eviction": _flag("no"),
    "lazyfree-lazy-expire": _flag("no"),
    "lazyfree-lazy-server-del": _flag("no"),
    "lazyfree-lazy-user-del": _flag("no"),
    "lazyfree-lazy-user-flush": _flag("no"),
    "lfu-decay-time": _number(1),
    "lfu-log-factor": _number(10),
    "maxmemory-clients": Remembered("0"),
    "maxmemory-eviction-tenacity": _number(10, 0, 100),
    "maxmemory-samples": _number(5, 1),
    # The rest.
    "cluster-allow-pubsubshard-when-down": _flag("yes"),
    "cluster-allow-reads-when-down": _flag("no"),
    "cluster-node-timeout": _number(15_000),
    "cluster-require-full-coverage": _flag("yes"),
    "dynamic-hz": _flag("yes"),
    "hz": _number(10),
    "key-load-delay": _number(0, -(2**31)),
    "latency-tracking-info-percentiles": Remembered("50 99 99.9"),
    "loglevel": Remembered("notice", ("debug", "verbose", "notice", "warning")),
    "tcp-keepalive": _number(300),
}
