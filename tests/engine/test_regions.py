"""Which regions of memory are left, and how objects get out of them."""

from __future__ import annotations

import random
import sys
from array import array
from typing import Any

import pytest

from pocketkv.engine import regions
from pocketkv.engine.regions import REGION_BYTES, REGION_SHIFT, Evacuation, Survey
from pocketkv.engine.sizes import allocated_bytes, dict_bytes
from pocketkv.serving.memory import CPythonAddresses

ADDRESSES = CPythonAddresses()


def region_of(item: object) -> int:
    return id(item) >> regions.REGION_SHIFT


def fresh_bytes(count: int, size: int) -> list[bytes]:
    return [bytes(bytearray(size)) for _ in range(count)]


# --- what things take --------------------------------------------------------------------------


def test_dict_bytes_is_what_python_says() -> None:
    for entries in [*range(1500), 10922, 10923, 21845, 21846, 43690, 43691]:
        table: dict[bytes, None] = {}
        table.update(dict.fromkeys(b"%d" % i for i in range(entries)))
        assert dict_bytes(entries) == sys.getsizeof(table), entries


def test_allocated_bytes() -> None:
    assert [allocated_bytes(size) for size in (1, 16, 17, 512)] == [16, 16, 32, 512]
    # The C library keeps 8 bytes beside a block.
    assert [allocated_bytes(size) for size in (520, 521, 1000)] == [528, 544, 1008]


def test_addresses_are_those_of_the_entries_and_the_items() -> None:
    many = dict.fromkeys(range(1000))
    assert ADDRESSES.of_entries(many) != id(many)
    address = ADDRESSES.of_entries(many)
    many[0] = None
    assert ADDRESSES.of_entries(many) == address
    items = list(range(1000))
    assert ADDRESSES.of_items(items) not in (0, id(items))
    assert ADDRESSES.of_items([]) == 0


# --- choosing ----------------------------------------------------------------------------------


def chosen(
    small: dict[int, float],
    large: dict[int, float] | None = None,
    lasting: frozenset[int] = frozenset(),
) -> list[int]:
    """The regions that are left if so much of each is in use."""
    survey = Survey(ADDRESSES, lasting)
    survey.small = {region: int(part * REGION_BYTES) for region, part in small.items()}
    survey.large = {region: int(part * REGION_BYTES) for region, part in (large or {}).items()}
    return survey.sparse_regions()


def test_objects_are_counted_where_they_lie() -> None:
    survey = Survey(ADDRESSES, frozenset())
    small, large = b"x" * 100, b"x" * 1000
    survey.count_bytes(small, 3)
    survey.count_bytes(large, 1)
    survey.count(small, 40, 1)
    assert survey.small == {region_of(small): 3 * 144 + 48}
    assert survey.large == {region_of(large): 1056}
    assert survey.counted == 3


def test_a_dict_is_counted_as_it_will_be() -> None:
    survey = Survey(ADDRESSES, frozenset())
    table = dict.fromkeys(range(1000))
    for i in range(100, 1000):
        del table[i]
    survey.count_dict(table, 1)
    assert survey.small == {region_of(table): 64}
    entries_region = ADDRESSES.of_entries(table) >> REGION_SHIFT
    assert survey.large == {entries_region: allocated_bytes(dict_bytes(100) - 64)}


def test_the_sparsest_are_left_as_far_as_the_others_have_room() -> None:
    assert chosen({1: 0.1, 2: 0.9, 3: 0.1, 4: 0.8}) == [1, 3]
    assert chosen(dict.fromkeys(range(100), 0.5)) == list(range(50))
    assert chosen(dict.fromkeys(range(100), 0.75)) == list(range(25))


def test_of_the_heap_the_end_is_left() -> None:
    assert chosen({}, dict.fromkeys(range(100), 0.5)) == list(range(99, 49, -1))


def test_what_is_dense_stays() -> None:
    assert chosen(dict.fromkeys(range(100), 0.95)) == []


def test_a_small_gain_is_none() -> None:
    assert chosen({**dict.fromkeys(range(100), 0.97), 100: 0.1}) == []


def test_where_the_program_lies_is_never_left() -> None:
    used = dict.fromkeys(range(10), 0.25)
    assert 3 in chosen(used)
    assert 3 not in chosen(used, lasting=frozenset({3}))
    assert region_of(test_where_the_program_lies_is_never_left) in regions.lasting_regions()


