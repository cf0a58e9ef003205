"""Random commands on HyperLogLogs: what GET shows of them must be the same bytes."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies
from tests.oracle.generate import Requests, joined, keys, mutated, request, values

few_elements = st.lists(st.one_of(st.binary(max_size=20), values), max_size=6)
# So many that registers become dense, and just not.
many_elements = st.tuples(
    st.sampled_from([20, 300, 900, 1500]), st.integers(0, 3), st.integers(0, 20)
).map(lambda n: [b"%b%d" % (b"x" * n[2], number + n[1] * 500) for number in range(n[0])])
key_lists = st.lists(keys, min_size=1, max_size=4)

# Whatever has the header may still be none.
_HEADER = b"HYLL\x01\0\0\0" + bytes(8)
strings = st.one_of(
    st.sampled_from(
        [
            *(b"", b"HYLL", _HEADER, _HEADER + b"\x7f\xfe", _HEADER + b"\x7f\xff\x00"),
            *(_HEADER + b"\x7f", _HEADER + b"\x84" * 5, b"hyll" + _HEADER[4:] + b"\x7f\xff"),
            *(b"HYLL\x02" + bytes(13), b"HYLL" + bytes(12), b"HYLL" + bytes(12_300)),
            *(b"HYLL" + bytes(11) + b"\x80" + bytes(12_288), _HEADER + b"\x7f\xff"),
            b"HYLL" + bytes(11) + b"\x80" + b"\x41\x10\x04" * 4096,
        ]
    ),
    values,
)

_WELL_FORMED: list[Requests] = [
    joined(request(b"PFADD", keys), few_elements),
    joined(request(b"PFADD", keys), few_elements),
    joined(request(b"PFADD", keys), many_elements),
    joined(request(b"PFADD", keys), many_elements),
    request(b"PFCOUNT", keys),
    joined(request(b"PFCOUNT"), key_lists),
    joined(request(b"PFMERGE"), key_lists),
    joined(request(b"PFMERGE"), key_lists),
    request(b"PFDEBUG", st.sampled_from([b"ENCODING", b"decode", b"TODENSE", b"GETREG"]), keys),
    request(b"SET", keys, strings),
    request(b"APPEND", keys, st.sampled_from([b"", b"\x7f", b"\x80"])),
    request(b"GET", keys),
    request(b"GET", keys),
    request(b"OBJECT", b"ENCODING", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]
LENIENCIES: Leniencies = {}
