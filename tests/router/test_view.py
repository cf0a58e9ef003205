"""A job's map as the router uses it."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.errors import CommandError
from pocketkv.placement import PlacementMap, assign_slots
from pocketkv.router.upstream import Upstream
from pocketkv.router.view import JobView
from pocketkv.slots import SLOT_COUNT

REASON = b"CLUSTERDOWN why"


def upstream(server_id: str) -> Upstream:
    return Upstream(cast(Any, None), server_id, "127.0.0.1", 7000)


def placed(weights: dict[str, float]) -> PlacementMap:
    return PlacementMap(
        job_id="j",
        epoch=1,
        ranges=assign_slots(weights, None) if weights else (),
        quotas=dict.fromkeys(weights),
        weights=weights,
    )


def make_view(weights: dict[str, float]) -> tuple[JobView, PlacementMap, dict[str, Upstream]]:
    upstreams = {name: upstream(name) for name in weights}
    placement = placed(weights)
    return JobView(placement, upstreams, REASON), placement, upstreams


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 10), min_size=1))
def test_finds_the_owner_that_the_map_tells(weights: dict[str, float]) -> None:
    view, placement, upstreams = make_view(weights)
    for slot in (0, 1, SLOT_COUNT - 1, *random.Random(0).sample(range(SLOT_COUNT), 50)):
        owner = placement.owner(slot)
        assert owner is not None
        assert view.owner(slot) is upstreams[owner]
    assert view.all_owners() == [upstreams[name] for name in placement.owners()]
    assert view.agrees(placement, upstreams)


def test_keys_of_several_owners_have_no_common_one() -> None:
    view, _, upstreams = make_view({"a": 1, "b": 1})
    assert view.common_owner([0, 1, 2]) is upstreams["a"]
    assert view.common_owner([]) is upstreams["a"]
    with pytest.raises(CommandError) as caught:
        view.common_owner([0, SLOT_COUNT - 1])
    assert caught.value.text.startswith(b"CROSSSLOT")


@pytest.mark.parametrize("placement", [None, placed({})])
def test_says_why_nobody_owns_a_slot(placement: PlacementMap | None) -> None:
    view = JobView(placement, {}, REASON)
    for ask in (lambda: view.owner(5), view.all_owners, lambda: view.common_owner([1])):
        with pytest.raises(CommandError) as caught:
            ask()
        assert caught.value.text == REASON


def test_a_server_that_is_not_known_takes_only_its_own_slots_with_it() -> None:
    upstreams = {"a": upstream("a")}
    view = JobView(placed({"a": 1, "b": 1}), upstreams, REASON)
    assert view.owner(0) is upstreams["a"]
    with pytest.raises(CommandError):
        view.owner(SLOT_COUNT - 1)
    with pytest.raises(CommandError):
        view.all_owners()


def test_draws_each_server_once_by_its_share() -> None:
    view, _, upstreams = make_view({"a": 3, "b": 1})
    randomness = random.Random(7)
    draws = [view.shuffled_owners(randomness) for _ in range(2000)]
    assert all(sorted(u.id for u in draw) == ["a", "b"] for draw in draws)
    firsts = sum(draw[-1] is upstreams["a"] for draw in draws)
    assert 1400 < firsts < 1600


def test_disagrees_with_another_map_or_address() -> None:
    view, placement, upstreams = make_view({"a": 1, "b": 1})
    assert not view.agrees(placed({"a": 1, "b": 1}), upstreams)
    assert not view.agrees(placement, {**upstreams, "b": upstream("b")})
    assert not view.agrees(None, upstreams)
