"""SORT on every medium, and where keys are on several servers; else tests/oracle compares it."""

from __future__ import annotations

import pytest

from pocketkv.engine.extents import Extents
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium
from tests.replies import Error


def test_lists_sets_and_sorted_sets_are_sorted(client: Client) -> None:
    client("RPUSH", "list", 3, 10, 2)
    client("SADD", "set", 3, 10, 2)
    client("ZADD", "zset", 9, 3, 8, 10, 7, 2)
    for key in ("list", "set", "zset"):
        assert client("SORT", key) == [b"2", b"3", b"10"]
        assert client("SORT_RO", key, "ALPHA", "DESC") == [b"3", b"2", b"10"]
        assert client("SORT", key, "LIMIT", 1, 1) == [b"3"]


def test_what_decides_and_what_is_answered_may_be_elsewhere(client: Client) -> None:
    client("RPUSH", "list", "a", "b", "c")
    client("MSET", "weight:a", 3, "weight:b", 1, "weight:c", 2)
    client("HSET", "object:a", "name", "first")
    sort = ("SORT", "list", "BY", "weight:*", "GET", "#", "GET", "object:*->name")
    assert client(*sort) == [b"b", None, b"c", None, b"a", b"first"]
    assert client(*sort, "STORE", "sorted") == 6
    assert client("LRANGE", "sorted", 0, -1) == [b"b", b"", b"c", b"", b"a", b"first"]


def test_nothing_that_is_stored_removes_what_was_there(client: Client) -> None:
    client("SET", "target", "value")
    assert client("SORT", "nosuch", "STORE", "target") == 0
    assert client("EXISTS", "target") == 0


def test_what_is_no_number_is_sorted_as_text_only(client: Client) -> None:
    client("RPUSH", "list", "a", "1")
    error = Error("ERR One or more scores can't be converted into double")
    assert client("SORT", "list") == error
    assert client("SORT", "list", "STORE", "target") == error
    assert client("EXISTS", "target") == 0
    assert client("SORT", "list", "ALPHA") == [b"1", b"a"]


@pytest.mark.parametrize("option", ["BY", "GET"])
def test_patterns_are_refused_where_keys_may_be_on_other_servers(option: str) -> None:
    engine = Engine()
    client = engine.connect()
    client("RPUSH", "{tag}list", "1", "2")
    client("MSET", "{tag}1", 2, "{tag}2", 1)
    engine.own_only([(0, 16382)])
    denied = Error(f"ERR {option} option of SORT denied in cluster mode.")
    assert client("SORT", "{tag}list", option, "weight:*") == denied
    assert client("SORT", "{tag}list", option, "*{tag}") == denied
    assert client("SORT", "{tag}list", option, "{other}*") == denied
    assert client("SORT", "{tag}list") == [b"1", b"2"]
    # These are where the list is.
    assert client("SORT", "{tag}list", option, "{tag}*") == [b"2", b"1"]
    assert client("SORT", "{tag}list", "GET", "#") == [b"1", b"2"]


def test_one_large_string_for_many_elements_must_fit_into_the_quota() -> None:
    engine = Engine(extents=Extents(FakeMedium(64 * 256, page_bytes=4096)))
    client = engine.connect()
    client("RPUSH", "list", *range(1000))
    client("SET", "large:", "x" * 100_000)
    engine.space.quota_bytes = 1_000_000
    client("RPUSH", "empty", *[""] * 1000)
    reply = client("SORT", "empty", "ALPHA", "GET", "large:*", "STORE", "target")
    assert isinstance(reply, Error)
    assert reply.text.startswith("OOM")
    assert client("EXISTS", "target") == 0
    engine.validate()


def test_its_keys_are_found_among_its_arguments(client: Client) -> None:
    keys = client("COMMAND", "GETKEYS", "SORT", "a", "BY", "STORE", "STORE", "b", "STORE", "c")
    assert keys == [b"a", b"c"]


def test_a_sorted_set_that_was_sorted_has_the_form_of_large_ones() -> None:
    client = Engine().connect()
    client("ZADD", "key", 1, "1")
    assert client("OBJECT", "ENCODING", "key") == b"listpack"
    client("SORT_RO", "key")
    assert client("OBJECT", "ENCODING", "key") == b"skiplist"
