"""How keys go from one of our servers to another: as pieces, each of which tells where it belongs.

A piece is seven arguments of a request: database, key, kind, due time, total size, offset, bytes.

- A small value is one piece. A long string is several, in order; `total` is the length of all.
- A collection of many elements is several, too, each of which has some elements, in no order;
  `total` is 0 but in the last one, where it is what all pieces have together. So neither side ever
  holds up its clients for long.
- `CHANGE` has changes to the collection that is there, `EXPIRE` another due time (0: none);
  `DELETE` says that a key is no more, `MARK` that it is to outlive its job.

A value that is sent again from offset 0 takes the place of what came of it before, so whoever was
interrupted begins anew. Every piece of a value tells when that expires.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv import limits
from pocketkv.engine.arguments import parse_int
from pocketkv.engine.cold import CHANGE, CHANGED_STRING, DELETE, EXPIRE, LARGE, STRING
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.packing import PayloadError, unpack
from pocketkv.engine.payloads import code_of, collection
from pocketkv.engine.values import Collection

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.values import Value

# What tells of one piece.
FIELDS: Final = 7
MARK: Final = 5
PIECE_BYTES: Final = 64 * limits.KIB
"""Of a value that is longer, about so much is a piece."""

# Kind, total size, offset, bytes.
Piece: TypeAlias = "tuple[int, int, int, bytes]"
# A collection that has not come whole, and how many bytes of it have; or bytes of a string.
Partial: TypeAlias = "tuple[Collection, int] | bytearray"

_STRINGS: Final = frozenset({STRING, CHANGED_STRING, LARGE})
_OUT_OF_ORDER: Final = b"ERR a piece does not follow the one before it"
_NOT_A_VALUE: Final = b"ERR the pieces make no value"


# --- sending -----------------------------------------------------------------------------------


def pieces_of(value: Value) -> Iterator[Piece]:
    """The pieces of a value in memory.

    Between two of them it may be changed: of a collection, what is in it all the time is sent.
    """
    if isinstance(value, Collection):
        yield from _collection_pieces(value)
        return
    kind = STRING if type(value) is bytes else CHANGED_STRING
    payload = bytes(value)
    # An empty value is one piece, too.
    for offset in range(0, len(payload) or 1, PIECE_BYTES):
        yield kind, len(payload), offset, payload[offset : offset + PIECE_BYTES]


def _collection_pieces(value: Collection) -> Iterator[Piece]:
    kind, cursor, sent = code_of(value), 0, 0
    frozen = value.freeze()
    try:
        while True:
            cursor, payload = value.part_of(frozen, cursor, PIECE_BYTES)
            total = 0 if cursor else sent + len(payload)
            yield kind, total, sent, payload
            if not cursor:
                return
            sent += len(payload)
    finally:
        if frozen is not None:
            value.thaw(frozen)


# --- receiving ---------------------------------------------------------------------------------


def receive(space: JobSpace, fields: list[bytes]) -> tuple[Database, bytes] | None:
    """Take one piece; where the value is that is whole with it, or a large one that has begun.

    Raises:
        CommandError: It does not follow what came before, makes no value, or finds no room.
        NotResident: What it changes cannot be had without waiting; nothing has changed then.
    """
    key, piece = fields[1], fields[6]
    kind, due_ms, total, offset = [parse_int(field) for field in fields[2:6]]
    db = space.database(parse_int(fields[0]))
    if kind == DELETE or 0 < due_ms <= db.clock.now_ms:
        # If its time has come, it came on the way.
        _forget(db, key)
        return None
    if kind in (EXPIRE, MARK, CHANGE):
        _amend(db, key, kind, due_ms, piece)
        return None
    if kind in _STRINGS:
        keyspace = space.keyspace
        if total >= limits.EXTENT_BYTES_MIN and keyspace.keeps_large:
            receive_large(db, key, offset, piece)
            if offset:
                return None
        else:
            whole = _string(space, (db.index, key), total, offset, piece)
            if whole is None:
                return None
            db.put(key, whole if kind == STRING else bytearray(whole))
    else:
        made = _collection(space, (db.index, key), kind, total, offset, piece)
        if made is None:
            return None
        db.put(key, made)
    if due_ms:
        db.set_expiry(key, due_ms)
    return db, key


def receive_large(db: Database, key: bytes, offset: int, data: bytes | LargeString) -> None:
    """Take a part of a large string to where it is to stay; from offset 0 on it is a new one.

    Raises:
        CommandError: It does not follow what came before, or finds no room.
        NotResident: As `receive`.
    """
    space = db.space
    if not space.keyspace.keeps_large:
        begun = b"" if offset == 0 else db.lookup(key)
        if not isinstance(begun, bytes) or len(begun) < offset:
            raise CommandError(_OUT_OF_ORDER)
        db.put(key, begun[:offset] + bytes(data))
        return
    if offset == 0:
        if isinstance(data, LargeString):
            db.put(key, data)
            return
        string = space.keyspace.new_string(space.job_id)
        assert string is not None  # The caller has looked.
        string.write(0, data)
        db.put(key, string)
        return
    value = db.lookup(key)
    if not isinstance(value, LargeString) or len(value) < offset:
        raise CommandError(_OUT_OF_ORDER)
    cost_bytes = value.size_bytes
    try:
        value.write(offset, data)
    finally:
        db.modified(key, value.size_bytes - cost_bytes)


def _forget(db: Database, key: bytes) -> None:
    db.space.adopting.pop((db.index, key), None)
    db.remove(key)


def _amend(db: Database, key: bytes, kind: int, due_ms: int, piece: bytes) -> None:
    """Take what is to be changed of a key that came before."""
    if kind == MARK:
        db.mark(key)
    elif kind == EXPIRE:
        if due_ms and key in db:
            db.set_expiry(key, due_ms)
        else:
            db.persist(key)
    else:
        value = db.lookup(key)
        if not isinstance(value, Collection):
            raise CommandError(_OUT_OF_ORDER)
        cost_bytes = value.size_bytes
        try:
            for change in unpack(piece):
                value.apply_change(change)
        except PayloadError as error:
            raise CommandError(_NOT_A_VALUE) from error
        finally:
            db.modified(key, value.size_bytes - cost_bytes)
        if due_ms:
            db.set_expiry(key, due_ms)
        else:
            db.persist(key)


def _string(
    space: JobSpace, place: tuple[int, bytes], total: int, offset: int, piece: bytes
) -> bytes | None:
    """What pieces of a string make that is held in memory, once all are there."""
    adopting = space.adopting
    if offset == 0:
        if len(piece) == total:
            adopting.pop(place, None)
            return piece
        adopting[place] = bytearray()
    held = adopting.get(place)
    if not isinstance(held, bytearray) or len(held) != offset or offset + len(piece) > total:
        raise CommandError(_OUT_OF_ORDER)
    held += piece
    if len(held) < total:
        return None
    del adopting[place]
    return bytes(held)


def _collection(
    space: JobSpace, place: tuple[int, bytes], kind: int, total: int, offset: int, piece: bytes
) -> Collection | None:
    """What pieces of a collection make, once all are there."""
    adopting = space.adopting
    held = adopting.pop(place, None)
    try:
        if offset == 0:
            made = collection(kind, piece)
        elif isinstance(held, tuple) and held[1] == offset and code_of(held[0]) == kind:
            made = held[0]
            made.add_part(piece)
        else:
            raise CommandError(_OUT_OF_ORDER)
    except PayloadError as error:
        raise CommandError(_NOT_A_VALUE) from error
    if total == offset + len(piece):
        return made
    adopting[place] = (made, offset + len(piece))
    return None
