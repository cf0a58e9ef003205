"""Random commands on hashes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies, Leniency, any_order
from tests.oracle.generate import (
    INT64_MAX,
    INT64_MIN,
    Requests,
    any_case,
    bad_floats,
    bad_numbers,
    floats,
    joined,
    keys,
    mutated,
    numbers,
    options,
    request,
    values,
)

# Few, so that requests meet; one is longer than a listpack takes.
fields = st.one_of(
    st.sampled_from([b"f", b"g", b"h", b"", b"1", b"-7", b"\x00\xff", b"f" * 64, b"f" * 65]),
    values,
)
field_lists = st.lists(fields, min_size=1, max_size=5)
short_values = st.sampled_from([b"", b"x", b"0", b"12", b"1.5", b"v" * 64, b"v" * 65])
pairs = st.lists(st.tuples(fields, st.one_of(short_values, short_values, values)), min_size=1)
pair_lists = pairs.map(lambda found: [part for pair in found[:6] for part in pair])
# About as many as a listpack may have.
many_pairs = st.sampled_from([511, 512, 513, 1000]).map(
    lambda count: [b"%s%d" % (kind, n) for n in range(count) for kind in (b"field:", b"")]
)
whole_counts = st.sampled_from([b"5000", b"%d" % (INT64_MAX // 2), b"%d" % INT64_MAX])
bad_counts = st.one_of(bad_numbers, st.sampled_from([b"0", b"%d" % INT64_MIN]))
with_values = st.sampled_from([[], [b"WITHVALUES"], [b"withvalues"], [b"WITHSCORES"]])
scan_options = options(
    request(any_case(b"MATCH"), st.sampled_from([b"*", b"f*", b"[0-9]", b"", b"field:*7"])),
    request(any_case(b"COUNT"), st.sampled_from([b"0", b"-1", b"x", b"5000"])),
    most=2,
)

_WELL_FORMED: list[Requests] = [
    joined(request(b"HSET", keys), pair_lists),
    joined(request(b"HSET", keys), pair_lists),
    joined(request(b"HSET", keys), pair_lists),
    joined(request(b"HSET", keys), many_pairs),
    joined(request(b"HMSET", keys), pair_lists),
    request(b"HSETNX", keys, fields, short_values),
    joined(request(b"HDEL", keys), field_lists),
    joined(request(b"HDEL", keys), field_lists),
    request(b"HINCRBY", keys, fields, st.one_of(numbers, numbers, bad_numbers)),
    request(b"HINCRBYFLOAT", keys, fields, st.one_of(floats, numbers, bad_floats)),
    request(b"HGET", keys, fields),
    joined(request(b"HMGET", keys), field_lists),
    request(b"HGETALL", keys),
    request(b"HKEYS", keys),
    request(b"HVALS", keys),
    request(b"HLEN", keys),
    request(b"HEXISTS", keys, fields),
    request(b"HSTRLEN", keys, fields),
    request(b"HRANDFIELD", keys),
    joined(request(b"HRANDFIELD", keys, st.one_of(whole_counts, bad_counts)), with_values),
    joined(
        request(b"HRANDFIELD", keys, st.integers(-20, 20).map(lambda count: b"%d" % count)),
        with_values,
    ),
    joined(request(b"HSCAN", keys, b"0"), scan_options, request(b"COUNT", b"5000")),
    joined(request(b"HSCAN", keys, st.sampled_from([b"x", b"", b"1 ", b"9" * 20])), scan_options),
    request(b"OBJECT", b"ENCODING", keys),
    request(b"TYPE", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]


def _couples(flat: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _same_pairs(_: list[bytes], ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours == theirs
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return bool(ours == theirs)
    return sorted(_couples(ours)) == sorted(_couples(theirs))


def _same_scan(request: list[bytes], ours: Any, theirs: Any) -> bool:
    if theirs[0] != b"0" or request[2] not in (b"0", b""):
        # A part of a large hash: which part depends on the server.
        return isinstance(ours[1], list)
    return bool(ours[0] == theirs[0] and _same_pairs(request, ours[1], theirs[1]))


def _as_many(request: list[bytes], ours: Any, theirs: Any) -> bool:
    """Fields that are drawn: as many, and all of them if all are asked for."""
    if not isinstance(ours, list):
        return (ours is None) == (theirs is None)
    if request[2] not in {b"5000", b"%d" % (INT64_MAX // 2), b"%d" % INT64_MAX}:
        return len(ours) == len(theirs)
    if (ours and isinstance(ours[0], list)) or len(request) == 3:
        return any_order(request, ours, theirs)
    return _same_pairs(request, ours, theirs)


_NO_ORDER = "fields of a hashtable come in no order"

LENIENCIES: Leniencies = {
    b"HGETALL": Leniency(_NO_ORDER, _same_pairs),
    b"HKEYS": Leniency(_NO_ORDER, any_order),
    b"HVALS": Leniency(_NO_ORDER, any_order),
    b"HRANDFIELD": Leniency("any fields are right", _as_many),
    b"HSCAN": Leniency(_NO_ORDER, _same_scan),
}
