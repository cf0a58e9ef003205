"""String commands: what the comparison with Redis cannot show, and a word on the rest."""

from __future__ import annotations

import time

import pytest

from pocketkv import limits
from pocketkv.engine.errors import OUT_OF_MEMORY, STRING_TOO_LONG, WRONG_TYPE
from tests.engine.harness import START_MS, Client, Engine
from tests.replies import Error

WRONG_TYPE_ERROR = Error(WRONG_TYPE.decode())


# --- whole values ------------------------------------------------------------------------------


def test_a_value_comes_back(client: Client) -> None:
    assert client("SET", "key", b"\x00\r\n\xff") == "OK"
    assert client("GET", "key") == b"\x00\r\n\xff"
    assert client.raw("GET", "key") == b"$4\r\n\x00\r\n\xff\r\n"


def test_no_value_is_null(client: Client, client3: Client) -> None:
    assert client.raw("GET", "key") == b"$-1\r\n"
    assert client3.raw("GET", "key") == b"_\r\n"


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_a_large_value_is_neither_copied_in_nor_out(client: Client) -> None:
    value = bytes(1_000_000)
    client.execute([b"SET", b"key", value])
    assert client.transport.take() == b"+OK\r\n"
    assert client.db.lookup(b"key") is value
    client.execute([b"GET", b"key"])
    assert any(piece.obj is value for piece in client.transport.outbox.pieces())


def test_set_forgets_the_expiry_and_keepttl_keeps_it(client: Client) -> None:
    client("SET", "key", "1", "EX", 100)
    client("SET", "key", "2", "KEEPTTL")
    assert client("TTL", "key") == 100
    client("SET", "key", "3")
    assert client("TTL", "key") == -1


def test_keepttl_does_not_keep_an_expiry_that_has_passed(engine: Engine, client: Client) -> None:
    client("SET", "key", "1", "PX", 10)
    engine.advance(20)
    assert client("SET", "key", "2", "KEEPTTL") == "OK"
    assert client("GET", "key") == b"2"
    assert client("TTL", "key") == -1


@pytest.mark.parametrize(
    ("option", "time", "due_ms"),
    [
        ("EX", 10, START_MS + 10_000),
        ("PX", 10, START_MS + 10),
        ("EXAT", 2_000_000_000, 2_000_000_000_000),
        ("PXAT", 2_000_000_000_001, 2_000_000_000_001),
    ],
)
def test_every_form_of_expiry(client: Client, option: str, time: int, due_ms: int) -> None:
    assert client("SET", "key", "1", option, time) == "OK"
    assert client("PEXPIRETIME", "key") == due_ms
    client("SET", "key", "2")
    assert client("GETEX", "key", option, time) == b"2"
    assert client("PEXPIRETIME", "key") == due_ms


def test_a_time_that_is_past_removes_the_key(client: Client) -> None:
    assert client("SET", "key", "1", "PXAT", START_MS) == "OK"
    assert client("GET", "key") is None
    client("SET", "key", "1")
    assert client("GETEX", "key", "EXAT", 1) == b"1"
    assert client("DBSIZE") == 0


def test_conditions_of_set(client: Client) -> None:
    assert client("SET", "key", "1", "XX") is None
    assert client("SET", "key", "1", "NX") == "OK"
    assert client("SET", "key", "2", "NX") is None
    assert client("SET", "key", "3", "NX", "GET") == b"1"
    assert client("SET", "key", "4", "XX", "GET") == b"1"
    assert client("SET", "new", "5", "NX", "GET") is None
    assert client("MGET", "key", "new") == [b"4", b"5"]


def test_a_refused_option_changes_nothing(client: Client) -> None:
    client("SET", "key", "1", "EX", 100)
    assert client("SET", "key", "2", "EX", 0) == Error("ERR invalid expire time in 'set' command")
    assert client("SET", "key", "2", "NX", "XX") == Error("ERR syntax error")
    assert client("GET", "key") == b"1"
    assert client("TTL", "key") == 100


def test_set_replaces_any_type_but_get_demands_a_string(client: Client) -> None:
    client("SADD", "key", "member")
    assert client("SET", "key", "1", "GET") == WRONG_TYPE_ERROR
    assert client("TYPE", "key") == "set"
    assert client("SET", "key", "1") == "OK"
    assert client("TYPE", "key") == "string"


@pytest.mark.parametrize(
    "command",
    "GET key|GETEX key|GETDEL key|GETSET key 1|APPEND key 1|STRLEN key|GETRANGE key 0 1|INCR key"
    "|SETRANGE key 0 1|INCRBY key 1|DECR key|DECRBY key 1|INCRBYFLOAT key 1|SUBSTR key 0 1".split(
        "|"
    ),
)
def test_no_string_is_an_error(client: Client, command: str) -> None:
    client("SADD", "key", "member")
    assert client(*command.split()) == WRONG_TYPE_ERROR
    assert client("TYPE", "key") == "set"


