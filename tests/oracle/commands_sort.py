"""Random sorts of lists, sets and sorted sets, and what they are sorted by."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies, Leniency
from tests.oracle.generate import Requests, any_case, joined, keys, mutated, options, request

# Few, so that they are often equal; some are numbers only to C, or none at all. (Once Redis has met
# one that is too large for a double, it takes all that follow for no numbers.)
elements = st.sampled_from(
    [
        *(b"1", b"2", b"-1.5", b"1e2", b"10", b"a", b"b", b"B", b"ab", b"", b" 3", b"3 ", b"0x10"),
        *(b"inf", b"nan", b"7\x00x", b"\xff"),
    ]
)
some_numbers = st.sampled_from([b"1", b"2", b"3", b"10", b"-1.5", b"1e1", b"0"])
some_elements = st.one_of(
    st.lists(some_numbers, min_size=1, max_size=6), st.lists(elements, min_size=1, max_size=6)
)
limits = st.sampled_from([b"0", b"1", b"2", b"-1", b"100", b"x", b"9223372036854775807"])
patterns = st.sampled_from(
    [
        *(b"w:*", b"w:*", b"h:*->f", b"h:*->", b"nosort", b"*", b"#", b"->f", b"h:*->no", b"*->f"),
        *(b"w:*\x00", b"w\x00:*", b"h:*->f\x00", b"w:**", b"#*"),
    ]
)
_simple_options = (
    request(any_case(b"ASC")),
    request(any_case(b"DESC")),
    request(any_case(b"ALPHA")),
    request(any_case(b"ALPHA")),
    request(any_case(b"LIMIT"), limits, limits),
    request(any_case(b"BY"), st.just(b"nosort")),
    request(any_case(b"GET"), patterns),
    request(any_case(b"GET"), st.just(b"#")),
)
sort_options = options(*_simple_options, request(any_case(b"BY"), patterns), most=4)
# What is stored must be the same, so it is sorted by nothing that may be equal.
store_options = options(*_simple_options, most=4)

_WELL_FORMED: list[Requests] = [
    joined(request(b"RPUSH", keys), some_elements),
    joined(request(b"SADD", keys), some_elements),
    request(b"ZADD", keys, some_numbers, elements),
    request(b"SET", elements.map(lambda text: b"w:" + text), elements),
    request(b"HSET", elements.map(lambda text: b"h:" + text), b"f", elements),
    joined(request(b"SORT", keys), sort_options),
    joined(request(b"SORT", keys), sort_options),
    joined(request(b"SORT_RO", keys), sort_options),
    joined(request(b"SORT", keys), store_options, request(any_case(b"STORE"), keys)),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]


def _same_rows(request_: list[bytes], ours: Any, theirs: Any) -> bool:
    """Equal elements, and those of a set that is not sorted, come in no order."""
    by = [argument for option, argument in _pairs(request_) if option == b"BY"]
    gets = [argument for option, argument in _pairs(request_) if option == b"GET"]
    if not by or not isinstance(ours, list) or len(ours) != len(theirs):
        return False
    if any(option == b"LIMIT" for option, _ in _pairs(request_)) or len(gets) > 1:
        # Which of them there are is not decided either.
        return True
    return sorted(map(str, ours)) == sorted(map(str, theirs))


def _pairs(request_: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(request_[i].upper(), request_[i + 1]) for i in range(2, len(request_) - 1)]


_REASON = (
    "with BY, Redis leaves the order of equal elements to C's qsort, and that of sets to chance"
)
LENIENCIES: Leniencies = {
    b"SORT": Leniency(_REASON, _same_rows),
    b"SORT_RO": Leniency(_REASON, _same_rows),
}
