from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketkv.placement import (
    PlacementError,
    PlacementMap,
    Server,
    ServerState,
    SlotMove,
    SlotRange,
    assign_slots,
    slot_counts,
)
from pocketkv.slots import SLOT_COUNT

server_ids = st.sampled_from([f"s{i}" for i in range(9)])
weights_of_anything = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 10**6)
small_weights = st.sampled_from([0, 0.5, 1, 1.5, 2, 7])
weights = st.dictionaries(server_ids, small_weights | weights_of_anything, min_size=1).filter(
    lambda given_ones: any(given_ones.values())
)


def map_of(ranges: Sequence[SlotRange], **fields: Any) -> PlacementMap:
    quotas = {r.server_id: None for r in ranges}
    defaults = {"job_id": "job-1", "epoch": 1, "quotas": quotas, "weights": {}}
    return PlacementMap(ranges=tuple(ranges), **{**defaults, **fields})


def owners_by_slot(ranges: Sequence[SlotRange]) -> list[str]:
    return [r.server_id for r in ranges for _ in range(r.start, r.end + 1)]


def owned(ranges: Sequence[SlotRange]) -> Counter[str]:
    return Counter(owners_by_slot(ranges))


def neighbours_differ(ranges: Sequence[SlotRange]) -> bool:
    return all(a.server_id != b.server_id for a, b in pairwise(ranges))


@st.composite
def maps(draw: st.DrawFn) -> PlacementMap:
    """A map with ranges anywhere, as many moves may have left it."""
    cuts = sorted(draw(st.sets(st.integers(1, SLOT_COUNT - 1), max_size=30)))
    starts = [0, *cuts]
    ends = [*(cut - 1 for cut in cuts), SLOT_COUNT - 1]
    names = draw(st.lists(server_ids, min_size=len(starts), max_size=len(starts)))
    ranges = [SlotRange(s, e, name) for s, e, name in zip(starts, ends, names, strict=True)]
    return map_of(ranges, weights=draw(weights), epoch=draw(st.integers(0, 2**63 - 1)))


@given(weights)
@example({"s0": 5e-324, "s1": 1.7976931348623157e308})
def test_counts_are_within_one_of_the_exact_share(given_weights: dict[str, float]) -> None:
    counts = slot_counts(given_weights)
    total = sum(map(Fraction, given_weights.values()))
    assert sum(counts.values()) == SLOT_COUNT
    assert counts.keys() == {name for name, weight in given_weights.items() if weight > 0}
    for name, count in counts.items():
        ideal = Fraction(given_weights[name]) * SLOT_COUNT / total
        assert abs(count - ideal) < 1


@given(weights, st.none() | maps())
def test_ranges_cover_every_slot_once_by_the_counts(
    given_weights: dict[str, float], previous: PlacementMap | None
) -> None:
    ranges = assign_slots(given_weights, previous)
    map_of(ranges)  # it would refuse a gap, an overlap or disorder
    assert neighbours_differ(ranges)
    held = owned(previous.ranges) if previous else Counter()
    assert owned(ranges) == {n: c for n, c in slot_counts(given_weights, held).items() if c}


@given(weights, maps())
def test_no_slot_moves_that_need_not(
    given_weights: dict[str, float], previous: PlacementMap
) -> None:
    before = owners_by_slot(previous.ranges)
    after = owners_by_slot(assign_slots(given_weights, previous))
    moved = sum(a != b for a, b in zip(before, after, strict=True))
    excess = Counter(before) - Counter(after)
    assert moved == excess.total()


