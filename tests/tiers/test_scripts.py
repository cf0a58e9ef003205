"""Scripts on a storage server's process: long ones, and whom they keep waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.replies import Error
from tests.tiers.files.servers import MEDIA, Client, Server, options_of, serving
from tests.tiers.storage_process import eventually


@pytest.fixture(scope="module", params=[medium for medium in MEDIA if medium in ("dram", "nvme")])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scripts")
    with serving(folder, *options_of(request.param, folder / "values")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    client = server.client()
    assert client("FLUSHALL") == "OK"
    assert client("CONFIG", "SET", "busy-reply-threshold", "100") == "OK"
    return client


def is_busy(client: Client) -> bool:
    reply = client("PING")
    return isinstance(reply, Error) and reply.text.startswith("BUSY")


def test_a_script_is_killed(server: Server, client: Client) -> None:
    script = server.client()
    script.send(b"EVAL", b"while true do pcall(function() while true do end end) end", b"0")
    eventually(lambda: is_busy(client))
    # New connections come in as well.
    another = server.client()
    assert is_busy(another)
    assert another("MULTI") == "OK"
    assert another("GET", "a").text.startswith("BUSY")
    assert client("SCRIPT", "KILL") == "OK"
    assert script.next_reply().text.startswith("ERR Script killed by user with SCRIPT KILL.")
    assert another("EXEC").text.startswith("EXECABORT")
    assert client("PING") == "PONG"


def test_what_waited_for_a_script_is_served_after_it(server: Server, client: Client) -> None:
    assert client("CONFIG", "SET", "busy-reply-threshold", "60000") == "OK"
    script = server.client()
    loop = "local n = 0 while n < 2e7 do n = n + 1 end return redis.call('INCR', 'a')"
    script.send(b"EVAL", loop.encode(), b"0")
    others = [server.client() for _ in range(5)]
    for other in others:
        other.send(b"INCR", b"a")
    replies = sorted([script.next_reply(), *(other.next_reply() for other in others)])
    assert replies == [1, 2, 3, 4, 5, 6]


def test_waiters_are_served_after_the_whole_script(server: Server, client: Client) -> None:
    waiter = server.client()
    waiter.send(b"BLPOP", b"list", b"0")
    eventually(lambda: b"blocked_clients:1" in client("INFO", "clients"))
    script = "redis.call('RPUSH', 'list', 'a', 'b') return redis.call('LPOP', 'list')"
    assert client("EVAL", script, "0") == b"a"
    assert waiter.next_reply() == [b"list", b"b"]


def test_large_values_go_through_scripts(server: Server, client: Client) -> None:
    large = b"x" * 3_000_000
    script = "redis.call('SET', KEYS[2], redis.call('GET', KEYS[1]) .. 'y')"
    script += " return redis.call('STRLEN', KEYS[2])"
    assert client("SET", "a", large) == "OK"
    assert client("EVAL", script, "2", "a", "b") == 3_000_001
    assert client("GET", "b") == large + b"y"


def test_a_transaction_on_values_that_are_on_the_medium(server: Server, client: Client) -> None:
    for number in range(50):
        client("SET", f"key:{number}", "v" * 1000)
    client("MULTI")
    for number in range(50):
        client("APPEND", f"key:{number}", "w")
    client("RENAME", "key:0", "key:new")
    client("STRLEN", "key:new")
    assert client("EXEC") == [1001] * 50 + ["OK", 1001]