# --- moving ------------------------------------------------------------------------------------


@pytest.fixture
def evacuation(monkeypatch: pytest.MonkeyPatch) -> Evacuation:
    """Every second region of 256 bytes is left, of those that there are."""
    monkeypatch.setattr(regions, "REGION_SHIFT", 8)
    left = {region_of(item) for size in (20, 100, 600) for item in fresh_bytes(500, size)}
    evacuation = Evacuation([region for region in left if region % 2], ADDRESSES)
    evacuation.attempts = 1_000_000
    return evacuation


@pytest.mark.parametrize("size", [1, 20, 100, 600, 5000])
def test_moved_bytes_are_equal_and_elsewhere(evacuation: Evacuation, size: int) -> None:
    data = random.Random(size).randbytes(size)
    for _ in range(200):
        moved = evacuation.move_bytes(data)
        assert moved == data
        assert moved is not data
        assert not evacuation.concerns(moved)
    assert evacuation.moved_objects == 200


def test_of_some_objects_there_is_one_only(evacuation: Evacuation) -> None:
    evacuation.held[region_of(b"")] = []
    evacuation.held[region_of(5)] = []
    assert evacuation.move_bytes(b"") == b""
    assert evacuation.move_int(5) == 5


def test_numbers_lists_and_arrays(evacuation: Evacuation) -> None:
    for number in (1 << 40, 1_700_000_000_000):
        moved = evacuation.move_int(number)
        assert moved == number
        assert not evacuation.concerns(moved)
    for length in (0, 1, 5, 100, 1000):
        items = [b"%d" % i for i in range(length)]
        moved_items = evacuation.move_list(items)
        assert moved_items == items
        assert not evacuation.concerns_list(moved_items)
        numbers = array("q", range(length))
        moved_numbers = evacuation.move_array(numbers)
        assert moved_numbers == numbers
        assert not evacuation.concerns(moved_numbers)


def test_dicts_get_the_room_that_they_need(evacuation: Evacuation) -> None:
    for length in (0, 1, 5, 6, 100, 1000):
        table = {b"%d" % i: i for i in range(4 * length)}
        for i in range(length, 4 * length):
            del table[b"%d" % i]
        # A dict of a few entries has no more room than it must.
        assert evacuation.concerns_dict(table) or length < 5
        moved = evacuation.move_dict(table)
        assert moved == table
        assert list(moved) == list(table)
        assert sys.getsizeof(moved) == dict_bytes(length)
        assert not evacuation.concerns_dict(moved)


@pytest.mark.parametrize("name", ["move_bytes", "move_int", "move_list", "move_array", "move_dict"])
def test_attempts_are_used_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    items: dict[str, Any] = {
        "move_bytes": b"x" * 100,
        "move_int": 1 << 40,
        "move_list": [1] * 20,
        "move_array": array("q", range(100)),
        "move_dict": dict.fromkeys(range(50)),
    }
    evacuation = Evacuation([], ADDRESSES)

    class Everywhere(dict[int, list[object]]):
        def get(self, region: int, default: Any = None) -> list[object]:
            return self.setdefault(region, [])

        def __contains__(self, region: object) -> bool:
            return True

    # No place will do: everything that is offered is kept.
    monkeypatch.setattr(evacuation, "held", Everywhere())
    evacuation.attempts = 50
    assert getattr(evacuation, name)(items[name]) is None
    assert evacuation.attempts <= 0
    assert sum(map(len, evacuation.held.values())) >= 10
    monkeypatch.setattr(evacuation, "held", {})
    evacuation.attempts = 1000
    assert getattr(evacuation, name)(items[name]) == items[name]


def test_what_was_held_is_freed_in_parts_from_the_end_on() -> None:
    evacuation = Evacuation([7, 9, 8], ADDRESSES)
    for region in (7, 8, 9):
        evacuation.held[region] += fresh_bytes(10, 20)
    evacuation.attempts = 0
    seen = []
    while evacuation.release(4):
        seen.append({region: len(held) for region, held in evacuation.held.items()})
    assert seen[0] == {7: 10, 8: 10, 9: 6}
    assert {7: 10, 8: 10} in [{k: v for k, v in step.items() if k != 9} for step in seen]
    assert seen[-1].keys() == {7}
    assert not evacuation.held
