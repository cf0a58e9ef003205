"""Merging raw replies: as if one server had answered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine.commands import Merge
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import OK, ErrorReply, Reply, SetReply
from pocketkv.router.merge import elements_of, merge_frames
from tests.replies import decode

REPLIES = st.recursive(
    st.none() | st.binary(max_size=40) | st.integers(-(2**63), 2**63 - 1) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)
PROTOCOLS = st.sampled_from([2, 3])


def frames(replies: list[Any], protocol: int = 2) -> list[bytes]:
    return [encode_reply(reply, protocol) for reply in replies]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9), PROTOCOLS)
def test_sums(numbers: list[int], protocol: int) -> None:
    merged = merge_frames(Merge.SUM, frames(numbers, protocol), [[] for _ in numbers])
    assert decode(merged) == sum(numbers)


@given(st.lists(st.lists(REPLIES, max_size=6), min_size=1, max_size=5), PROTOCOLS)
def test_concatenates(lists: list[list[Reply]], protocol: int) -> None:
    merged = merge_frames(Merge.CONCAT, frames(lists, protocol), [[] for _ in lists])
    assert merged == encode_reply([item for items in lists for item in items], protocol)


def test_concatenates_sets_as_a_set() -> None:
    parts = [encode_reply(SetReply([b"a"]), 3), encode_reply(SetReply([b"b", b"c"]), 3)]
    assert merge_frames(Merge.CONCAT, parts, [[], []]) == encode_reply(
        SetReply([b"a", b"b", b"c"]), 3
    )


@given(st.data(), PROTOCOLS)
def test_puts_elements_back_in_the_order_of_the_request(data: st.DataObject, protocol: int) -> None:
    whole: list[Reply] = data.draw(st.lists(REPLIES, min_size=1, max_size=12))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(whole), max_size=len(whole)))
    places = [[i for i, o in enumerate(owners) if o == owner] for owner in sorted(set(owners))]
    parts = frames([[whole[i] for i in group] for group in places], protocol)
    assert merge_frames(Merge.POSITIONS, parts, places) == encode_reply(whole, protocol)


def test_ok_is_ok_only_if_all_are() -> None:
    ok = encode_reply(OK, 2)
    assert merge_frames(Merge.OK, [ok, ok], [[], []]) == b"+OK\r\n"
    with pytest.raises(ProtocolError):
        merge_frames(Merge.OK, [ok, b"+QUEUED\r\n"], [[], []])


@pytest.mark.parametrize(
    ("kind", "parts", "places"),
    [
        (Merge.SUM, [b"$1\r\n1\r\n"], [[0]]),
        (Merge.CONCAT, [b"*0\r\n", b":1\r\n"], [[], []]),
        (Merge.CONCAT, [b"*-1\r\n"], [[]]),
        (Merge.POSITIONS, [b"*1\r\n:1\r\n"], [[0, 1]]),
        (Merge.POSITIONS, [b"*2\r\n:1\r\n:2\r\n"], [[0]]),
        (Merge.POSITIONS, [b"*2\r\n:1\r\n"], [[0, 1]]),
        (Merge.NONE, [b":1\r\n", b":2\r\n"], [[], []]),
    ],
)
def test_refuses_what_does_not_fit(
    kind: Merge, parts: list[bytes], places: list[list[int]]
) -> None:
    with pytest.raises(ProtocolError):
        merge_frames(kind, parts, places)


def test_elements_may_be_errors_and_nested() -> None:
    reply: list[Reply] = [ErrorReply(b"ERR no"), [b"a", [None]], {b"k": 1}]
    frame = encode_reply(reply, 3)
    assert [decode(e) for e in elements_of(frame)] == decode(frame)
