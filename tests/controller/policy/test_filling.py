from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from pocketkv.controller.policy.filling import in_proportion, levelled, whole_slots
from pocketkv.slots import SLOT_COUNT

names = st.text("abcdefgh", min_size=1, max_size=2)


@given(st.dictionaries(names, st.floats(0, 1)))
def test_slots_are_what_the_shares_come_to_rounded_down_unless_one_would_lack(
    limits: dict[str, float],
) -> None:
    slots = whole_slots(limits)
    assert slots.keys() == limits.keys()
    for name, count in slots.items():
        assert abs(count - limits[name] * SLOT_COUNT) < 1.001
    exact = sum(Fraction(limit) for limit in limits.values()) * SLOT_COUNT
    assert sum(slots.values()) >= min(SLOT_COUNT, exact) - 1
    if sum(slots.values()) > SLOT_COUNT:
        # More than enough: none needed to be rounded up.
        assert all(n <= limits[name] * SLOT_COUNT + 0.001 for name, n in slots.items())


@given(st.integers(1, 60))
def test_servers_that_just_fit_have_all_slots(parts: int) -> None:
    slots = whole_slots({f"s{i}": 1 / parts for i in range(parts)})
    assert sum(slots.values()) == SLOT_COUNT


@given(st.dictionaries(names, st.tuples(st.integers(0, 3000), st.integers(0, SLOT_COUNT))))
def test_levels_are_even_within_their_bounds(
    drawn: dict[str, tuple[int, int]],
) -> None:
    bounds = {name: (low, low + more) for name, (low, more) in drawn.items()}
    while sum(low for low, _ in bounds.values()) > SLOT_COUNT:
        bounds.popitem()
    bounds["z"] = (0, SLOT_COUNT)
    slots = levelled(bounds)
    assert sum(slots.values()) == SLOT_COUNT
    counts = {name: slots.get(name, 0) for name in bounds}
    assert all(low <= counts[name] <= high for name, (low, high) in bounds.items())
    # Nobody who could give has more than one above anybody who could take.
    givers = [counts[name] for name, (low, _) in bounds.items() if counts[name] > low]
    takers = [counts[name] for name, (_, high) in bounds.items() if counts[name] < high]
    assert max(givers, default=0) <= min(takers, default=SLOT_COUNT) + 1


@given(st.integers(0, SLOT_COUNT), st.dictionaries(names, st.floats(0, 1), min_size=1))
def test_proportions_are_kept_to_a_slot(count: int, shares: dict[str, float]) -> None:
    shares["z"] = 0.5
    slots = in_proportion(count, shares)
    total = sum(shares.values())
    assert sum(slots.values()) == count
    assert all(abs(n - count * shares[name] / total) < 1.001 for name, n in slots.items())
    assert slots == in_proportion(count, dict(reversed(shares.items())))
