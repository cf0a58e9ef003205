"""Clients that wait for elements, on real connections: what is taken is received, or stays."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiers.files.servers import MEDIA, Client, Server, options_of, serving
from tests.tiers.storage_process import eventually


@pytest.fixture(scope="module", params=[medium for medium in MEDIA if medium in ("dram", "nvme")])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("blocked")
    with serving(folder, *options_of(request.param, folder / "values")) as server:
        yield server


@pytest.fixture
def other(server: Server) -> Client:
    client = server.client()
    assert client("FLUSHALL") == "OK"
    return client


def blocked_clients(client: Client) -> int:
    text: str = client("INFO", "clients").decode()
    (line,) = [line for line in text.splitlines() if line.startswith("blocked_clients:")]
    return int(line.partition(":")[2])


def wait(server: Server, other: Client, *requests: str) -> list[Client]:
    """Connections that wait, in this order."""
    clients = []
    for request in requests:
        before = blocked_clients(other)
        client = server.client()
        client.send(*request.encode().split())
        eventually(lambda before=before: blocked_clients(other) == before + 1)  # type: ignore[misc]
        clients.append(client)
    return clients


def is_quiet(client: Client) -> bool:
    return not select.select([client.socket], [], [], 0)[0]


def test_one_push_serves_several(server: Server, other: Client) -> None:
    clients = wait(server, other, "BLPOP a b 0", "BRPOP b 0", "BLMPOP 0 2 c b LEFT COUNT 9")
    assert other("RPUSH", "b", *range(5)) == 5
    assert [client.next_reply() for client in clients] == [
        [b"b", b"0"],
        [b"b", b"4"],
        [b"b", [b"1", b"2", b"3"]],
    ]
    assert other("EXISTS", "b") == 0


def test_requests_behind_a_blocking_one_wait(server: Server, other: Client) -> None:
    (client,) = wait(server, other, "BLPOP a 0")
    client.send(b"PING")
    client.send(b"LLEN", b"b")
    assert other("RPUSH", "b", "x") == 1
    assert is_quiet(client)
    assert other("RPUSH", "a", "y") == 1
    assert [client.next_reply() for _ in range(3)] == [[b"a", b"y"], "PONG", 1]


def test_moves_from_list_to_list_to_client(server: Server, other: Client) -> None:
    clients = wait(server, other, "BLMOVE a b LEFT RIGHT 0", "BRPOPLPUSH b c 0", "BLPOP c 0")
    assert other("LPUSH", "a", "x") == 1
    assert [client.next_reply() for client in clients] == [b"x", b"x", [b"c", b"x"]]
    assert other("DBSIZE") == 0


def test_a_wait_ends_in_time(server: Server, other: Client) -> None:
    (client,) = wait(server, other, "BLPOP a 0.05")
    assert client.next_reply() is None
    assert blocked_clients(other) == 0
    assert other("RPUSH", "a", "x") == 1
    assert other("LLEN", "a") == 1


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
def test_one_who_has_gone_takes_nothing(server: Server, other: Client, half: bool) -> None:
    """The push is served before the server looks at the connection that has gone."""
    gone, stays = wait(server, other, "BLPOP a 0", "BLPOP a 0")
    # Something unread does not hide the end.
    gone.send(b"PING")
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        other.send(b"RPUSH", b"a", b"x")
        if half:
            gone.socket.shutdown(1)
        else:
            gone.close()
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert other.next_reply() == 1
    assert stays.next_reply() == [b"a", b"x"]
    eventually(lambda: blocked_clients(other) == 0)
    assert other("EXISTS", "a") == 0


def test_a_client_is_unblocked_by_another(server: Server, other: Client) -> None:
    client = server.client()
    client_id = client("CLIENT", "ID")
    client.send(b"BLPOP", b"a", b"0")
    eventually(lambda: blocked_clients(other) == 1)
    assert other("CLIENT", "UNBLOCK", client_id, "ERROR") == 1
    assert client.next_reply().text.startswith("UNBLOCKED")


def test_what_was_taken_is_gone_after_a_crash(tmp_path: Path) -> None:
    options = options_of("nvme", tmp_path / "values")
    with serving(tmp_path, *options) as server:
        other = server.client()
        mover, taker = wait(server, other, "BLMOVE a kept LEFT LEFT 0", "BLPOP b 0")
        assert other("RPUSH", "a", "x", "y") == 2
        assert other("RPUSH", "b", "z", *["more"] * 100) == 101
        assert mover.next_reply() == b"x"
        assert taker.next_reply() == [b"b", b"z"]
        server.kill()
    with serving(tmp_path, *options) as server:
        other = server.control
        assert other("LRANGE", "kept", 0, -1) == [b"x"]
        assert other("LRANGE", "a", 0, -1) == [b"y"]
        assert other("LRANGE", "b", 0, -1) == [b"more"] * 100


def test_a_queue_on_files_does_not_write_itself_anew(tmp_path: Path) -> None:
    """A push and a pop write about their element, though the queue is large."""
    options = options_of("nvme", tmp_path / "values")
    with serving(tmp_path, *options) as server:
        client = server.control
        for _ in range(20):
            assert client("RPUSH", "queue", *[b"x" * 1000] * 500)
        before = written_bytes(server)
        for _ in range(200):
            client.send(b"RPUSH", b"queue", b"y" * 1000)
            client.send(b"LPOP", b"queue")
        for _ in range(200):
            client.next_reply()
            client.next_reply()
        # The queue is 10 MB.
        assert written_bytes(server) - before < 40_000_000


def written_bytes(server: Server) -> int:
    text = Path(f"/proc/{server.process.pid}/io").read_text(encoding="ascii")
    (line,) = [line for line in text.splitlines() if line.startswith("wchar:")]
    return int(line.partition(":")[2])
