"""Arguments that Python reads otherwise than Redis."""

from __future__ import annotations

import pytest

from pocketkv.engine.arguments import (
    INT64_MAX,
    INT64_MIN,
    UINT64_MAX,
    Expiry,
    Glob,
    StringOptions,
    c_string,
    canonical_integer,
    glob_matches,
    parse_cursor,
    parse_double,
    parse_int,
    parse_int32,
    parse_int_within,
)
from pocketkv.engine.errors import (
    INVALID_CURSOR,
    NOT_FLOAT,
    NOT_INTEGER,
    SYNTAX,
    CommandError,
)


def refusal(function: object, *arguments: object, **options: object) -> bytes:
    """The text that a function refuses its arguments with."""
    assert callable(function)
    with pytest.raises(CommandError) as caught:
        function(*arguments, **options)
    return caught.value.text


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, -1, 10, INT64_MAX, INT64_MIN])
def test_integers_are_read(number: int) -> None:
    assert parse_int(b"%d" % number) == number
    assert canonical_integer(bytearray(b"%d" % number)) == number


@pytest.mark.parametrize(
    "text",
    [
        *rb"- +1 01 -0 -01 1_0 1.0 0x1 x 9223372036854775808 -9223372036854775809".split(),
        *(b"", b" 1", b"1 ", b"1\n", b"1\0", b"\xd9\xa1", b"1" * 5000),
    ],
)
def test_other_spellings_are_no_integers(text: bytes) -> None:
    assert canonical_integer(text) is None
    assert refusal(parse_int, text) == NOT_INTEGER
    assert refusal(parse_int, text, b"ERR mine") == b"ERR mine"


def test_integers_within() -> None:
    assert parse_int_within(b"5", 0, 5, b"ERR mine") == 5
    assert refusal(parse_int_within, b"6", 0, 5, b"ERR mine") == b"ERR mine"
    assert refusal(parse_int_within, b"x", 0, 5, b"ERR mine") == NOT_INTEGER
    assert parse_int32(b"-2147483648") == -(2**31)
    assert b"must between -2147483648 and 2147483647" in refusal(parse_int32, b"2147483648")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"1", 1.0),
        (b"-1.5", -1.5),
        (b".5", 0.5),
        (b"5.", 5.0),
        (b"1e3", 1000.0),
        (b"+1", 1.0),
        (b"inf", float("inf")),
        (b"-Infinity", float("-inf")),
        (b"0x10", 16.0),
        (b"0e5", 0.0),
        (b"5e-324", 5e-324),
    ],
)
def test_doubles_are_read(text: bytes, number: float) -> None:
    assert parse_double(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *b"1_0 nan -nan 1e400 -1e400 1e-400 x 1,5 0x 0x1p9999".split(),
        *(b"", b" 1", b"1 ", b"1\x1c", b"\x1c1", b"\xd9\xa1", b"1" * 6000),
    ],
)
def test_other_spellings_are_no_doubles(text: bytes) -> None:
    assert refusal(parse_double, text) == NOT_FLOAT


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"", 0),
        (b"17", 17),
        (b"007", 7),
        (b"+7", 7),
        (b"-1", UINT64_MAX),
        (b"-0", 0),
        (b"%d" % UINT64_MAX, UINT64_MAX),
        (b"0" * 6000 + b"5", 5),
        (b"5\0x", 5),
        (b"\0x", 0),
    ],
)
def test_cursors_are_read_as_c_does(text: bytes, number: int) -> None:
    assert parse_cursor(text) == number


@pytest.mark.parametrize(
    "text", [b"x", b"1x", b" 1", b"1 ", b"-", b"+", b"--1", b"%d" % (UINT64_MAX + 1), b"9" * 6000]
)
def test_other_spellings_are_no_cursors(text: bytes) -> None:
    assert refusal(parse_cursor, text) == INVALID_CURSOR


def test_c_shows_no_more_than_the_first_nul() -> None:
    assert c_string(b"ab\0c") == b"ab"
    assert c_string(b"ab") == b"ab"


# --- expiry ------------------------------------------------------------------------------------


def test_times_become_absolute_once() -> None:
    assert Expiry(b"2", seconds=True, absolute=False).due_ms(1000, "set") == 3000
    assert Expiry(b"2", seconds=False, absolute=False).due_ms(1000, "set") == 1002
    assert Expiry(b"2", seconds=True, absolute=True).due_ms(1000, "set") == 2000
    assert Expiry(b"2", seconds=False, absolute=True).due_ms(1000, "set") == 2


