"""What happens when something was removed from a collection, of whatever type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.notifications import GENERIC

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.values import Collection

# The same for the compiled hot path, as a C number.
_GENERIC: Final = GENERIC


def shrunk(
    db: Database, key: bytes, value: Collection, before_bytes: int, kind: int, event: bytes
) -> None:
    """Account for what was removed, and tell of it; an empty collection does not exist.

    Args:
        db: Where it is.
        key: By which name.
        value: What is left.
        before_bytes: What it cost before.
        kind: Of notifications about its type.
        event: What is told of.
    """
    db.modified(key, value.size_bytes - before_bytes)
    db.notify(kind, event, key)
    if not value:
        db.remove(key)
        db.notify(_GENERIC, b"del", key)
