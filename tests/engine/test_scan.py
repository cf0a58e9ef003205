"""Cursors: what is there during the whole walk is met, whatever else happens."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.engine.scan import (
    POSITION_BITS,
    SCAN_END,
    ScanCache,
    position_of,
    scan_elements,
    scan_keys,
)
from pocketkv.slots import SLOT_COUNT, key_slot
from tests.engine.harness import OTHER_ADDRESS, Client, Engine
from tests.replies import Error


def walk(client: Client, *options: object, start: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Every step of a walk: the cursor that it returned and its keys."""
    cursor = start
    for _ in range(100_000):
        reply = client("SCAN", cursor, *options)
        cursor = int(reply[0])
        yield cursor, reply[1]
        if cursor in (0, SCAN_END):
            return
    pytest.fail("the walk has no end")


def walked(client: Client, *options: object) -> list[bytes]:
    """All keys of a walk."""
    return [key for _, keys in walk(client, *options) for key in keys]


# --- walking over elements ---------------------------------------------------------------------


def test_a_position_is_the_same_for_ever() -> None:
    assert position_of(b"") == 0
    assert position_of(b"key") == 0x8A90ABA9_0003
    assert position_of(b"a") != position_of(b"b")
    assert position_of(b"\xff" * 70_000) < 2**48


def test_few_elements_come_at_once() -> None:
    items = {b"a": 1, b"b": 2}
    cache = ScanCache()
    assert scan_elements(items, 0, 2, cache) == (0, [b"a", b"b"])
    assert not cache.orders
    assert scan_elements({}, 0, 1, cache) == (0, [])


def test_a_cursor_that_nobody_gave_is_taken() -> None:
    items = dict.fromkeys([b"%d" % i for i in range(100)])
    cache = ScanCache()
    assert scan_elements(items, 2**48, 10, cache) == (0, [])
    assert scan_elements(items, 2**64 - 1, 10, cache) == (0, [])
    cursor, found = scan_elements(items, 1, 10, cache)
    assert cursor > 0
    assert len(found) == 10


@given(
    elements=st.sets(st.binary(max_size=4), min_size=1, max_size=200),
    count=st.integers(1, 50),
    seed=st.integers(0, 2**32),
)
def test_what_stays_is_met_whatever_comes_and_goes(
    elements: set[bytes], count: int, seed: int
) -> None:
    dice = random.Random(seed)
    items = dict.fromkeys(elements)
    stay = {element for element in elements if dice.random() < 0.5}
    cache = ScanCache()
    met: set[bytes] = set()
    cursor = 0
    while True:
        cursor, found = scan_elements(items, cursor, count, cache)
        assert all(element in items for element in found)
        met.update(found)
        if cursor == 0:
            break
        for _ in range(5):
            element = dice.randbytes(2)
            if element not in stay:
                items[element] = None
        for element in list(items):
            if element not in stay and dice.random() < 0.2:
                del items[element]
        if dice.random() < 0.3:
            cache.orders.clear()
        if dice.random() < 0.2:
            # Somebody else's walk over the same elements begins.
            scan_elements(items, 0, 1, cache)
    assert stay <= met
    assert not cache.orders


def test_elements_of_one_position_are_not_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    items = dict.fromkeys([b"%d" % i for i in range(40)])
    monkeypatch.setattr("pocketkv.engine.scan.position_of", len)
    cursor, found = scan_elements(items, 0, 3, ScanCache())
    assert (cursor, len(found)) == (2, 10)
    assert len(scan_elements(items, cursor, 3, ScanCache())[1]) == 30


def test_kept_orders_are_few() -> None:
    cache = ScanCache()
    all_items = [
        dict.fromkeys([b"%d" % i for i in range(20)]) for _ in range(limits.SCAN_ORDERS_MAX + 5)
    ]
    for items in all_items:
        scan_elements(items, 0, 5, cache)
    assert len(cache.orders) == limits.SCAN_ORDERS_MAX
    assert id(all_items[0]) not in cache.orders
    assert id(all_items[-1]) in cache.orders


# --- walking over keys -------------------------------------------------------------------------


@pytest.fixture
def keys(client: Client) -> list[bytes]:
    """Keys in many slots, and many in one slot."""
    keys = [b"key:%d" % i for i in range(300)] + [b"{tag}%d" % i for i in range(300)]
    client("MSET", *[part for key in keys for part in (key, b"value")])
    return keys


@pytest.mark.parametrize("count", [1, 7, 10, 299, 5000])
def test_a_walk_meets_every_key_once(client: Client, keys: list[bytes], count: int) -> None:
    assert sorted(walked(client, "COUNT", count)) == sorted(keys)
    assert not client.db.scans.orders


def test_a_step_is_about_as_long_as_asked_for(client: Client, keys: list[bytes]) -> None:
    lengths = [len(found) for _, found in walk(client, "COUNT", 10)]
    assert max(lengths) <= 20
    assert min(lengths[:-1]) >= 10


def test_an_empty_database_is_walked_at_once(client: Client) -> None:
    assert client("SCAN", 0) == [b"0", []]
    assert client("SCAN", 2**64 - 1) == [b"0", []]
    assert client("SCAN", -1) == [b"0", []]


def test_keys_that_expired_are_not_met(engine: Engine, client: Client, keys: list[bytes]) -> None:
    for key in keys[::2]:
        client("PEXPIRE", key, 10)
    engine.advance(10)
    assert sorted(walked(client)) == sorted(keys[1::2])
    assert sorted(client("KEYS", "*")) == sorted(keys[1::2])
    assert client("DBSIZE") == len(keys)