def test_getdel_and_getset(client: Client) -> None:
    client("SET", "key", "1", "EX", 100)
    assert client("GETSET", "key", "2") == b"1"
    assert client("TTL", "key") == -1
    assert client("GETDEL", "key") == b"2"
    assert client("GETDEL", "key") is None
    assert client("GETSET", "key", "3") is None


def test_setex_family(client: Client) -> None:
    assert client("SETEX", "key", 5, "1") == "OK"
    assert client("PTTL", "key") == 5000
    assert client("PSETEX", "key", 5, "2") == "OK"
    assert client("PTTL", "key") == 5
    assert client("SETEX", "key", 0, "3") == Error("ERR invalid expire time in 'setex' command")
    assert client("PSETEX", "key", -1, "3") == Error("ERR invalid expire time in 'psetex' command")
    assert client("SETNX", "key", "4") == 0
    assert client("GET", "key") == b"2"


# --- several keys ------------------------------------------------------------------------------


def test_mget_leaves_out_what_is_no_string(client: Client) -> None:
    client("MSET", "a", "1", "b", "2", "a", "3")
    client("SADD", "c", "member")
    assert client("MGET", "a", "b", "c", "d", "a") == [b"3", b"2", None, None, b"3"]


def test_msetnx_sets_all_or_none(client: Client) -> None:
    assert client("MSETNX", "a", "1", "b", "2") == 1
    assert client("MSETNX", "c", "1", "b", "3") == 0
    assert client("MGET", "a", "b", "c") == [b"1", b"2", None]


@pytest.mark.parametrize("name", ["mset", "msetnx"])
def test_a_key_without_a_value_sets_nothing(client: Client, name: str) -> None:
    expected = Error(f"ERR wrong number of arguments for '{name}' command")
    assert client(name, "a", "1", "b") == expected
    assert client("DBSIZE") == 0


# --- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["memory"], indirect=True)
def test_appending_is_cheap_and_accounted(engine: Engine, client: Client) -> None:
    client("SET", "key", bytes(4_000_000), "EX", 100)
    client("APPEND", "key", "x")
    value = client.db.lookup(b"key")
    started_s = time.process_time()
    for _ in range(2000):
        client.execute([b"APPEND", b"key", b"x" * 10])
    # Copying 4 MB 2000 times would take more than a second.
    assert time.process_time() - started_s < 0.5
    client.transport.take()
    assert client.db.lookup(b"key") is value
    assert client("STRLEN", "key") == 4_020_001
    assert client("TTL", "key") == 100
    engine.validate()


def test_what_was_read_does_not_change_with_the_value(client: Client) -> None:
    client("SET", "key", "a")
    client("APPEND", "key", "b" * limits.SHARED_REPLY_BYTES)
    client.execute([b"GET", b"key"])
    client.execute([b"SETRANGE", b"key", b"0", b"X"])
    sent = client.transport.take()
    assert sent.startswith(b"$16385\r\nabbb")
    assert client("GETRANGE", "key", 0, 1) == b"Xb"


def test_getrange(client: Client) -> None:
    client("SET", "key", "Hello World")
    assert client("GETRANGE", "key", 0, 3) == b"Hell"
    assert client("GETRANGE", "key", -5, -1) == b"World"
    assert client("GETRANGE", "key", 3, 1) == b""
    assert client("GETRANGE", "key", -1, -5) == b""
    assert client("GETRANGE", "key", -100, 2) == b"Hel"
    assert client("GETRANGE", "key", 5, 5000) == b" World"
    assert client("SUBSTR", "key", 0, -100) == b"H"
    assert client("GETRANGE", "none", 0, -1) == b""


def test_setrange_fills_gaps_with_zeros(engine: Engine, client: Client) -> None:
    assert client("SETRANGE", "key", 3, "abc") == 6
    assert client("GET", "key") == b"\0\0\0abc"
    assert client("SETRANGE", "key", 1, "xyz") == 6
    assert client("SETRANGE", "key", 8, "end") == 11
    assert client("GET", "key") == b"\0xyzbc\0\0end"
    assert client("SETRANGE", "none", 5, "") == 0
    assert client("EXISTS", "none") == 0
    engine.validate()


def test_a_string_has_a_longest_length(client: Client) -> None:
    too_long = Error(STRING_TOO_LONG.decode())
    client.session.node.bulk_bytes_max = 1000
    assert client("SETRANGE", "key", 1000, "x") == too_long
    assert client("SETRANGE", "key", 2**62, "x") == too_long
    assert client("EXISTS", "key") == 0
    assert client("SETRANGE", "key", 999, "x") == 1000
    assert client("APPEND", "key", "x") == too_long
    assert client("APPEND", "key", "") == 1000
    assert client("SETRANGE", "key", -1, "x") == Error("ERR offset is out of range")


