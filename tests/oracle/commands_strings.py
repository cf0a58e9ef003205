"""Random string commands."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies
from tests.oracle.generate import (
    MILLISECONDS,
    SECONDS,
    Requests,
    any_case,
    bad_floats,
    bad_numbers,
    floats,
    joined,
    keys,
    large_texts,
    mutated,
    numbers,
    offsets,
    options,
    past_absolute_times,
    past_times,
    request,
    small_texts,
    times_ms,
    times_s,
    values,
)

seconds = st.one_of(st.just(SECONDS), past_times, bad_numbers)
milliseconds = st.one_of(st.just(MILLISECONDS), past_times, bad_numbers)

# A time of day that is past is left out: Redis counts such a key in DBSIZE until somebody asks
# for it, here it is gone at once.
set_options = options(
    request(any_case(b"NX")),
    request(any_case(b"XX")),
    request(any_case(b"GET")),
    request(any_case(b"KEEPTTL")),
    request(any_case(b"EX"), seconds),
    request(any_case(b"PX"), milliseconds),
    request(any_case(b"EXAT"), st.one_of(times_s, bad_numbers)),
    request(any_case(b"PXAT"), st.one_of(times_ms, bad_numbers)),
)
getex_options = options(
    request(any_case(b"PERSIST")),
    request(any_case(b"EX"), seconds),
    request(any_case(b"PX"), milliseconds),
    request(any_case(b"EXAT"), st.one_of(times_s, past_absolute_times, bad_numbers)),
    request(any_case(b"PXAT"), st.one_of(times_ms, past_absolute_times, bad_numbers)),
    most=2,
)
lcs_options = options(
    request(any_case(b"IDX")),
    request(any_case(b"LEN")),
    request(any_case(b"WITHMATCHLEN")),
    request(any_case(b"MINMATCHLEN"), st.sampled_from([b"0", b"2", b"4", b"-1", b"x"])),
    most=3,
)
# Strings of few letters have many longest subsequences, of which one is right.
few_letters = st.text("abc", max_size=24).map(str.encode)

pairs = st.lists(request(keys, values), min_size=1, max_size=3).map(
    lambda lists: [argument for pair in lists for argument in pair]
)
increments = st.one_of(numbers, st.integers(-100, 100).map(lambda n: b"%d" % n), bad_numbers)
key_lists = st.lists(keys, min_size=1, max_size=4)

_WELL_FORMED: list[Requests] = [
    request(b"GET", keys),
    request(b"SET", keys, values),
    joined(request(b"SET", keys, values), set_options),
    joined(request(b"GETEX", keys), getex_options),
    request(b"GETDEL", keys),
    request(b"GETSET", keys, values),
    request(b"SETNX", keys, values),
    request(b"SETEX", keys, seconds, values),
    request(b"PSETEX", keys, milliseconds, values),
    joined(request(b"MGET"), key_lists),
    joined(request(b"MSET"), pairs),
    joined(request(b"MSETNX"), pairs),
    request(b"APPEND", keys, values),
    request(b"STRLEN", keys),
    request(b"GETRANGE", keys, st.one_of(offsets, numbers), st.one_of(offsets, numbers)),
    request(b"SUBSTR", keys, offsets, st.one_of(offsets, bad_numbers)),
    request(
        b"SETRANGE",
        keys,
        st.one_of(offsets, st.sampled_from([b"30000", b"536870912"]), bad_numbers),
        st.one_of(small_texts.filter(lambda text: len(text) < 40), st.just(b"")),
    ),
    request(b"INCR", keys),
    request(b"DECR", keys),
    request(b"INCRBY", keys, increments),
    request(b"DECRBY", keys, increments),
    request(b"INCRBYFLOAT", keys, st.one_of(floats, floats, bad_floats)),
    joined(request(b"LCS", keys, keys), lcs_options),
    request(b"SET", keys, few_letters),
    request(b"SET", keys, st.one_of(large_texts, few_letters)),
    request(b"SET", keys, st.one_of(numbers, floats)),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]

LENIENCIES: Leniencies = {}