@given(weights, st.dictionaries(server_ids, st.integers(0, 8000)))
def test_between_equal_remainders_the_counts_are_those_that_move_least(
    given_weights: dict[str, float], held: dict[str, int]
) -> None:
    counts = slot_counts(given_weights, held)
    total = sum(map(Fraction, given_weights.values()))
    exact = {n: Fraction(w) * SLOT_COUNT / total for n, w in given_weights.items() if w}
    floors = {n: int(share) for n, share in exact.items()}
    raised = [n for n in exact if counts[n] > floors[n]]
    least = min((exact[n] - floors[n] for n in raised), default=None)
    equal = [n for n in exact if exact[n] - floors[n] == least]
    favoured = sum(n in equal for n in raised)

    def given_up(chosen: Sequence[str]) -> int:
        return sum(max(0, held.get(n, 0) - floors[n] - (n in chosen)) for n in equal)

    best = min(map(given_up, combinations(equal, favoured)))
    assert given_up([n for n in raised if n in equal]) == best


@given(weights, maps())
def test_ranges_stay_few(given_weights: dict[str, float], previous: PlacementMap) -> None:
    ranges = assign_slots(given_weights, previous)
    changed = {r.server_id for r in [*ranges, *previous.ranges]}
    # One cut for a server that gives, one for a server that gets.
    assert len(ranges) <= len(previous.ranges) + len(changed)
    assert len(assign_slots(given_weights, None)) == sum(
        count > 0 for count in slot_counts(given_weights).values()
    )


@given(weights, st.none() | maps(), st.randoms(use_true_random=False))
def test_the_order_of_weights_does_not_matter(
    given_weights: dict[str, float], previous: PlacementMap | None, random: Any
) -> None:
    shuffled = list(given_weights.items())
    random.shuffle(shuffled)
    assert assign_slots(dict(shuffled), previous) == assign_slots(given_weights, previous)


@given(weights, maps())
def test_assigning_again_changes_nothing(
    given_weights: dict[str, float], previous: PlacementMap
) -> None:
    once = assign_slots(given_weights, previous)
    assert assign_slots(given_weights, map_of(once)) == once


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_joining_and_leaving_for_long_keeps_ranges_few(seed: int) -> None:
    random = Random(seed)
    servers = [f"s{i}" for i in range(8)]
    ranges: tuple[SlotRange, ...] = ()
    for step in range(300):
        if len(servers) < 16 and (len(servers) < 4 or random.random() < 0.5):
            servers.append(f"t{step}")
        else:
            servers.remove(random.choice(servers))
        ranges = assign_slots(dict.fromkeys(servers, 1), map_of(ranges))
        # A server that joins takes from each of the others: some n * n pieces may lie about.
        assert len(ranges) <= 16 * 16


def test_a_joining_server_gets_its_share_from_everybody() -> None:
    before = map_of(assign_slots({"a": 1, "b": 1}, None))
    after = assign_slots({"a": 1, "b": 1, "c": 1}, before)
    assert [(r.start, r.end, r.server_id) for r in before.ranges] == [
        (0, 8191, "a"),
        (8192, 16383, "b"),
    ]
    assert [(r.start, r.end, r.server_id) for r in after] == [
        (0, 5461, "a"),
        (5462, 10922, "c"),
        (10923, 16383, "b"),
    ]