def test_a_short_request_does_not_make_a_value_over_the_quota(client: Client) -> None:
    client.session.space.quota_bytes = 100_000
    assert client("SETRANGE", "key", 200_000, "x") == Error(OUT_OF_MEMORY.decode())
    assert client("EXISTS", "key") == 0
    assert client("SETRANGE", "key", 50_000, "x") == 50_001


# --- numbers -----------------------------------------------------------------------------------


def test_counting(client: Client) -> None:
    assert client("INCR", "key") == 1
    assert client("INCRBY", "key", 41) == 42
    assert client("DECR", "key") == 41
    assert client("DECRBY", "key", -1) == 42
    assert client("GET", "key") == b"42"
    assert client("OBJECT", "ENCODING", "key") == b"int"


def test_counting_stops_at_64_bits(client: Client) -> None:
    client("SET", "key", 2**63 - 1)
    overflow = Error("ERR increment or decrement would overflow")
    assert client("INCR", "key") == overflow
    assert client("DECRBY", "key", -(2**63)) == Error("ERR decrement would overflow")
    assert client("INCRBY", "key", -(2**63)) == -1
    assert client("INCRBY", "key", -(2**63)) == overflow


def test_counting_keeps_the_expiry(client: Client) -> None:
    client("SET", "key", "1", "EX", 100)
    client("INCR", "key")
    client("INCRBYFLOAT", "key", "0.5")
    client("APPEND", "key", "0")
    client("SETRANGE", "key", 0, "9")
    assert client("GET", "key") == b"9.50"
    assert client("TTL", "key") == 100


def test_counting_what_is_no_number(client: Client) -> None:
    client("SET", "key", "1.5")
    not_integer = Error("ERR value is not an integer or out of range")
    assert client("INCR", "key") == not_integer
    assert client("INCRBY", "key", "x") == not_integer
    assert client("INCRBYFLOAT", "key", "x") == Error("ERR value is not a valid float")
    assert client("GET", "key") == b"1.5"


def test_float_sums_are_decimal_to_people(client: Client) -> None:
    client("SET", "key", "10.50")
    assert client("INCRBYFLOAT", "key", "0.1") == b"10.6"
    assert client("INCRBYFLOAT", "key", "-5") == b"5.6"
    client("SET", "key", "5.0e3")
    assert client("INCRBYFLOAT", "key", "2.0e2") == b"5200"
    assert client("INCRBYFLOAT", "none", "3") == b"3"
    infinite = Error("ERR increment would produce NaN or Infinity")
    assert client("INCRBYFLOAT", "key", "inf") == infinite
    client("SET", "key", "1e4932")
    assert client("INCRBYFLOAT", "key", "1.1e4932") == infinite


# --- longest common subsequences ---------------------------------------------------------------


def test_subsequences(client: Client, client3: Client) -> None:
    client("MSET", "a", "ohmytext", "b", "mynewtext")
    assert client("LCS", "a", "b") == b"mytext"
    assert client("LCS", "a", "b", "LEN") == 6
    matches = [[[4, 7], [5, 8]], [[2, 3], [0, 1]]]
    assert client("LCS", "a", "b", "IDX") == [b"matches", matches, b"len", 6]
    with_length = client3("LCS", "a", "b", "IDX", "MINMATCHLEN", 4, "WITHMATCHLEN")
    assert with_length == {b"matches": [[[4, 7], [5, 8], 4]], b"len": 6}
    assert client("LCS", "a", "none") == b""
    assert client("LCS", "none", "none", "IDX") == [b"matches", [], b"len", 0]


def test_a_long_string_against_a_short_one_takes_no_time(client: Client) -> None:
    long = b"ab" * 1_000_000
    client("SET", "long", long)
    client("SET", "short", "bbba")
    started_s = time.process_time()
    assert client("LCS", "long", "short") == b"bbba"
    assert client("LCS", "short", "long") == b"bbba"
    assert client("LCS", "short", "long", "LEN") == 4
    assert time.process_time() - started_s < 2


def test_subsequences_are_of_strings_and_within_a_limit(client: Client) -> None:
    client("SADD", "set", "member")
    client("SET", "a", "x" * 999)
    expected = Error("ERR The specified keys must contain string values")
    assert client("LCS", "a", "set", "LEN", "IDX") == expected
    client.session.node.bulk_bytes_max = 4_000_000 - 1
    assert client("LCS", "a", "a") == Error(
        "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"
    )
    client.session.node.bulk_bytes_max = 4_000_000
    assert client("LCS", "a", "a", "LEN") == 999