@pytest.mark.parametrize("text", [b"0", b"-1", b"%d" % INT64_MAX])
def test_impossible_times_name_the_command(text: bytes) -> None:
    expiry = Expiry(text, seconds=True, absolute=False)
    assert refusal(expiry.due_ms, 1000, "getex") == b"ERR invalid expire time in 'getex' command"


def test_a_time_may_be_the_last_one() -> None:
    expiry = Expiry(b"%d" % (INT64_MAX - 1000), seconds=False, absolute=False)
    assert expiry.due_ms(1000, "set") == INT64_MAX
    assert b"invalid expire" in refusal(expiry.due_ms, 1001, "set")
    assert refusal(Expiry(b"x", seconds=True, absolute=True).due_ms, 0, "set") == NOT_INTEGER


def set_options(text: str) -> StringOptions:
    options = StringOptions()
    options.parse_set([b"SET", b"key", b"value", *text.encode().split()])
    return options


def getex_options(text: str) -> StringOptions:
    options = StringOptions()
    options.parse_getex([b"GETEX", b"key", *text.encode().split()])
    return options


def test_options_are_read_in_any_order_and_case() -> None:
    options = set_options("gEt eX 5 xx")
    assert (options.get, options.only_existing, options.only_new) == (True, True, False)
    assert options.expiry is not None
    assert options.expiry.text == b"5"


def test_the_last_of_the_same_times_counts() -> None:
    expiry = set_options("EX 5 EX 6").expiry
    assert expiry is not None
    assert expiry.text == b"6"


@pytest.mark.parametrize(
    "text",
    "NX XX|XX NX|EX|EX 1 PX 1|KEEPTTL EX 1|EX 1 KEEPTTL|PERSIST|FOO|EX 1 FOO|EXAT 1 PXAT 1".split(
        "|"
    ),
)
def test_options_of_set_that_do_not_go_together(text: str) -> None:
    assert refusal(set_options, text) == SYNTAX


@pytest.mark.parametrize(
    "text", "PERSIST EX 1|EX 1 PERSIST|NX|GET|KEEPTTL|PX|EX 1 EXAT 1".split("|")
)
def test_options_of_getex_that_do_not_go_together(text: str) -> None:
    assert refusal(getex_options, text) == SYNTAX


# --- glob patterns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (b"", b""),
        (b"abc", b"abc"),
        (b"a*", b"a"),
        (b"a*", b"abc"),
        (b"*c", b"abc"),
        (b"a*c", b"ac"),
        (b"*a*b*", b"xxaxxbxx"),
        (b"a**", b"a"),
        (b"a?c", b"abc"),
        (b"[abc]", b"b"),
        (b"[a-c]x", b"bx"),
        (b"[c-a]x", b"bx"),
        (b"[^a]", b"b"),
        (b"[^", b"b"),
        (b"[a", b"a"),
        (b"[a-", b"-"),
        (b"\\*", b"*"),
        (b"\\a", b"a"),
        (b"a\\", b"a\\"),
        (b"[\\]]", b"]"),
        (b"[\x80-\xff]", b"\xf0"),
        (b"[\xff-a]", b"\x00"),
        (b"\xff*\x00", b"\xff\x00"),
    ],
)
def test_patterns_match(pattern: bytes, text: bytes) -> None:
    assert glob_matches(pattern, text)
    assert Glob(pattern).matches(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (b"", b"a"),
        (b"abc", b"ab"),
        (b"ab", b"abc"),
        (b"a*", b"ba"),
        (b"a*c", b"acb"),
        (b"?", b""),
        (b"?", b"ab"),
        (b"[abc]", b"d"),
        (b"[^a]", b"a"),
        (b"[]abc]", b"]"),
        (b"[", b"["),
        (b"\\*", b"a"),
        (b"[a-]", b"-"),
        (b"**", b""),
    ],
)
def test_patterns_do_not_match(pattern: bytes, text: bytes) -> None:
    assert not glob_matches(pattern, text)
    assert not Glob(pattern).matches(text)


def test_a_lone_star_matches_even_nothing() -> None:
    assert Glob(b"*").matches(b"")
    assert Glob(b"*").matches_all
    assert not glob_matches(b"*", b"")


def test_many_stars_take_no_time() -> None:
    # Trying every way to share the text among the stars would take for ever.
    assert not glob_matches(b"a*" * 60 + b"b", b"a" * 2000)
