"""Random commands on streams. Ids are given, since those that servers make are of their clocks."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.oracle import generate
from tests.oracle.compare import Leniencies, Leniency
from tests.oracle.generate import (
    Requests,
    any_case,
    bad_numbers,
    joined,
    mutated,
    numbers,
    options,
    request,
    small_texts,
)

# Mostly the same, so that a stream has entries and groups.
keys = st.one_of(st.just(b"a"), st.just(b"a"), st.sampled_from([b"a", b"b"]), generate.keys)

# Few small numbers, so that ids meet; what is larger than them ends a stream.
small_ids = st.tuples(st.integers(0, 8), st.integers(0, 3)).map(lambda pair: b"%d-%d" % pair)
short_ids = st.integers(0, 9).map(lambda ms: b"%d" % ms)
far_ids = st.sampled_from(
    [b"300-1", b"70000-128", b"99999999999999-5", b"5-18446744073709551615", b"9-40000"]
)
odd_ids = st.sampled_from(
    [
        *(b"-", b"+", b"$", b">", b"*", b"x", b"", b"1-", b"-1", b"1-1-1", b"1--1", b"01-01"),
        *(b" 1-1", b"1-x", b"+1-+1", b"1\x00-5", b"1-1\x00", b"1--05", b"5-*x", b"9" * 21),
        *(b"18446744073709551615-18446744073709551615", b"18446744073709551616", b"a" * 200),
    ]
)
ids = st.one_of(small_ids, small_ids, small_ids, short_ids, far_ids, odd_ids)
some_ids = st.lists(st.one_of(small_ids, small_ids, ids), min_size=1, max_size=4)
new_ids = st.one_of(
    small_ids,
    short_ids,
    st.tuples(st.integers(0, 60), st.integers(0, 300)).map(lambda pair: b"%d-%d" % pair),
    st.integers(0, 60).map(lambda ms: b"%d-*" % ms),
    far_ids,
    odd_ids.filter(lambda text: text != b"*"),
)
bounds = st.one_of(
    st.sampled_from([b"-", b"+", b"0"]),
    ids,
    ids.map(lambda text: b"(" + text),
    st.sampled_from([b"(", b"(-", b"(0", b"(18446744073709551615-18446744073709551615"]),
)
counts = st.sampled_from([b"0", b"1", b"2", b"3", b"7", b"100", b"-1", b"x"])
count_options = options(request(any_case(b"COUNT"), counts), most=1)
# Of which a few, some dozens or one fill a node.
texts = st.one_of(
    small_texts,
    numbers,
    st.sampled_from([700, 1300, 3500, 5000]).map(lambda size: b"t" * size),
)
fields = st.sampled_from([b"field", b"a", b"b", b"1", b"12345", b""])
pairs = st.one_of(
    joined(request(b"field"), texts.map(lambda text: [text])),
    st.lists(st.tuples(fields, texts), min_size=1, max_size=4).map(
        lambda found: [text for pair in found for text in pair]
    ),
)
thresholds = st.one_of(st.integers(0, 12).map(lambda n: b"%d" % n), bad_numbers)
trimming = st.one_of(
    joined(
        request(any_case(b"MAXLEN")),
        st.sampled_from([[], [b"="], [b"~"], [b"~"]]),
        request(thresholds),
        options(request(any_case(b"LIMIT"), counts), most=1),
    ),
    joined(
        request(any_case(b"MINID")),
        st.sampled_from([[], [b"="], [b"~"], [b"~"]]),
        request(ids),
        options(request(any_case(b"LIMIT"), counts), most=1),
    ),
)
add_options: Requests = st.one_of(
    request(),
    request(),
    trimming,
    request(any_case(b"NOMKSTREAM")),
    options(trimming, request(b"NOMKSTREAM"), request(b"LIMIT", counts)),
)

groups = st.sampled_from([b"g", b"g", b"g", b"h", b"\xff"])
consumers = st.sampled_from([b"alice", b"bob", b"c\x00", b""])
reads = options(
    request(any_case(b"ENTRIESREAD"), st.one_of(numbers, st.sampled_from([b"3", b"-2"]))),
    request(any_case(b"MKSTREAM")),
    most=2,
)
idle_times = st.sampled_from([b"0", b"1000000", b"-1", b"x"])
claims = options(
    request(any_case(b"IDLE"), st.sampled_from([b"5000000", b"0", b"x", b"-7"])),
    request(any_case(b"TIME"), st.sampled_from([b"1000000000000", b"-5", b"x"])),
    request(any_case(b"RETRYCOUNT"), st.one_of(numbers, bad_numbers)),
    request(any_case(b"FORCE")),
    request(any_case(b"JUSTID")),
    request(any_case(b"LASTID"), ids),
)
group_options = options(
    request(any_case(b"COUNT"), counts),
    request(any_case(b"NOACK")),
    most=2,
)
blocks = request(any_case(b"BLOCK"), st.sampled_from([b"1", b"1", b"x", b"-1", b"1.5"]))


@st.composite
def streams(draw: st.DrawFn, found: st.SearchStrategy[bytes]) -> list[bytes]:
    """STREAMS with some keys and as many ids."""
    count = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return [
        draw(any_case(b"STREAMS")),
        *[draw(keys) for _ in range(count)],
        *[draw(found) for _ in range(count)],
    ]


read_ids = st.one_of(st.sampled_from([b"0", b"0", b"$"]), ids)
group_ids = st.one_of(st.sampled_from([b">", b">", b">", b"0"]), ids)

_ENTRIES: list[Requests] = [
    joined(request(b"XADD", keys), add_options, request(new_ids), pairs),
    joined(request(b"XADD", keys), add_options, request(new_ids), pairs),
    joined(request(b"XADD", keys), request(new_ids), pairs),
    joined(request(b"XADD", keys), request(new_ids), pairs),
    request(b"XLEN", keys),
    joined(request(b"XRANGE", keys, bounds, bounds), count_options),
    joined(request(b"XRANGE", keys, b"-", b"+"), count_options),
    joined(request(b"XREVRANGE", keys, bounds, bounds), count_options),
    joined(request(b"XDEL", keys), some_ids),
    joined(request(b"XTRIM", keys), trimming),
    joined(
        request(b"XSETID", keys, ids),
        options(
            request(any_case(b"ENTRIESADDED"), st.one_of(numbers, counts)),
            request(any_case(b"MAXDELETEDID"), ids),
            most=2,
        ),
    ),
    joined(request(b"XREAD"), count_options, streams(read_ids)),
    request(b"XINFO", b"STREAM", keys),
    request(b"OBJECT", b"ENCODING", keys),
    request(b"TYPE", keys),
    request(b"COPY", keys, keys),
]
_GROUPS: list[Requests] = [
    joined(request(b"XGROUP", any_case(b"CREATE"), keys, groups), request(ids), reads),
    joined(request(b"XGROUP", any_case(b"CREATE"), keys, groups, b"0"), reads),
    request(b"XGROUP", b"CREATE", keys, groups, b"$", b"MKSTREAM"),
    joined(request(b"XGROUP", any_case(b"SETID"), keys, groups, ids), reads),
    request(b"XGROUP", any_case(b"DESTROY"), keys, groups),
    request(b"XGROUP", any_case(b"CREATECONSUMER"), keys, groups, consumers),
    request(b"XGROUP", any_case(b"DELCONSUMER"), keys, groups, consumers),
    joined(request(b"XREADGROUP", b"GROUP", groups, consumers), group_options, streams(group_ids)),
    joined(request(b"XREADGROUP", b"GROUP", groups, consumers), group_options, streams(group_ids)),
    joined(request(b"XACK", keys, groups), some_ids),
    request(b"XPENDING", keys, groups),
    joined(
        request(b"XPENDING", keys, groups),
        options(request(any_case(b"IDLE"), idle_times), most=1),
        request(bounds, bounds, counts),
        options(request(consumers), most=1),
    ),
    joined(request(b"XCLAIM", keys, groups, consumers, idle_times), some_ids, claims),
    joined(
        request(b"XAUTOCLAIM", keys, groups, consumers, idle_times, bounds),
        options(request(any_case(b"COUNT"), counts), request(any_case(b"JUSTID")), most=2),
    ),
    request(b"XINFO", b"GROUPS", keys),
    request(b"XINFO", b"CONSUMERS", keys, groups),
    joined(
        request(b"XINFO", b"STREAM", keys, any_case(b"FULL")),
        options(request(any_case(b"COUNT"), counts), most=1),
    ),
]
_WELL_FORMED = [*_ENTRIES, *_GROUPS]

# Not to be mutated: 0 would mean for ever.
_BLOCKING: list[Requests] = [
    joined(request(b"XREAD"), count_options, blocks, streams(read_ids)),
    joined(
        request(b"XREADGROUP", b"GROUP", groups, consumers),
        group_options,
        blocks,
        streams(group_ids),
    ),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, *_BLOCKING, mutated(st.one_of(_WELL_FORMED))]


def _same_times(_: list[bytes], ours: Any, theirs: Any) -> bool:
    """Alike, but for numbers that are times of two clocks, or have passed since."""
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(
            _same_times(_, our, their) for our, their in zip(ours, theirs, strict=True)
        )
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(
            _same_times(_, ours[name], theirs[name]) for name in ours
        )
    if isinstance(ours, int) and isinstance(theirs, int):
        return ours == theirs or (_is_time(ours, theirs) and abs(ours - theirs) < 60_000)
    return bool(ours == theirs)


def _is_time(ours: int, theirs: int) -> bool:
    """Whether two numbers may be of a clock: one that stands still, and one that goes on."""
    return ours > 1_000_000 or (ours == 0 and theirs >= 0)


_CLOCKS = "times are those of two clocks, of which one stands still"

LENIENCIES: Leniencies = {
    b"XPENDING": Leniency(_CLOCKS, _same_times),
    b"XINFO CONSUMERS": Leniency(_CLOCKS, _same_times),
    b"XINFO STREAM": Leniency(_CLOCKS, _same_times),
}
