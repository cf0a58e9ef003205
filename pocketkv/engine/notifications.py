"""Kinds of events in the life of a key, as `notify-keyspace-events` selects them.

A handler that has changed a key says so once, by `Database.notify(KIND, EVENT, key)`, with the
event's name as Redis documents it (https://redis.io/docs/latest/develop/use/keyspace-notifications/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pocketkv.engine.database import Database

# Where events are published: in channels by key, and by event.
KEYSPACE: Final = 1 << 0  # K
KEYEVENT: Final = 1 << 1  # E
GENERIC: Final = 1 << 2  # g: DEL, EXPIRE, RENAME ...
STRING: Final = 1 << 3  # $
LIST: Final = 1 << 4  # l
SET: Final = 1 << 5  # s
HASH: Final = 1 << 6  # h
SORTED_SET: Final = 1 << 7  # z
EXPIRED: Final = 1 << 8  # x
EVICTED: Final = 1 << 9  # e
STREAM: Final = 1 << 10  # t
KEY_MISS: Final = 1 << 11  # m
MODULE: Final = 1 << 13  # d: there are no modules
NEW: Final = 1 << 14  # n
# Those that tell of a change, each by itself.
CHANGES: Final = ~(KEY_MISS | NEW)

ALL: Final = GENERIC | STRING | LIST | SET | HASH | SORTED_SET | EXPIRED | EVICTED | STREAM | MODULE
# The letters in the order in which Redis shows them.
_LETTERS: Final = {
    "g": GENERIC,
    "$": STRING,
    "l": LIST,
    "s": SET,
    "h": HASH,
    "z": SORTED_SET,
    "x": EXPIRED,
    "e": EVICTED,
    "t": STREAM,
    "d": MODULE,
    "n": NEW,
    "K": KEYSPACE,
    "E": KEYEVENT,
    "m": KEY_MISS,
}


def parse_flags(text: str) -> int | None:
    """The events that letters select; ``None`` if one of them stands for nothing."""
    flags = 0
    for letter in text:
        if letter != "A" and letter not in _LETTERS:
            return None
        flags |= ALL if letter == "A" else _LETTERS[letter]
    return flags


def flag_letters(flags: int) -> str:
    """The letters of events, as CONFIG GET shows them: ``A`` stands for new keys as well."""
    is_all = flags & ALL == ALL
    hidden = ALL | NEW if is_all else 0
    shown = [letter for letter, flag in _LETTERS.items() if flags & flag & ~hidden]
    return ("A" if is_all else "") + "".join(shown)


class Notifier(Protocol):
    """Publishes what happens to keys."""

    def notify(self, database: Database, kind: int, event: bytes, key: bytes) -> None:
        """An event of a kind that the job wants to hear of."""
        ...
