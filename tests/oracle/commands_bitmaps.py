"""Random commands on strings as rows of bits."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies
from tests.oracle.generate import (
    Requests,
    any_case,
    bad_numbers,
    joined,
    keys,
    mutated,
    numbers,
    request,
)

# Dense and sparse, short and so long that they are kept in extents.
bitmaps = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            *(bytes(9), b"\xff" * 17, bytes(70_000), b"\xff" * 70_000),
            *(
                bytes(66_000) + b"\x01",
                b"\xff" * 2000 + b"\x7f" + b"\xff" * 65_000,
                b"foobar" * 11_000,
            ),
        ]
    ),
)
bits = st.sampled_from([b"0", b"1", b"1", b"2", b"-1", b"", b"x"])
near_offsets = st.integers(0, 120).map(lambda offset: b"%d" % offset)
offsets = st.one_of(
    near_offsets,
    near_offsets,
    st.sampled_from([b"527999", b"528000", b"600000", b"4294967296", b"-1", b"34359738368"]),
    bad_numbers,
)
ends = st.one_of(
    st.integers(-20, 20).map(lambda end: b"%d" % end),
    st.integers(-130, 130).map(lambda end: b"%d" % end),
    st.sampled_from([b"-70000", b"65999", b"66000", b"528001", b"-560001"]),
    numbers,
    bad_numbers,
)
units = st.sampled_from([[], [], [b"BIT"], [b"bit"], [b"BYTE"], [b"x"], [b"BIT", b"x"]])
operations = st.sampled_from([b"AND", b"OR", b"XOR", b"NOT", b"and", b"not", b"NAND"])
key_lists = st.lists(keys, min_size=1, max_size=3)

kinds = st.one_of(
    st.tuples(st.sampled_from(b"iu"), st.integers(1, 63)).map(lambda k: b"%c%d" % k),
    st.sampled_from([b"u8", b"i8", b"i64", b"u1", b"u64", b"i65", b"u0", b"x8", b"u", b"i08"]),
)
field_offsets = st.one_of(
    near_offsets,
    st.integers(0, 9).map(lambda offset: b"#%d" % offset),
    st.sampled_from([b"527990", b"600000", b"-1", b"#-1", b"#", b"#x", b"##1"]),
)
amounts = st.one_of(st.integers(-300, 300).map(lambda n: b"%d" % n), numbers, bad_numbers)
field_operations = st.lists(
    st.one_of(
        request(any_case(b"GET"), kinds, field_offsets),
        request(any_case(b"SET"), kinds, field_offsets, amounts),
        request(any_case(b"INCRBY"), kinds, field_offsets, amounts),
        request(any_case(b"OVERFLOW"), st.sampled_from([b"WRAP", b"sat", b"FAIL", b"x"])),
    ),
    max_size=5,
).map(lambda lists: [argument for part in lists for argument in part])

_WELL_FORMED: list[Requests] = [
    request(b"SET", keys, bitmaps),
    request(b"SET", keys, bitmaps),
    request(b"APPEND", keys, bitmaps),
    request(b"SETBIT", keys, offsets, bits),
    request(b"SETBIT", keys, offsets, bits),
    request(b"GETBIT", keys, offsets),
    request(b"BITCOUNT", keys),
    joined(request(b"BITCOUNT", keys, ends, ends), units),
    joined(request(b"BITCOUNT", keys, ends, ends), units),
    request(b"BITPOS", keys, bits),
    request(b"BITPOS", keys, bits, ends),
    joined(request(b"BITPOS", keys, bits, ends, ends), units),
    joined(request(b"BITPOS", keys, bits, ends, ends), units),
    joined(request(b"BITOP", operations, keys), key_lists),
    joined(request(b"BITFIELD", keys), field_operations),
    joined(request(b"BITFIELD", keys), field_operations),
    joined(request(b"BITFIELD_RO", keys), field_operations),
    request(b"GET", keys),
    request(b"STRLEN", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]
LENIENCIES: Leniencies = {}
