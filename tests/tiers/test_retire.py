"""What a server hands over of the keys that it retained: values of every kind, in pieces."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio

from pocketkv import limits
from pocketkv.engine.cold import CHANGED_STRING, FIRST_COLLECTION, LARGE, STRING
from pocketkv.engine.errors import CommandError
from pocketkv.engine.eviction import evict_some
from pocketkv.engine.extents import Extents
from pocketkv.engine.set_value import SetValue
from pocketkv.tiers.sending import pieces, whole_pieces
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium
from tests.engine.stores import MemoryStore

Piece = tuple[int, int, int, bytes]


def pieces_of(client: Client, key: bytes) -> list[Piece]:
    async def collect() -> list[Piece]:
        entry = client.db.find(key)
        assert entry is not None
        return [piece async for piece in pieces(client.db, key, entry)]

    return trio.run(collect)


def slow() -> Any:
    """A store that lets everybody wait for every read."""
    return Engine(store=MemoryStore(is_slow=True))


@pytest.mark.parametrize("make", [Engine, slow])
def test_small_values_are_one_piece(make: Any) -> None:
    client = make().connect()
    client("MSET", "a", "value", "empty", "")
    client("SET", "b", "val")
    client("APPEND", "b", "ue")
    assert pieces_of(client, b"a") == [(STRING, 5, 0, b"value")]
    assert pieces_of(client, b"empty") == [(STRING, 0, 0, b"")]
    assert pieces_of(client, b"b") == [(CHANGED_STRING, 5, 0, b"value")]


@pytest.mark.parametrize("make", [Engine, slow])
def test_collections_are_cut_and_stay_where_they_are(make: Any) -> None:
    engine = make()
    client = engine.connect()
    for start in range(0, 60_000, 1000):
        client("SADD", "set", *(b"a longer member %d" % n for n in range(start, start + 1000)))
    evict_some(engine.keyspace, limits.GIB, limits.GIB)
    entry = client.db.find_stored(b"set")
    found = pieces_of(client, b"set")
    assert client.db.find_stored(b"set") is entry
    assert len(found) > 1
    assert {(kind, len(piece) <= limits.MIB) for kind, _, _, piece in found} == {
        (FIRST_COLLECTION, True)
    }
    made = SetValue.of_payload(found[0][3])
    sent = len(found[0][3])
    for _, _, offset, piece in found[1:]:
        assert offset == sent
        made.add_part(piece)
        sent += len(piece)
    assert [total for _, total, _, _ in found] == [0] * (len(found) - 1) + [sent]
    assert len(made) == 60_000


def test_large_strings_are_read_piece_by_piece() -> None:
    client = Engine(extents=Extents(FakeMedium(2048, page_bytes=4096))).connect()
    value = os.urandom(2 * limits.MIB + 7)
    client("SET", "k", value)
    assert pieces_of(client, b"k") == [
        (LARGE, len(value), offset, value[offset : offset + limits.MIB])
        for offset in (0, limits.MIB, 2 * limits.MIB)
    ]


def test_what_cannot_be_read_is_told() -> None:
    engine = slow()
    client = engine.connect()
    client("SET", "a", "value")
    engine.keyspace.store.damaged.add(client.db.find_stored(b"a"))
    with pytest.raises(CommandError, match="damaged"):
        pieces_of(client, b"a")


@pytest.mark.parametrize("make", [Engine, slow])
def test_whole_pieces_make_the_payload_of_any_value(make: Any) -> None:
    """A store has them as one object, whose size is told first."""
    client = make().connect()
    client("SET", "string", bytes(900_000))
    client("APPEND", "changed", bytes(70_000))
    for start in range(0, 30_000, 1000):
        client("SADD", "set", *(b"a longer member %d" % n for n in range(start, start + 1000)))

    async def collect(key: bytes) -> list[Piece]:
        entry = client.db.find(key)
        assert entry is not None
        return [piece async for piece in whole_pieces(client.db, key, entry)]

    for key in (b"string", b"changed", b"set"):
        found = trio.run(collect, key)
        payload = b"".join(piece for _, _, _, piece in found)
        assert [offset for _, _, offset, _ in found] == list(range(0, len(payload), limits.MIB))
        assert {total for _, total, _, _ in found} == {len(payload)}
        if key == b"set":
            assert len(SetValue.of_payload(payload)) == 30_000
