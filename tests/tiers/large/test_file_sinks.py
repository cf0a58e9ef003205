from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketkv.engine.sinks import RefusedString, charged_bytes, settle
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.parser import NEED_DATA
from pocketkv.tiers.volume.data_file import DataFile, Descriptors
from pocketkv.tiers.volume.file_sinks import FileSink, FileSinks, warm_buffer
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from pocketkv.tiers.volume.pacing import Pacer
from tests.engine.harness import Client, Engine
from tests.tiers.large.support import MIB, some_bytes, used_bytes

LARGE = some_bytes(300_000, 7)


class Server:
    """An engine whose large strings are received into files."""

    def __init__(self, directory: Path, memory_bytes: int = 64 * MIB) -> None:
        self.engine = Engine(memory_bytes=memory_bytes)
        self.file = LargeFile(directory / "job", Descriptors())
        self.warm = warm_buffer()

    def connect(self) -> Client:
        client = self.engine.connect()
        client.parser.sinks = FileSinks(client.session, lambda job_id: self.file, self.warm)
        return client

    def sink(self, size: int) -> FileSink:
        return FileSink(lambda job_id: self.file, self.engine.space, size, self.warm)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    assert server.engine.keyspace.incoming_bytes == 0
    assert server.file.live_bytes == 0


def receive(sink: FileSink, data: bytes) -> None:
    while data:
        view = sink.writable()
        assert len(view)
        part = data[: len(view)]
        view[: len(part)] = part
        sink.wrote(len(part))
        data = data[len(part) :]


def received(client: Client, *arguments: bytes) -> list[Any]:
    """A request as it comes out of the parser, sent in several parts."""
    data = encode_request(list(arguments))
    request: object = NEED_DATA
    for start in range(0, len(data), 50_000):
        client.parser.feed(data[start : start + 50_000])
        request = client.parser.next_request()
    assert isinstance(request, list)
    return request


@pytest.mark.parametrize("step", [1000, 65536, MIB])
@pytest.mark.parametrize("size", [65536, 262_144, 700_001])
def test_a_string_is_what_was_received(server: Server, size: int, step: int) -> None:
    data = some_bytes(size)
    sink = server.sink(size)
    for start in range(0, size, step):
        receive(sink, data[start : start + step])
    string = sink.finish()
    assert isinstance(string, FileString)
    string.validate()
    assert bytes(string) == data
    assert string.pieces == 1
    assert sink.buffered_bytes == 0


def test_several_are_received_in_turn(server: Server) -> None:
    size = 400_000
    sinks = [server.sink(size) for _ in range(5)]
    for start in range(0, size, 10_000):
        for number, sink in enumerate(sinks):
            receive(sink, some_bytes(size, number)[start : start + 10_000])
    for number, sink in enumerate(sinks):
        assert bytes(sink.finish()) == some_bytes(size, number)  # type: ignore[arg-type]
    sinks.clear()
    del sink


def test_requests_bring_strings_in_files(server: Server) -> None:
    client = server.connect()
    request = received(client, b"SET", b"key", LARGE)
    value = request[2]
    assert isinstance(value, FileString)
    assert bytes(value) == LARGE
    assert server.engine.space.incoming_bytes == len(LARGE)
    assert charged_bytes(request) == len(LARGE)
    settle(request)
    assert server.engine.space.incoming_bytes == 0
    assert type(received(client, b"ECHO", LARGE)[1]) is bytes
    assert type(received(client, LARGE)[0]) is bytes