def test_a_server_of_weight_zero_gives_everything() -> None:
    before = map_of(assign_slots({"a": 1, "b": 1, "c": 2}, None))
    after = map_of(assign_slots({"a": 1, "b": 1, "c": 0}, before))
    assert after.owners() == ("a", "b")
    # Its slots lie beside one server of the two: the other's get a range of their own.
    assert len(after.ranges) <= 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({}, "no server has a weight above 0"),
        ({"a": 0, "b": 0.0}, "no server has a weight above 0"),
        ({"a": -1}, "the weight of 'a' is not 0 or more"),
        ({"a": float("nan")}, "is not 0 or more"),
        ({"a": float("inf")}, "is not 0 or more"),
        ({"a": True}, "is not a number"),
        ({"a": "1"}, "is not a number"),
    ],
)
def test_weights_that_cannot_be(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(PlacementError, match=words):
        assign_slots(bad, None)


@given(maps(), st.integers(0, SLOT_COUNT - 1))
def test_the_owner_of_a_slot_is_that_of_its_range(placement: PlacementMap, slot: int) -> None:
    owner = placement.owner(slot)
    assert owner is not None
    assert owner in placement.owners()
    assert any(r.start <= slot <= r.end for r in placement.ranges_of(owner))
    assert sum(len(placement.ranges_of(o)) for o in placement.owners()) == len(placement.ranges)


def test_an_empty_map_has_no_owners() -> None:
    empty = PlacementMap("job-1", 0, (), {}, {})
    assert empty.owner(0) is None
    assert empty.owners() == ()
    assert empty.ranges_of("a") == ()
    assert PlacementMap.from_json(empty.as_json()) == empty


@given(maps())
def test_a_map_survives_json(placement: PlacementMap) -> None:
    assert PlacementMap.from_json(placement.as_json()) == placement
    text = json.dumps(placement.as_json())
    assert PlacementMap.from_json(text) == placement
    assert PlacementMap.from_json(text.encode()) == placement


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
map_fields = st.sampled_from(["job_id", "epoch", "ranges", "quotas", "weights", "more"])
server_fields = st.sampled_from(
    ["id", "tier", "host", "port", "machine", "capacity_bytes", "bandwidth_bytes_s", "state"]
)


@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_garbage_is_a_placement_error(text: str | bytes) -> None:
    for record in (PlacementMap, Server):
        with pytest.raises(PlacementError):
            record.from_json(text)


@given(maps(), st.dictionaries(map_fields, json_values, min_size=1))
def test_a_spoilt_map_is_a_map_or_a_placement_error(
    placement: PlacementMap, spoilt: dict[str, Any]
) -> None:
    try:
        again = PlacementMap.from_json(json.dumps({**placement.as_json(), **spoilt}))
    except PlacementError:
        return
    assert owned(again.ranges).total() in {0, SLOT_COUNT}


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([(0, 16382, "a")], "end at slot 16382, not 16383"),
        ([(1, 16383, "a")], "not covered once and in order at 1-16383"),
        ([(0, 10, "a"), (12, 16383, "b")], "not covered once and in order at 12"),
        ([(0, 10, "a"), (10, 16383, "b")], "not covered once and in order at 10"),
        ([(11, 16383, "b"), (0, 10, "a")], "not covered once and in order at 11"),
        ([(0, 16384, "a")], "end at slot 16384"),
        ([(0, 10, "a"), (11, 10, "b"), (11, 16383, "a")], "not covered once"),
        ([(0, 16383, "")], "owner of a range is not a text"),
        ([(0, 16383.0, "a")], "not whole numbers"),
        ([(False, 16383, "a")], "not whole numbers"),
        ([(0, 16383)], "not a map"),
    ],
)
def test_ranges_that_cannot_be(ranges: list[Any], words: str) -> None:
    document = {"job_id": "j", "epoch": 1, "quotas": {"a": None, "b": 1}, "weights": {}}
    with pytest.raises(PlacementError, match=words):
        PlacementMap.from_json({**document, "ranges": ranges})


def test_every_owner_has_a_quota() -> None:
    with pytest.raises(PlacementError, match="'a' owns slots and has no quota"):
        map_of([SlotRange(0, SLOT_COUNT - 1, "a")], quotas={"b": 1})
    with pytest.raises(PlacementError, match="the quota on 'a' is not 0 or more"):
        map_of([SlotRange(0, SLOT_COUNT - 1, "a")], quotas={"a": -1})


def test_what_is_missing_in_a_map_is_named() -> None:
    with pytest.raises(PlacementError, match="no 'ranges'"):
        PlacementMap.from_json({"job_id": "j"})


SERVER = Server(
    id="s1",
    tier="dram",
    host="10.0.0.1",
    port=7380,
    machine="m1",
    capacity_bytes=10**9,
    bandwidth_bytes_s=10**8,
)


@given(st.sampled_from(ServerState), st.none() | st.just("kv.example"), st.integers(1, 65535))
def test_a_server_survives_json(state: ServerState, advertise_host: str | None, port: int) -> None:
    server = replace(SERVER, state=state, advertise_host=advertise_host, port=port)
    assert Server.from_json(json.dumps(server.as_json())) == server
    assert server.public_address == (advertise_host or "10.0.0.1", port)


