"""A schedule is its seed's, and leaves nothing out."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import Kind, schedule


@given(st.integers(0, 2**32), st.sets(st.sampled_from(Kind), min_size=1))
def test_a_seed_gives_the_same_schedule_again(seed: int, kinds: set[Kind]) -> None:
    steps = schedule(seed, 120, frozenset(kinds))
    assert steps == schedule(seed, 120, frozenset(kinds))
    assert {step.kind for step in steps} == kinds
    times_s = [step.at_s for step in steps]
    assert times_s == sorted(times_s)
    assert times_s[0] >= 0
    assert times_s[-1] < 120
    assert all(0 <= step.dice < 1 for step in steps)


@given(st.integers(0, 2**32))
def test_only_what_stands_still_lasts_and_never_as_long_as_a_server_may_be_silent(
    seed: int,
) -> None:
    for step in schedule(seed, 60):
        assert bool(step.lasts_s) == step.kind.name.startswith("PAUSE")
        if step.kind is Kind.PAUSE_SERVER:
            assert step.lasts_s < 2


def test_another_seed_gives_another_schedule() -> None:
    assert schedule(1, 60) != schedule(2, 60)
    # It does not draw from anybody else's dice.
    random.seed(1)
    before = random.random()
    random.seed(1)
    schedule(1, 60)
    assert random.random() == before
