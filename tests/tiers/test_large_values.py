"""Large values on a real server: what is sent is what was stored, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from tests.tiers.storage_process import Client, Storage, eventually, storage

KIB = limits.KIB
MIB = limits.MIB
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
# So often a value is copied before it is sent by reference.
COPIES = limits.EXTENT_COPIES_MAX


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with storage(tmp_path_factory.mktemp("storage"), "--memory", "1gb") as server:
        yield server


@pytest.fixture
def server(module_server: Storage) -> Storage:
    """A server without keys, and without what is left of earlier ones."""
    assert module_server.control("FLUSHALL") == "OK"
    eventually(lambda: module_server.info("pocketkv_extents_used_bytes") == 0)
    return module_server


def head(*arguments: bytes, size: int) -> bytes:
    """A request up to the beginning of its last argument, of that size."""
    whole = encode_request([*arguments, b""])
    return whole.removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % size


def send_by_reference(client: Client, key: bytes) -> bytes:
    """Read a value until it is no longer copied."""
    for _ in range(COPIES):
        client.get(key)
    return client.get(key)


@pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, MIB, 16 * MIB, 100 * MIB])
def test_what_was_stored_comes_back(server: Storage, size: int) -> None:
    data = data_of(size)
    writer, reader = server.client(), server.client(receive_buffer_bytes=64 * KIB)
    # In pieces that fit nothing.
    writer.send_raw(head(b"SET", b"key", size=size))
    view = memoryview(data)
    cut = random.Random(size)
    while view:
        count = cut.randrange(1, max(2, size // 5))
        writer.send_raw(view[:count])
        view = view[count:]
    writer.send_raw(b"\r\n")
    assert writer.receive(5) == b"+OK\r\n"
    for _ in range(COPIES + 2 if size <= MIB else 2):
        assert reader.get(b"key") == data
    assert writer("STRLEN", "key") == size


def test_a_slow_reader_holds_up_nobody(server: Storage) -> None:
    data = data_of(20 * MIB)
    client, slow = server.client(), server.client(receive_buffer_bytes=16 * KIB)
    client("SET", "key", data)
    slow.send(b"GET", b"key")
    asked = []

    def ask() -> None:
        asked.append(client("PING"))

    assert slow.bulk(pause=ask) == data
    assert len(asked) > 50


@pytest.mark.parametrize("by_reference", [False, True])
@pytest.mark.parametrize("change", ["SETRANGE", "APPEND", "SET", "DEL", "FLUSHALL", "GETDEL"])
def test_what_is_being_sent_does_not_change(
    server: Storage, change: str, by_reference: bool
) -> None:
    data = data_of(12 * MIB)
    client, slow = server.client(), server.client(receive_buffer_bytes=16 * KIB)
    client("SET", "key", data)
    if by_reference:
        send_by_reference(client, b"key")
    slow.send(b"GET", b"key")
    begun = slow.receive(1000)
    if change == "SETRANGE":
        client("SETRANGE", "key", 0, b"\xff" * (12 * MIB))
    elif change == "APPEND":
        client("APPEND", "key", b"\xff" * MIB)
    elif change == "SET":
        client("SET", "key", b"\xff" * (12 * MIB))
    elif change == "FLUSHALL":
        client("FLUSHALL")
    elif change == "GETDEL":
        client.send(b"GETDEL", b"key")
        assert client.bulk() == data
    else:
        client("DEL", "key")
    # Whatever was freed is used again.
    for number in range(30):
        client("SET", f"other{number}", b"\xee" * MIB)
    assert (
        slow.receive(len(b"$12582912\r\n") + len(data) + 2 - 1000)
        == ((b"$12582912\r\n" + data + b"\r\n")[1000:])
    )
    assert begun == (b"$12582912\r\n" + data)[:1000]


@pytest.mark.parametrize("by_reference", [False, True])
@pytest.mark.parametrize("change", ["SETRANGE", "DEL"])
def test_what_the_system_has_not_delivered_yet_does_not_change(
    server: Storage, change: str, by_reference: bool
) -> None:
    data = data_of(200 * KIB)
    client, slow = server.client(), server.client()
    client("SET", "key", data)
    if by_reference:
        send_by_reference(client, b"key")
    # The reply is short enough for the system's buffers: the server is done with it, and no
    # reader has seen it.
    slow.send(b"GET", b"key")
    commands = server.info("total_commands_processed")
    eventually(lambda: server.info("client_recent_max_output_buffer") < 100 * KIB)
    assert server.info("total_commands_processed") > commands
    if change == "SETRANGE":
        client("SETRANGE", "key", 0, b"\xff" * (200 * KIB))
    else:
        client("DEL", "key")
    for number in range(30):
        client("SET", f"other{number}", b"\xee" * (200 * KIB))
    assert slow.bulk() == data


def test_pipelined_writes_and_reads_keep_their_order(server: Storage) -> None:
    client = server.client()
    first, second = data_of(MIB, 1), data_of(MIB, 2)
    client.send(b"SET", b"key", first)
    client.send(b"GET", b"key")
    client.send(b"SELECT", b"1")
    client.send(b"SET", b"key", second)
    client.send(b"APPEND", b"key", first)
    client.send(b"GET", b"key")
    client.send(b"SELECT", b"0")
    client.send(b"GET", b"key")
    assert client.receive(5) == b"+OK\r\n"
    assert client.bulk() == first
    assert client.receive(20) == b"+OK\r\n+OK\r\n:2097152\r\n"[:20]
    assert client.receive(0) == b""
    assert client.bulk() == second + first
    assert client.receive(5) == b"+OK\r\n"
    assert client.bulk() == first


def test_small_and_large_requests_in_any_mixture(server: Storage) -> None:
    random_ = random.Random(1)
    sizes = [random_.choice([3, 900, 20_000, 65_535, 65_536, 70_000, 300_000]) for _ in range(300)]
    values = [random_.randbytes(size) for size in sizes]
    stream = b"".join(
        encode_request([b"SET", b"key%d" % number, value]) for number, value in enumerate(values)
    )
    client = server.client()
    position = 0
    while position < len(stream):
        count = random_.choice([1, 50, 1024, 5000, 65_536, 200_000])
        client.send_raw(stream[position : position + count])
        position += count
    assert client.receive(5 * len(values)) == b"+OK\r\n" * len(values)
    client.send(b"MGET", *[b"key%d" % number for number in range(len(values))])
    assert client.receive(6) == b"*300\r\n"
    for value in values:
        assert client.bulk() == value


def test_a_client_that_goes_away_leaves_nothing(server: Storage) -> None:
    client = server.client()
    client.send_raw(head(b"SET", b"key", size=50 * MIB) + bytes(20 * MIB))
    eventually(lambda: server.info("pocketkv_job_incoming_bytes") == 20 * MIB)
    client.close()
    eventually(lambda: server.info("pocketkv_job_incoming_bytes") == 0)
    eventually(lambda: server.info("pocketkv_extents_used_bytes") == 0)
    # So does one that does not read what it asked for.
    server.control("SET", "key", bytes(30 * MIB))
    client = server.client(receive_buffer_bytes=16 * KIB)
    client.send(b"GET", b"key")
    client.receive(100)
    server.control("DEL", "key")
    assert server.info("pocketkv_extents_used_bytes") >= 30 * MIB
    client.close()
    eventually(lambda: server.info("pocketkv_extents_used_bytes") == 0)


def test_what_is_announced_takes_no_memory(server: Storage) -> None:
    before = server.rss_bytes()
    clients = [server.client() for _ in range(100)]
    for client in clients:
        client.send_raw(head(b"SET", b"key", size=500 * MIB) + b"x")
    eventually(lambda: server.info("pocketkv_job_incoming_bytes") == len(clients))
    assert server.rss_bytes() - before < len(clients) * limits.EXTENT_FIRST_BYTES + 8 * MIB
    # Nor addresses, when nothing comes; and little memory.
    eventually(lambda: server.info("pocketkv_extents_reserved_bytes") == 0)
    assert server.info("pocketkv_extents_used_bytes") <= len(clients) * 4 * KIB
    for client in clients:
        client.close()


def test_memory_comes_back(tmp_path: Path) -> None:
    with storage(tmp_path, "--memory", "1gb") as server:
        before = server.rss_bytes()

        def differs() -> bool:
            used = server.info("used_memory")
            return abs(server.rss_bytes() - before - used) > 0.15 * used

        for number in range(200):
            server.control("SET", f"key{number}", data_of(MIB, number))
        assert not differs()
        for number in range(0, 200, 2):
            server.control("DEL", f"key{number}")
        assert 100 * MIB <= server.info("used_memory") < 101 * MIB
        eventually(lambda: not differs(), timeout_s=5.0)
        for number in range(1, 200, 20):
            assert server.control.get(b"key%d" % number) == data_of(MIB, number)
        server.control("FLUSHALL")
        eventually(lambda: server.rss_bytes() - before < 24 * MIB, timeout_s=5.0)


def test_without_memory_a_value_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    with storage(tmp_path, "--memory", "64mb") as server:
        client = server.client()
        assert client("SET", "a", bytes(40 * MIB)) == "OK"
        before = server.rss_bytes()
        client.send(b"SET", b"b", bytes(40 * MIB))
        client.send(b"PING")
        assert client.receive(len(OOM) + 7) == OOM + b"+PONG\r\n"
        assert server.rss_bytes() - before < 4 * MIB
        # Several that fit alone do not fit together.
        clients = [server.client() for _ in range(3)]
        for other in clients:
            other.send_raw(head(b"SET", b"c", size=10 * MIB) + bytes(10 * MIB - 1))
        eventually(lambda: server.info("pocketkv_job_incoming_bytes") in range(19 * MIB, 24 * MIB))
        for other in clients:
            other.send_raw(b"\0\r\n")
        replies = sorted(other.receive(5) for other in clients)
        assert replies == [b"+OK\r\n", b"+OK\r\n", b"-OOM "]
        assert client("STRLEN", "a") == 40 * MIB