def test_a_set_value_is_served_by_the_engine(server: Server) -> None:
    client = server.connect()
    assert client("SET", "key", LARGE) == "OK"
    assert isinstance(client.db.lookup(b"key"), FileString)
    assert client("STRLEN", "key") == len(LARGE)
    assert client("GET", "key") == LARGE
    assert client("GETRANGE", "key", 5, 200_000) == LARGE[5:200_001]
    assert client("COPY", "key", "{key}2") == 1
    assert client("TYPE", "key") == "string"
    assert client("OBJECT", "ENCODING", "key") == b"raw"
    assert len(LARGE) < client("MEMORY", "USAGE", "key") < len(LARGE) + 8192
    server.engine.validate()
    assert client("DEL", "key", "{key}2") == 2


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    client = server.connect()
    whole = encode_request([b"SET", b"key", some_bytes(2 * MIB)])
    client.parser.feed(whole[: MIB + 100])
    assert client.parser.next_request() is NEED_DATA
    assert MIB < server.engine.space.incoming_bytes < MIB + 100
    # It announced much, and takes no more than twice what it sent.
    assert used_bytes(server.file.directory) <= 2 * MIB + 300_000
    client.disconnect()
    assert server.engine.space.incoming_bytes == 0
    assert server.file.live_bytes == 0
    server.file.punch_pending()
    assert used_bytes(server.file.directory) <= 65536


def test_a_client_that_stops_loses_what_it_does_not_use(server: Server) -> None:
    size = 8 * MIB
    data = some_bytes(size)
    sink = server.sink(size)
    receive(sink, data[: MIB + 5])
    sink.give_back_rest()
    assert server.file.live_bytes == size
    sink.give_back_rest()
    # What has no page of its own yet is not written yet.
    assert server.file.live_bytes == MIB
    receive(sink, data[MIB + 5 :])
    string = sink.finish()
    assert isinstance(string, FileString)
    assert bytes(string) == data
    assert string.pieces == 2
    assert bytes(string) == data


def test_a_client_that_sent_nothing_yet(server: Server) -> None:
    sink = server.sink(2 * MIB)
    sink.give_back_rest()
    assert not server.file.directory.exists()
    sink.abort()


def test_what_the_job_has_no_room_for_is_received_and_forgotten(tmp_path: Path) -> None:
    server = Server(tmp_path, memory_bytes=MIB)
    sink = server.sink(2 * MIB)
    receive(sink, some_bytes(2 * MIB))
    assert type(sink.finish()) is RefusedString
    assert not server.file.directory.exists()
    # It may also turn out later.
    sink = server.sink(MIB - 1000)
    receive(sink, bytes(1000))
    server.engine.space.account(2 * MIB)
    receive(sink, bytes(MIB - 2000))
    assert isinstance(sink.finish(), RefusedString)
    assert server.engine.space.incoming_bytes == 0
    server.engine.space.account(-2 * MIB)


def test_a_device_without_room_refuses(server: Server) -> None:
    sink = server.sink(2 * MIB)
    receive(sink, some_bytes(500_000))
    server.file.may_use = lambda size: False
    receive(sink, some_bytes(2 * MIB - 500_000))
    string = sink.finish()
    assert isinstance(string, RefusedString)
    assert string.text.startswith(b"OOM no room")
    assert len(string) > 2**40


def test_an_error_of_the_device_refuses_with_its_reason(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = server.sink(MIB)
    receive(sink, some_bytes(200_000))

    def fail(self: DataFile, offset: int, data: memoryview) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(DataFile, "write", fail)
    receive(sink, some_bytes(MIB - 200_000))
    string = sink.finish()
    assert isinstance(string, RefusedString)
    assert string.text == b"IOERR the device failed: Input/output error"


def test_a_string_that_is_not_whole(server: Server) -> None:
    sink = server.sink(MIB)
    with pytest.raises(ValueError, match="not whole"):
        sink.finish()


def test_a_medium_that_stays_behind_refuses_what_is_under_way(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.file.pacer = pacer = Pacer()
    client = server.connect()
    begun = server.sink(2 * MIB)
    receive(begun, bytes(MIB))
    pacer.refuses = True
    receive(begun, bytes(MIB))
    refused = begun.finish()
    assert isinstance(refused, RefusedString)
    assert refused.text.startswith(b"IOERR the medium takes no writes: it has been behind for ")
    # What begins now as well.
    reply = client(b"SET", b"key", LARGE)
    assert reply.text == refused.text.decode()
    pacer.refuses = False
    assert client(b"SET", b"key", LARGE) == "OK"
    assert client(b"DEL", b"key") == 1
    assert server.file.live_bytes == 0
