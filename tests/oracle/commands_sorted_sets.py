"""Random commands on sorted sets."""

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
    small_texts,
    values,
)

few = st.integers(0, 12).map(lambda number: b"m%d" % number)
members = st.one_of(few, few, few, small_texts, values)
# Few scores, so that members share some; what is written in other ways, and what is too long for
# digits.
few_scores = st.sampled_from([b"0", b"1", b"1.5", b"-2", b"3"])
scores = st.one_of(
    few_scores,
    few_scores,
    floats,
    st.sampled_from(b"inf -inf +inf 1e17 1e21 123456789012345678 -0.0 0.1 4.6e18 -1e-300".split()),
)
bad_scores = st.one_of(bad_floats, st.just(b"nan"))
pairs = st.tuples(scores, members).map(list)
pair_lists = st.lists(pairs, min_size=1, max_size=6).map(
    lambda lists: [part for pair in lists for part in pair]
)
# Members of one score, for ranges by member.
same_scores = st.lists(few, min_size=1, max_size=8).map(
    lambda names: [part for name in names for part in (b"0", name)]
)
# About as many as a listpack may have, and many.
many_pairs = st.sampled_from([127, 128, 129, 300, 2000]).map(
    lambda count: [part for n in range(count) for part in (b"%d" % (n * 7 % 50), b"m%d" % n)]
)
many_members = st.sampled_from([50, 130, 1000]).map(
    lambda count: [b"m%d" % number for number in range(count)]
)
add_options = options(*[request(any_case(w)) for w in b"NX XX GT LT CH INCR".split()], most=3)
add_option = options(*[request(any_case(w)) for w in b"NX XX GT LT CH".split()], most=1)
ranks = st.one_of(
    st.sampled_from(b"0 1 2 5 100 126 -1 -2 -3 -100 -129".split()), numbers, bad_numbers
)
score_bounds = st.one_of(
    few_scores,
    few_scores.map(lambda score: b"(" + score),
    st.sampled_from(b"-inf +inf (inf (-inf 10 20 (30 40 nan x ( 1e400 0x1p1 (1. .5".split()),
    st.sampled_from([b"", b" 1", b"1 ", b"\t2", b"1\x00x", b"[1"]),
)
member_bounds = st.one_of(
    st.tuples(st.sampled_from([b"[", b"("]), members).map(b"".join),
    st.sampled_from([b"-", b"+", b"-", b"+", b"", b"m1", b"[", b"(", b"-x", b"+x", b"+\x00x"]),
)
limits = request(
    any_case(b"LIMIT"),
    st.one_of(st.sampled_from(b"0 1 2 5 -1".split()), bad_numbers),
    st.one_of(st.sampled_from(b"0 1 2 100 -1 -2".split()), bad_numbers),
)
with_scores = request(any_case(b"WITHSCORES"))
range_options = options(limits, with_scores, most=2)
by_score = request(any_case(b"BYSCORE"))
by_lex = request(any_case(b"BYLEX"))
reverse = request(any_case(b"REV"))
counts = st.one_of(
    st.sampled_from([b"0", b"1", b"2", b"5", b"150", b"5000", b"%d" % INT64_MAX]), bad_numbers
)
key_lists = st.lists(keys, min_size=1, max_size=3).map(lambda names: [b"%d" % len(names), *names])
wrong_key_lists = joined(
    request(st.sampled_from([b"0", b"2", b"-1", b"x", b"%d" % INT64_MAX])),
    st.lists(keys, min_size=1, max_size=3),
)
weights = st.one_of(scores, bad_scores)
aggregates = request(any_case(b"AGGREGATE"), st.sampled_from(b"SUM min MAX x".split()))
algebra_options = options(
    joined(request(any_case(b"WEIGHTS")), st.lists(weights, min_size=1, max_size=3)),
    joined(request(any_case(b"WEIGHTS")), st.lists(few_scores, min_size=1, max_size=3)),
    aggregates,
    with_scores,
    most=3,
)
ends = request(st.sampled_from([b"MIN", b"MAX", b"min", b"x"]))
count_options = options(request(any_case(b"COUNT"), counts), most=2)
scan_options = options(
    request(any_case(b"MATCH"), st.sampled_from([b"*", b"m1*", b"[0-9]", b"", b"m*7"])),
    request(any_case(b"COUNT"), st.sampled_from([b"0", b"-1", b"x", b"5000"])),
    most=2,
)
whole_counts = st.sampled_from([b"5000", b"%d" % INT64_MAX, b"%d" % (INT64_MAX // 2)])
# No large negative ones that are within range: Redis would never end.
bad_counts = st.one_of(bad_numbers, st.sampled_from([b"0", b"%d" % INT64_MIN]))
reads = st.sampled_from([b"ZUNION", b"ZINTER", b"ZDIFF"])
stores = st.sampled_from([b"ZUNIONSTORE", b"ZINTERSTORE", b"ZDIFFSTORE"])
# Never waits for long, and not at all where everything is right.
timeouts = st.sampled_from([b"0.001", b"-1", b"x", b"", b"inf", b"nan", b"1e300", b"1e-3"])

_WELL_FORMED: list[Requests] = [
    joined(request(b"ZADD", keys), pair_lists),
    joined(request(b"ZADD", keys), pair_lists),
    joined(request(b"ZADD", keys), same_scores),
    joined(request(b"ZADD", keys), many_pairs),
    joined(request(b"ZADD", keys), add_option, pair_lists),
    joined(request(b"ZADD", keys), add_options, pairs),
    joined(request(b"ZADD", keys), add_options, pair_lists),
    request(b"ZADD", keys, st.one_of(bad_scores), members),
    request(b"ZINCRBY", keys, st.one_of(scores, scores, bad_scores), members),
    joined(request(b"ZREM", keys), st.lists(members, min_size=1, max_size=6)),
    joined(request(b"ZREM", keys), many_members),
    request(b"ZCARD", keys),
    request(b"ZSCORE", keys, members),
    joined(request(b"ZMSCORE", keys), st.lists(members, min_size=1, max_size=6)),
    request(st.sampled_from([b"ZRANK", b"ZREVRANK"]), keys, members),
    request(b"ZCOUNT", keys, score_bounds, score_bounds),
    joined(request(b"ZRANGE", keys, ranks, ranks), options(with_scores, reverse, most=2)),
    joined(
        request(b"ZRANGE", keys, score_bounds, score_bounds),
        by_score,
        options(with_scores, reverse, limits),
    ),
    joined(
        request(b"ZRANGE", keys, st.one_of(ranks, score_bounds), ranks),
        options(with_scores, reverse, limits, by_lex, by_score),
    ),
    joined(
        request(st.sampled_from([b"ZRANGEBYSCORE", b"ZREVRANGEBYSCORE"]), keys),
        request(score_bounds, score_bounds),
        range_options,
    ),
    joined(request(b"ZREVRANGE", keys, ranks, ranks), range_options),
    joined(request(b"ZRANGESTORE", keys, keys, ranks, ranks), options(reverse, limits, most=1)),
    joined(
        request(b"ZRANGESTORE", keys, keys, score_bounds, score_bounds),
        by_score,
        options(reverse, limits, most=2),
    ),
    request(b"ZREMRANGEBYRANK", keys, ranks, ranks),
    request(b"ZREMRANGEBYSCORE", keys, score_bounds, score_bounds),
    request(st.sampled_from([b"ZPOPMIN", b"ZPOPMAX"]), keys),
    request(st.sampled_from([b"ZPOPMIN", b"ZPOPMAX"]), keys, counts),
    joined(request(b"ZMPOP"), key_lists, ends, count_options),
    joined(request(b"ZMPOP"), wrong_key_lists, ends, count_options),
    joined(request(b"BZMPOP"), request(timeouts), key_lists, ends, count_options),
    joined(request(b"BZMPOP"), request(timeouts), wrong_key_lists, ends, count_options),
    joined(
        request(st.sampled_from([b"BZPOPMIN", b"BZPOPMAX"])),
        st.lists(keys, min_size=1, max_size=3),
        request(timeouts),
    ),
    joined(reads.map(lambda name: [name]), key_lists, algebra_options),
    joined(reads.map(lambda name: [name]), wrong_key_lists, algebra_options),
    joined(stores.map(lambda name: [name]), request(keys), key_lists, algebra_options),
    joined(stores.map(lambda name: [name]), request(keys), wrong_key_lists, algebra_options),
    joined(request(b"ZINTERCARD"), key_lists, options(request(any_case(b"LIMIT"), counts), most=2)),
    joined(request(b"ZINTERCARD"), wrong_key_lists),
    request(b"ZRANDMEMBER", keys),
    request(b"ZRANDMEMBER", keys, st.one_of(whole_counts, bad_counts)),
    joined(request(b"ZRANDMEMBER", keys, st.one_of(whole_counts, bad_counts)), with_scores),
    joined(
        request(b"ZRANDMEMBER", keys, st.integers(-20, 20).map(lambda count: b"%d" % count)),
        options(with_scores, most=1),
    ),
    joined(request(b"ZSCAN", keys, b"0"), scan_options, request(b"COUNT", b"5000")),
    joined(request(b"ZSCAN", keys, st.sampled_from([b"x", b"", b"1 ", b"9" * 20])), scan_options),
    request(b"OBJECT", b"ENCODING", keys),
    request(b"TYPE", keys),
]

# Redis says nothing about ranges by member where scores differ, so these are asked of a key of
# their own, whose members all have one.
_LEX_KEY = b"lex"
_lex_commands = [
    request(b"ZLEXCOUNT", _LEX_KEY, member_bounds, member_bounds),
    request(b"ZREMRANGEBYLEX", _LEX_KEY, member_bounds, member_bounds),
    joined(
        request(b"ZRANGE", _LEX_KEY, member_bounds, member_bounds),
        by_lex,
        options(with_scores, reverse, limits),
    ),
    joined(
        request(st.sampled_from([b"ZRANGEBYLEX", b"ZREVRANGEBYLEX"]), _LEX_KEY),
        request(member_bounds, member_bounds),
        range_options,
    ),
    joined(
        request(b"ZRANGESTORE", keys, _LEX_KEY, member_bounds, member_bounds),
        by_lex,
        options(reverse, limits, most=2),
    ),
]
_lex_members = st.one_of(
    joined(request(b"ZADD", _LEX_KEY), same_scores),
    st.sampled_from([100, 200, 1000]).map(
        lambda count: [
            *(b"ZADD", _LEX_KEY),
            *(part for n in range(count) for part in (b"0", b"m%d" % n)),
        ]
    ),
)

STRATEGIES: list[Requests] = [
    *_WELL_FORMED,
    *_lex_commands,
    _lex_members,
    mutated(st.one_of(_WELL_FORMED)),
]


def _pairs(items: list[Any]) -> list[Any]:
    return sorted(zip(items[::2], items[1::2], strict=True))


def _same_scan(request: list[bytes], ours: Any, theirs: Any) -> bool:
    if theirs[0] != b"0" or request[2] not in (b"0", b""):
        # A part of a large one: which part depends on the server.
        return isinstance(ours[1], list)
    return bool(ours[0] == theirs[0] and _pairs(ours[1]) == _pairs(theirs[1]))


def _as_many(request: list[bytes], ours: Any, theirs: Any) -> bool:
    """Members that are drawn: as many, and all of them if all are asked for."""
    if not isinstance(ours, list):
        return (ours is None) == (theirs is None)
    if len(ours) != len(theirs) or request[2] not in {b"5000", b"%d" % INT64_MAX}:
        return len(ours) == len(theirs)
    if len(request) == 4 and not any(isinstance(item, list) for item in ours):
        return _pairs(ours) == _pairs(theirs)
    return any_order(request, ours, theirs)


LENIENCIES: Leniencies = {
    b"ZRANDMEMBER": Leniency("any members are right", _as_many),
    b"ZSCAN": Leniency("members come in no order once they are many", _same_scan),
}
