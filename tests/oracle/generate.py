"""What all generators of commands share: few keys, so that commands meet, and telling values.

A module ``commands_<topic>.py`` has

    STRATEGIES: list of strategies, each giving one request as a list of arguments;
    LENIENCIES: where replies may differ, and why (see `compare`).

Real Redis has no clock that can be set. So every expiry is either far away or past, and a
relative one is a placeholder: `resolve_times` gives each place in the sequence a time of its own,
or else whether one of two equal times is later would depend on the millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Request = list[bytes]
Requests = SearchStrategy[Request]

SECONDS = b"<seconds>"
MILLISECONDS = b"<milliseconds>"
FAR_SECONDS = 1_000_000
# More than a test takes, so that two such times never change places.
STEP_SECONDS = 1000

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

KEYS = (b"a", b"b", b"{a}c", b"", b"\x00\xff\r\n", b"list:[x]*")
keys = st.sampled_from(KEYS)

numbers = st.sampled_from(
    [b"0", b"1", b"-1", b"7", b"9999", b"10000", b"-12345", b"%d" % INT64_MAX, b"%d" % INT64_MIN]
)
bad_numbers = st.sampled_from(
    [
        b"",
        b"x",
        b" 1",
        b"1 ",
        b"+1",
        b"01",
        b"-0",
        b"1_0",
        b"1.0",
        b"%d" % (INT64_MAX + 1),
        b"1\x00",
    ]
)
floats = st.one_of(
    st.sampled_from(
        b"0 -0 1.5 -3.25 1e3 1e-3 .5 5. 0x1p3 1e400 1e4000 3.0e3 17179869184 0.1 -1e-17 1e17"
        b" 123456789012345678901234567890".split()
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode()),
)
bad_floats = st.sampled_from([b"", b"nan", b"inf", b"-inf", b" 1", b"1 ", b"1e", b"0x", b"1,5"])
small_texts = st.sampled_from(
    [b"", b"x", b"ohmytext", b"mynewtext", b"\x00\x01\xff", b"a" * 44, b"b" * 45, b"1" * 21]
)
large_texts = st.sampled_from(
    [
        *(b"large" * 700, b"\r\n$5" * 5000, bytes(40_000), b"7" * 17_000),
        # From 64 KiB on they are kept in extents.
        *(b"x" * 65_535, b"\r\n$5" * 16_500, b"0123456789" * 20_000),
    ]
)
values = st.one_of(small_texts, numbers, floats, large_texts)

offsets = st.sampled_from([b"0", b"1", b"2", b"-1", b"-2", b"-100", b"5", b"100"])

# Far from now and from each other; never past.
times_s = st.sampled_from([b"4000000000", b"5000000000", b"90000000000"])
times_ms = st.sampled_from([b"4000000000123", b"4000000000500", b"70000000000999"])
# At once, or an error.
past_times = st.sampled_from([b"0", b"-1", b"%d" % INT64_MIN])
past_absolute_times = st.sampled_from([b"0", b"-1", b"1", b"1000000000"])

junk = st.sampled_from(
    [
        *(b"", b"%d" % INT64_MAX, b"%d" % INT64_MIN),
        *b"x 0 -1 1.5 +1 NX xx GET KeepTTL EX px EXAT persist LT GT".split(),
        *b"COUNT MATCH TYPE REPLACE DB IDX LEN".split(),
    ]
)


def any_case(word: bytes) -> SearchStrategy[bytes]:
    """An option as clients write it."""
    return st.sampled_from([word, word, word.lower()])


def request(*parts: bytes | SearchStrategy[bytes]) -> Requests:
    """A request whose arguments are given or drawn."""
    drawn = [st.just(part) if isinstance(part, bytes) else part for part in parts]
    return st.tuples(*drawn).map(list)


def joined(*parts: Requests) -> Requests:
    """A request made of the arguments of several strategies."""
    return st.tuples(*parts).map(lambda lists: [argument for part in lists for argument in part])


def options(*choices: Requests, most: int = 3) -> Requests:
    """Some options in any order, perhaps none, perhaps twice the same."""
    return st.lists(st.one_of(*choices), max_size=most).map(
        lambda lists: [argument for part in lists for argument in part]
    )


def mutated(requests: Requests) -> Requests:
    """Requests with one argument too many, too few, or one that does not belong there."""

    @st.composite
    def mutate(draw: st.DrawFn) -> Request:
        arguments = list(draw(requests))
        position = draw(st.integers(1, len(arguments)))
        kind = draw(st.sampled_from(["insert", "replace", "remove"]))
        if kind == "insert" or position == len(arguments):
            arguments.insert(position, draw(junk))
        elif kind == "replace":
            arguments[position] = draw(junk)
        else:
            del arguments[position]
        return arguments

    return mutate()


def resolve_times(requests: Sequence[Request]) -> list[Request]:
    """Put times that differ from place to place in place of the placeholders."""
    resolved = []
    for number, arguments in enumerate(requests):
        # Alternately sooner and later than all before.
        seconds = FAR_SECONDS + STEP_SECONDS * (number if number % 2 else -number)
        times = {SECONDS: b"%d" % seconds, MILLISECONDS: b"%d" % (seconds * 1000 + 1)}
        resolved.append([times.get(argument, argument) for argument in arguments])
    return resolved
