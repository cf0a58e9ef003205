"""Random commands on sets."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies, Leniency, any_order
from tests.oracle.generate import (
    INT64_MAX,
    INT64_MIN,
    Requests,
    any_case,
    bad_numbers,
    joined,
    keys,
    mutated,
    numbers,
    options,
    request,
    values,
)

key_lists = st.lists(keys, min_size=1, max_size=3)
small_integers = st.integers(-3, 12).map(lambda number: b"%d" % number)
# Small integers often, so that sets overlap; what only looks like an integer, and what is none.
members = st.one_of(small_integers, small_integers, numbers, bad_numbers, values)
member_lists = st.lists(members, min_size=1, max_size=6)
integer_lists = st.lists(small_integers, min_size=1, max_size=8)
# About as many as an intset may have.
many_integers = st.sampled_from([511, 512, 513, 600]).map(
    lambda count: [b"%d" % number for number in range(count)]
)
many_texts = st.sampled_from([130, 1000]).map(
    lambda count: [b"member:%d" % number for number in range(count)]
)
# All members, so that which ones is not left to chance.
whole_counts = st.sampled_from([b"5000", b"%d" % INT64_MAX])
bad_counts = st.one_of(bad_numbers, st.sampled_from([b"0", b"-1", b"%d" % INT64_MIN]))
limits = options(
    request(any_case(b"LIMIT"), st.one_of(numbers, bad_numbers)), request(b"no"), most=2
)
scan_options = options(
    request(any_case(b"MATCH"), st.sampled_from([b"*", b"1*", b"[0-9]", b"", b"member:*7"])),
    request(any_case(b"COUNT"), st.sampled_from([b"0", b"-1", b"x", b"5000"])),
    most=2,
)
numkeys = st.sampled_from([b"0", b"1", b"2", b"3", b"-1", b"x", b"%d" % INT64_MAX])
algebra = st.sampled_from([b"SINTER", b"SUNION", b"SDIFF"])
stores = st.sampled_from([b"SINTERSTORE", b"SUNIONSTORE", b"SDIFFSTORE"])

_WELL_FORMED: list[Requests] = [
    joined(request(b"SADD", keys), member_lists),
    joined(request(b"SADD", keys), member_lists),
    joined(request(b"SADD", keys), integer_lists),
    joined(request(b"SADD", keys), integer_lists),
    joined(request(b"SADD", keys), many_integers),
    joined(request(b"SADD", keys), many_texts),
    joined(request(b"SREM", keys), member_lists),
    joined(request(b"SREM", keys), integer_lists),
    joined(request(b"SREM", keys), many_texts),
    request(b"SMEMBERS", keys),
    request(b"SCARD", keys),
    request(b"SISMEMBER", keys, members),
    joined(request(b"SMISMEMBER", keys), member_lists),
    request(b"SMOVE", keys, keys, members),
    request(b"SPOP", keys, st.one_of(whole_counts, bad_counts)),
    request(b"SRANDMEMBER", keys),
    request(b"SRANDMEMBER", keys, st.one_of(whole_counts, bad_counts)),
    request(b"SRANDMEMBER", keys, st.integers(-20, 20).map(lambda count: b"%d" % count)),
    joined(algebra.map(lambda name: [name]), key_lists),
    joined(stores.map(lambda name: [name]), request(keys), key_lists),
    joined(request(b"SINTERCARD", numkeys), key_lists, limits),
    joined(request(b"SSCAN", keys, b"0"), scan_options, request(b"COUNT", b"5000")),
    joined(request(b"SSCAN", keys, st.sampled_from([b"x", b"", b"1 ", b"9" * 20])), scan_options),
    request(b"OBJECT", b"ENCODING", keys),
    request(b"TYPE", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]


def _same_scan(request: list[bytes], ours: Any, theirs: Any) -> bool:
    if theirs[0] != b"0" or request[2] not in (b"0", b""):
        # A part of a large set: which part depends on the server.
        return isinstance(ours[1], list)
    return bool(ours[0] == theirs[0] and sorted(ours[1]) == sorted(theirs[1]))


def _as_many(request: list[bytes], ours: Any, theirs: Any) -> bool:
    """Members that are drawn: as many, and all of them if all are asked for."""
    if not isinstance(ours, list):
        return (ours is None) == (theirs is None)
    if len(request) == 3 and request[2] in {b"5000", b"%d" % INT64_MAX}:
        return any_order(request, ours, theirs)
    return len(ours) == len(theirs)


_NO_ORDER = "members come in no order"

LENIENCIES: Leniencies = {
    **{
        name: Leniency(_NO_ORDER, any_order)
        for name in (b"SMEMBERS", b"SPOP", b"SINTER", b"SUNION", b"SDIFF")
    },
    b"SRANDMEMBER": Leniency("any members are right", _as_many),
    b"SSCAN": Leniency(_NO_ORDER, _same_scan),
}