@given(st.dictionaries(server_fields, json_values, min_size=1))
def test_a_spoilt_server_is_a_server_or_a_placement_error(spoilt: dict[str, Any]) -> None:
    try:
        server = Server.from_json(json.dumps({**SERVER.as_json(), **spoilt}))
    except PlacementError:
        return
    assert Server.from_json(server.as_json()) == server


@pytest.mark.parametrize(
    "spoilt",
    [
        {"tier": "tape"},
        {"port": 0},
        {"port": True},
        {"state": "asleep"},
        {"capacity_bytes": -1},
        {"advertise_host": ""},
        {"colour": "red"},
    ],
)
def test_a_server_that_cannot_be(spoilt: dict[str, Any]) -> None:
    with pytest.raises(PlacementError):
        Server.from_json({**SERVER.as_json(), **spoilt})


@st.composite
def maps_with_moves(draw: st.DrawFn) -> PlacementMap:
    """A map that orders some of its slots to other servers, in pieces of its ranges."""
    placement = draw(maps())
    moves = []
    for r in draw(st.lists(st.sampled_from(placement.ranges), max_size=6, unique=True)):
        start = draw(st.integers(r.start, r.end))
        end = draw(st.integers(start, r.end))
        target = draw(st.sampled_from([f"s{i}" for i in range(9) if f"s{i}" != r.server_id]))
        moves.append(SlotMove(f"1-{start}", start, end, r.server_id, target))
    quotas = dict(placement.quotas) | {move.target: 10 for move in moves}
    return replace(placement, moves=tuple(moves), quotas=quotas)


@given(maps_with_moves(), st.randoms(use_true_random=False))
def test_flips_give_their_slots_to_the_target_in_any_order(
    placement: PlacementMap, random: Random
) -> None:
    order = [move.id for move in placement.moves]
    random.shuffle(order)
    flipped = placement
    for move_id in order:
        flipped = flipped.with_flips([move_id])
    assert flipped == placement.with_flips(order)
    assert not flipped.moves
    assert flipped.flips == frozenset(order)
    expected = owners_by_slot(placement.ranges)
    for move in placement.moves:
        expected[move.start : move.end + 1] = [move.target] * len(move)
    assert owners_by_slot(flipped.ranges) == expected
    assert not order or neighbours_differ(flipped.ranges)


@given(maps_with_moves())
def test_a_map_with_moves_survives_json(placement: PlacementMap) -> None:
    half = placement.with_flips(move.id for move in placement.moves[::2])
    assert PlacementMap.from_json(json.dumps(half.as_json())) == half


def test_a_flip_of_what_is_not_ordered_changes_nothing() -> None:
    placement = map_of([SlotRange(0, SLOT_COUNT - 1, "s0")])
    assert placement.with_flips(["1-0"]) is placement


@pytest.mark.parametrize(
    "moves",
    [
        [SlotMove("a", 0, 9, "s0", "s0")],
        [SlotMove("a", 0, 9, "s1", "s0")],
        [SlotMove("a", 0, 9, "s0", "s9")],
        [SlotMove("a", 9, 0, "s0", "s1")],
        [SlotMove("a", 0, SLOT_COUNT, "s0", "s1")],
        [SlotMove("a", 0, 8192, "s0", "s1")],
        [SlotMove("a", 0, 9, "s0", "s1"), SlotMove("a", 20, 29, "s0", "s1")],
        [SlotMove("a", 0, 9, "s0", "s1"), SlotMove("b", 9, 29, "s0", "s1")],
    ],
)
def test_moves_that_cannot_be_are_refused(moves: list[SlotMove]) -> None:
    ranges = [SlotRange(0, 8191, "s0"), SlotRange(8192, SLOT_COUNT - 1, "s1")]
    with pytest.raises(PlacementError):
        map_of(ranges, moves=tuple(moves))
