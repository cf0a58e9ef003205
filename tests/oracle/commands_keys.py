"""Random commands on keys of any type."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies, Leniency, any_order, close_to
from tests.oracle.generate import (
    MILLISECONDS,
    SECONDS,
    Requests,
    any_case,
    bad_numbers,
    joined,
    keys,
    mutated,
    options,
    past_absolute_times,
    past_times,
    request,
    times_ms,
    times_s,
)

key_lists = st.lists(keys, min_size=1, max_size=4)
conditions = options(
    *[request(any_case(word)) for word in (b"NX", b"XX", b"GT", b"LT")], request(b"no"), most=2
)
patterns = st.one_of(
    st.sampled_from([b"*", b"a", b"?", b"{a}*", b"*c", b"[ab]", b"[^a]", b"[a-b]", b"\\a", b"**"]),
    st.text("ab*?[]^-\\{}", max_size=6).map(str.encode),
)
TYPES = (b"string", b"list", b"set", b"zset", b"hash", b"stream")
databases = st.sampled_from([b"0", b"1", b"1", b"2", b"15", b"16", b"-1", b"x", b"9" * 12])
copy_options = options(
    request(any_case(b"REPLACE")),
    request(any_case(b"DB"), st.sampled_from([b"0", b"1", b"15", b"16", b"-1", b"x", b"9" * 12])),
    most=2,
)
scan_options = options(
    request(any_case(b"MATCH"), patterns),
    request(any_case(b"TYPE"), st.sampled_from([*TYPES, b"SET", b"nosuchtype", b""])),
    request(any_case(b"COUNT"), st.sampled_from([b"0", b"-1", b"x", b"1000"])),
    most=2,
)

_WELL_FORMED: list[Requests] = [
    joined(request(b"DEL"), key_lists),
    joined(request(b"UNLINK"), key_lists),
    joined(request(b"EXISTS"), key_lists),
    joined(request(b"TOUCH"), key_lists),
    request(b"TYPE", keys),
    request(b"RENAME", keys, keys),
    request(b"RENAMENX", keys, keys),
    joined(request(b"COPY", keys, keys), copy_options),
    request(b"MOVE", keys, databases),
    request(b"SWAPDB", databases, databases),
    request(b"RANDOMKEY"),
    request(b"KEYS", patterns),
    # A step that is long enough returns all keys, so that cursors need not be the same.
    joined(request(b"SCAN", b"0"), scan_options, request(b"COUNT", b"1000")),
    joined(request(b"SCAN", st.sampled_from([b"x", b"", b"1 ", b"9" * 20, b"+"])), scan_options),
    request(b"DBSIZE"),
    request(b"SELECT", st.sampled_from([b"0", b"0", b"1"])),
    request(st.sampled_from([b"FLUSHDB", b"FLUSHALL"])),
    request(
        st.sampled_from([b"FLUSHDB", b"FLUSHALL"]), st.sampled_from([b"SYNC", b"async", b"now"])
    ),
    joined(
        request(b"EXPIRE", keys, st.one_of(st.just(SECONDS), past_times, bad_numbers)), conditions
    ),
    joined(
        request(b"PEXPIRE", keys, st.one_of(st.just(MILLISECONDS), past_times, bad_numbers)),
        conditions,
    ),
    joined(
        request(b"EXPIREAT", keys, st.one_of(times_s, times_s, past_absolute_times)), conditions
    ),
    joined(
        request(b"PEXPIREAT", keys, st.one_of(times_ms, times_ms, past_absolute_times)), conditions
    ),
    request(st.sampled_from([b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME"]), keys),
    request(b"PERSIST", keys),
    request(b"OBJECT", st.sampled_from([b"ENCODING", b"refcount", b"IDLETIME", b"FREQ"]), keys),
    request(b"OBJECT", b"no\r\nsuch", keys),
    request(b"DEBUG", b"OBJECT", keys),
    joined(request(b"DEBUG", b"DIGEST-VALUE"), key_lists),
    request(b"DEBUG", b"no-such", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]


def _same_keys(request: list[bytes], ours: Any, theirs: Any) -> bool:
    """Replies of SCAN."""
    if request[1] not in (b"0", b""):
        # Where a cursor stands, that nobody was given, is the server's business.
        return isinstance(ours[1], list)
    return bool(ours[0] == theirs[0] and sorted(ours[1]) == sorted(theirs[1]))


def _same_expiretime(request: list[bytes], ours: Any, theirs: Any) -> bool:
    if theirs < -2:
        return bool(ours > 2**53)
    return close_to(2)(request, ours, theirs)


def _same_encoding(_: list[bytes], ours: Any, theirs: Any) -> bool:
    return (ours, theirs) == (b"int", b"embstr")


def _same_refcount(_: list[bytes], ours: Any, theirs: Any) -> bool:
    return (ours, theirs) == (2**31 - 1, 1)


def _same_idle_time(_: list[bytes], ours: Any, theirs: Any) -> bool:
    return bool(ours == 0 and theirs >= 0)


def _same_description(_: list[bytes], ours: Any, theirs: Any) -> bool:
    """Lines of DEBUG OBJECT: the same names of figures in the same order, but for a quicklist's."""
    names = [
        [word.split(":")[0] for word in line.split() if not word.startswith("ql_")]
        for line in (ours, theirs)
    ]
    return names[0] == names[1]


_CLOCKS = "Redis's clock goes on during the example"
_SHARED_NUMBERS = "small numbers are one object for all keys in Redis, used at any time before"
_FLOAT = "what INCRBYFLOAT stored is never an integer in Redis's memory; here only bytes are kept"

LENIENCIES: Leniencies = {
    b"TTL": Leniency(_CLOCKS, close_to(2)),
    b"PTTL": Leniency(_CLOCKS, close_to(2000)),
    b"EXPIRETIME": Leniency(_CLOCKS + "; it overflows at the end of time", _same_expiretime),
    b"PEXPIRETIME": Leniency(_CLOCKS, close_to(2000)),
    b"OBJECT IDLETIME": Leniency(_SHARED_NUMBERS, _same_idle_time),
    b"OBJECT ENCODING": Leniency(_FLOAT, _same_encoding),
    b"OBJECT REFCOUNT": Leniency(_FLOAT, _same_refcount),
    b"DEBUG OBJECT": Leniency(
        "addresses, clocks and compressed lengths; a list is in no quicklist", _same_description
    ),
    b"KEYS": Leniency("keys come in no order", any_order),
    b"SCAN": Leniency("keys come in no order", _same_keys),
    b"RANDOMKEY": Leniency("any key is right", lambda _, ours, theirs: True),
}
