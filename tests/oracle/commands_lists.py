"""Random commands on lists."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies
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
# Often the same ones, so that they are found; and any others.
items = st.one_of(
    st.sampled_from([b"a", b"b", b"c", b"1", b"2"]),
    st.sampled_from([b"a", b"b", b"c", b"1", b"2"]),
    values,
)
item_lists = st.lists(items, min_size=1, max_size=8)
# More than one chunk of elements.
many_items = st.sampled_from([120, 128, 129, 300, 1000]).map(
    lambda count: [b"item:%d" % (number % 90) for number in range(count)]
)
pushes = st.sampled_from([b"LPUSH", b"RPUSH", b"RPUSH", b"LPUSHX", b"RPUSHX"])
pops = st.sampled_from([b"LPOP", b"RPOP"])
few = st.integers(-8, 8).map(lambda number: b"%d" % number)
some = st.integers(-1100, 1100).map(lambda number: b"%d" % number)
indices = st.one_of(few, few, some, numbers, bad_numbers)
counts = st.one_of(st.integers(0, 200).map(lambda count: b"%d" % count), indices)
ends = st.sampled_from([b"LEFT", b"RIGHT", b"left", b"Right", b"LEFT", b"RIGHT", b"up", b""])
numkeys = st.sampled_from([b"1", b"1", b"2", b"2", b"3", b"0", b"-1", b"x", b"%d" % INT64_MAX])
wheres = st.sampled_from([b"BEFORE", b"AFTER", b"before", b"behind"])
found = st.one_of(items, st.sampled_from([b"item:0", b"item:7", b"item:89"]))
pop_counts = options(
    request(any_case(b"COUNT"), st.one_of(counts, st.just(b"2"))), request(b"no"), most=2
)
lpos_options = options(
    request(any_case(b"RANK"), st.one_of(few, few, indices)),
    request(any_case(b"COUNT"), st.one_of(few, few, counts)),
    request(any_case(b"MAXLEN"), st.one_of(few, some, counts)),
    request(b"no"),
    most=3,
)
# Long enough to be a time-out, and short enough to be waited for; never for ever.
timeouts = st.sampled_from(
    [
        *(b"0.001", b"0.002", b"1e-3", b"0x1p-10", b".001", b"1e-400"),
        *(b"-1", b"-0.5", b"x", b"", b" 1", b"nan", b"inf", b"-inf", b"1e400", b"1e16"),
        *(b"%d" % INT64_MIN, b"%d" % INT64_MAX),
    ]
)

_WELL_FORMED: list[Requests] = [
    joined(request(pushes, keys), item_lists),
    joined(request(pushes, keys), item_lists),
    joined(request(pushes, keys), many_items),
    request(pops, keys),
    request(pops, keys, counts),
    request(b"LLEN", keys),
    request(b"LRANGE", keys, indices, indices),
    request(b"LRANGE", keys, some, some),
    request(b"LINDEX", keys, indices),
    request(b"LSET", keys, indices, items),
    request(b"LINSERT", keys, wheres, found, items),
    request(b"LINSERT", keys, wheres, found, items),
    request(b"LREM", keys, indices, found),
    request(b"LTRIM", keys, indices, indices),
    request(b"LTRIM", keys, some, some),
    joined(request(b"LPOS", keys, found), lpos_options),
    joined(request(b"LPOS", keys, found), lpos_options),
    request(b"LMOVE", keys, keys, ends, ends),
    request(b"LMOVE", keys, keys, ends, ends),
    request(b"RPOPLPUSH", keys, keys),
    joined(request(b"LMPOP", numkeys), key_lists, request(ends), pop_counts),
    request(b"OBJECT", b"ENCODING", keys),
    request(b"TYPE", keys),
]

# One argument that does not belong there would make them wait for long.
_BLOCKING: list[Requests] = [
    joined(request(st.sampled_from([b"BLPOP", b"BRPOP"])), key_lists, request(timeouts)),
    request(b"BLMOVE", keys, keys, ends, ends, timeouts),
    request(b"BRPOPLPUSH", keys, keys, timeouts),
    joined(request(b"BLMPOP", timeouts, numkeys), key_lists, request(ends), pop_counts),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, *_BLOCKING, mutated(st.one_of(_WELL_FORMED))]

LENIENCIES: Leniencies = {}
