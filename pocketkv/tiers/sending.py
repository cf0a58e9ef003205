"""What a server sends of its values to another one, however long they take to be read.

Used where keys that outlive their job are handed over, and where slots are moved.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import trio

from pocketkv import limits
from pocketkv.engine.cold import LARGE, Cold, NotResident, PendingRead
from pocketkv.engine.database import Database
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.spilling import NoRoom
from pocketkv.engine.transfer import Piece, pieces_of
from pocketkv.engine.values import Entry, Value
from pocketkv.resp.errors import PeerError

# Of large strings that are copied to be sent, so much is sent at a time.
_PART_BYTES: Final = limits.MIB
# Times that a part of a value may have left the page cache before it was used.
_READS_MAX: Final = 8
_PAUSE_S: Final = 0.5


async def pieces(db: Database, key: bytes, entry: Entry) -> AsyncGenerator[Piece, None]:
    """Kind, total size, offset and bytes of each piece of a value.

    Raises:
        CommandError: It cannot be read.
        PeerError: There is no memory to read it into now.
    """
    value = await loaded(db, key, entry) if isinstance(entry, Cold) else entry
    if not isinstance(value, LargeString):
        for piece in pieces_of(value):
            yield piece
        return
    total = len(value)
    for offset in range(0, total, _PART_BYTES):
        part = await _part(value, offset, min(offset + _PART_BYTES, total))
        yield LARGE, total, offset, part


async def loaded(db: Database, key: bytes, cold: Cold) -> Value:
    """What a table holds a `Cold` for; it stays as it is.

    Raises:
        CommandError: It cannot be read.
        PeerError: There is no memory to read it into now.
    """
    shelf = db.shelf
    assert shelf is not None  # Nothing is cold without one.
    reads: list[PendingRead] = []
    try:
        for _ in range(_READS_MAX):
            try:
                return shelf.load(key, cold)
            except NotResident as missing:
                reads += missing.reads
                for pending in missing.reads:
                    await _fetch(pending)
                for pending in missing.reads:
                    for _ in pending.prepare():
                        await trio.lowlevel.checkpoint()
            except NoRoom:
                await trio.sleep(_PAUSE_S)
    finally:
        for pending in reads:
            pending.forget()
    raise PeerError("there is no memory to read a value into that is to be sent")


async def _fetch(pending: PendingRead) -> None:
    """Have a thread read something.

    Raises:
        CommandError: It cannot be read.
    """
    pending.keep(await trio.to_thread.run_sync(pending.read))


async def _part(value: LargeString, start: int, stop: int) -> bytes:
    """A part of a large string, read by a thread if need be."""
    for _ in range(_READS_MAX):
        missing = value.missing(start, stop)
        if not missing:
            return value.read(start, stop)
        for pending in missing:
            await _fetch(pending)
            pending.forget()
    raise CommandError(b"IOERR what was read did not stay in memory")