def test_options_choose(client: Client, keys: list[bytes]) -> None:
    client("SADD", "set:{tag}", "member")
    assert walked(client, "TYPE", "SET", "COUNT", 5) == [b"set:{tag}"]
    assert walked(client, "MATCH", "set*") == [b"set:{tag}"]
    expected = sorted(key for key in keys if key.startswith(b"{tag}1"))
    assert sorted(walked(client, "match", "{tag}1*", "type", "string")) == expected
    assert walked(client, "TYPE", "zset") == []


def test_a_walk_goes_on_after_its_slot_is_gone(client: Client, keys: list[bytes]) -> None:
    steps = walk(client, "COUNT", 5)
    met: set[bytes] = set()
    for _, found in steps:
        met.update(found)
        if any(key.startswith(b"{tag}") for key in found):
            break
    client("DEL", *[key for key in keys if key.startswith(b"{tag}")])
    assert not client.db.scans.orders
    for _, found in steps:
        met.update(found)
    assert {key for key in keys if key.startswith(b"key:")} <= met


def test_a_walk_goes_on_at_another_server(keys: list[bytes], client: Client) -> None:
    # As after a move: the same keys, but no order is kept there.
    other = Engine().connect()
    other("MSET", *[part for key in keys for part in (key, b"value")])
    met: list[bytes] = []
    cursor = 0
    servers = itertools.cycle([client, other])
    while True:
        reply = next(servers)("SCAN", cursor, "COUNT", 7)
        cursor = int(reply[0])
        met += reply[1]
        if cursor == 0:
            break
    assert sorted(met) == sorted(keys)


def test_two_walks_at_once(client: Client, keys: list[bytes]) -> None:
    one, other = walk(client, "COUNT", 3), walk(client, "COUNT", 5)
    met: list[set[bytes]] = [set(), set()]
    for number, steps in enumerate(itertools.zip_longest(one, other)):
        for i, step in enumerate(steps):
            met[i].update(step[1] if step else ())
        client("SET", b"{tag}new%d" % number, "value")
    assert set(keys) <= met[0]
    assert set(keys) <= met[1]


# --- a part of the slots -----------------------------------------------------------------------

OWNED = [(1000, 4999), (9000, 9999)]


def is_owned(key: bytes) -> bool:
    return any(first <= key_slot(key) <= last for first, last in OWNED)


@pytest.fixture
def owned_keys(engine: Engine, client: Client) -> list[bytes]:
    """The keys of the slots that are served here; keys of others are in memory too."""
    keys = [b"key:%d" % i for i in range(500)]
    client("MSET", *[part for key in keys for part in (key, b"value")])
    engine.own_only(OWNED)
    return sorted(key for key in keys if is_owned(key))


def test_a_client_walks_over_the_slots_that_are_here(
    client: Client, owned_keys: list[bytes]
) -> None:
    assert 0 < len(owned_keys) < 500
    assert sorted(walked(client, "COUNT", 3)) == owned_keys
    assert sorted(walked(client, "COUNT", 5000)) == owned_keys


def test_all_keys_are_those_that_are_here(client: Client, owned_keys: list[bytes]) -> None:
    assert sorted(client("KEYS", "*")) == owned_keys
    assert client("DBSIZE") == len(owned_keys)
    assert {client("RANDOMKEY") for _ in range(200)} <= set(owned_keys)


def test_no_slot_here_means_no_key(engine: Engine, client: Client) -> None:
    client("SET", "key", "1")
    engine.own_only([])
    assert client("RANDOMKEY") is None
    assert client("KEYS", "*") == []
    assert client("DBSIZE") == 0
    assert client("SCAN", 0) == [b"0", []]


def test_a_router_is_told_where_to_go_on(engine: Engine, owned_keys: list[bytes]) -> None:
    router = engine.connect(proxied=True)
    assert router("SCAN", 0) == Error(f"MOVED 0 {OTHER_ADDRESS}")
    assert router("SCAN", 5000 << POSITION_BITS) == Error(f"MOVED 5000 {OTHER_ADDRESS}")
    met = []
    for first, last in OWNED:
        cursor = first << POSITION_BITS
        while cursor != (last + 1) << POSITION_BITS:
            reply = router("SCAN", cursor, "COUNT", 3)
            assert cursor < int(reply[0]) <= (last + 1) << POSITION_BITS
            cursor = int(reply[0])
            met += reply[1]
    assert sorted(met) == owned_keys


def test_a_router_goes_on_within_a_slot(engine: Engine, client: Client) -> None:
    keys = [b"{tag}%d" % i for i in range(100)]
    client("MSET", *[part for key in keys for part in (key, b"value")])
    slot = key_slot(b"tag")
    engine.own_only([(slot, slot)])
    router = engine.connect(proxied=True)
    met = []
    cursor = slot << POSITION_BITS
    steps = 0
    while cursor >> POSITION_BITS == slot:
        reply = router("SCAN", cursor, "COUNT", 10)
        cursor = int(reply[0])
        met += reply[1]
        steps += 1
    assert cursor == (slot + 1) << POSITION_BITS
    assert sorted(met) == sorted(keys)
    assert steps == 10


def test_a_router_learns_the_end(engine: Engine, client: Client, keys: list[bytes]) -> None:
    router = engine.connect(proxied=True)
    cursors = [cursor for cursor, _ in walk(router, "COUNT", 50)]
    assert cursors[-1] == SCAN_END == SLOT_COUNT << POSITION_BITS
    assert 0 not in cursors
    assert router("SCAN", SCAN_END) == [b"%d" % SCAN_END, []]


def test_a_step_without_options(client: Client, keys: list[bytes]) -> None:
    cursor, found = scan_keys(client.db, 0, 1, proxied=False)
    assert cursor > 0
    assert len(found) >= 1
