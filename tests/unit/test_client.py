"""The files of the users' client, against a real Redis server, plain and in cluster mode."""

from __future__ import annotations

import array
import errno
import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import BinaryIO, cast

import pytest
import redis

from pocketkv import client
from pocketkv.client import connection, files, transfer
from pocketkv.client.connection import Packer
from tests.redis_server import free_port, redis_server

START_TIMEOUT_S = 10.0

# --- a real Redis --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_url() -> Iterator[str]:
    with redis_server(tcp=True) as server:
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    # Its own port plus 10000 may be none.
    bus = ("--cluster-port", str(free_port()))
    with redis_server("--cluster-enabled", "yes", *bus, tcp=True) as server:
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = monotonic() + START_TIMEOUT_S
            while b"state:ok" not in cast("bytes", admin.execute_command("CLUSTER", "INFO")):
                assert monotonic() < deadline
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture(params=["plain", "cluster"])
def storage(request: pytest.FixtureRequest) -> Iterator[client.PocketClient]:
    url = request.getfixturevalue(f"{request.param}_url")
    with client.connect(url, cluster=request.param == "cluster", retries=0) as opened:
        yield opened
        opened.redis.flushall()


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
def test_a_buffer_comes_back_whole(storage: client.PocketClient, size: int) -> None:
    data = os.urandom(size)
    assert storage.put_buffer(data, "a") == size
    assert storage.get_buffer("a") == data
    assert storage.lookup("a") == client.FileInfo(b"a", size)


def test_every_kind_of_buffer_is_taken(storage: client.PocketClient) -> None:
    assert storage.put_buffer(bytearray(b"abc"), "a") == 3
    assert storage.put_buffer(memoryview(b"0abcd0")[1:5], b"\xff\x00key") == 4
    assert storage.get_buffer(b"\xff\x00key") == b"abcd"
    # The size is that of the bytes, not of the elements.
    assert storage.put_buffer(memoryview(array.array("I", [1, 2])), "n") == 8
    assert storage.get_buffer("n") == bytes([1, 0, 0, 0, 2, 0, 0, 0])


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_a_file_comes_back_whole(storage: client.PocketClient, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(os.urandom(size))
    assert storage.put(source, "dir/file") == size
    assert storage.get("dir/file", str(target)) == size
    assert target.read_bytes() == source.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_open_files_are_read_and_written_from_where_they_stand(
    storage: client.PocketClient,
) -> None:
    source = io.BytesIO(b"skipped, stored")
    source.seek(9)
    assert storage.put(source, "a") == 6
    target = io.BytesIO()
    target.write(b"before:")
    assert storage.get("a", target, delete_after_read=True) == 6
    assert target.getvalue() == b"before:stored"
    assert storage.lookup("a") is None


def test_delete_after_read_gives_the_file_once(storage: client.PocketClient) -> None:
    storage.put_buffer(b"x", "once")
    assert storage.get_buffer("once", delete_after_read=True) == b"x"
    with pytest.raises(client.FileMissingError, match="no file b'once'"):
        storage.get_buffer("once", delete_after_read=True)


def test_a_missing_file_leaves_the_destination_as_it_was(
    storage: client.PocketClient, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(LookupError):
        storage.get("missing", target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_destination_that_cannot_be_written_keeps_the_key(
    storage: client.PocketClient, tmp_path: Path
) -> None:
    storage.put_buffer(b"precious", "a")
    with pytest.raises(FileNotFoundError):
        storage.get("a", tmp_path / "missing" / "out", delete_after_read=True)
    # /dev/full takes nothing; a path that is a device is written to, not replaced.
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        storage.get("a", "/dev/full", delete_after_read=True)
    assert Path("/dev/full").is_char_device()
    assert storage.get_buffer("a") == b"precious"


def test_a_link_is_followed_and_not_replaced(storage: client.PocketClient, tmp_path: Path) -> None:
    storage.put_buffer(b"new", "a")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.get("a", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_set_is_no_file(storage: client.PocketClient) -> None:
    storage.redis.sadd("s", "member")
    for read in (storage.get_buffer, storage.lookup):
        with pytest.raises(client.CommandRefusedError, match="WRONGTYPE"):
            cast("Callable[[str], object]", read)("s")
    assert storage.delete("s")


def test_delete_says_whether_there_was_a_file(storage: client.PocketClient) -> None:
    storage.put_buffer(b"", "empty")
    assert storage.lookup("empty")
    assert storage.delete("empty")
    assert not storage.delete("empty")


def test_prefixes_are_texts_and_not_patterns(storage: client.PocketClient) -> None:
    names = ["a/1", "a/2", "a*", "a?b", "[x]1", "x1", "\\n", "n", "b"]
    for name in names:
        storage.put_buffer(b"v", name)
    assert storage.count_files() == len(names)
    assert storage.count_files("a/") == 2
    assert storage.count_files("a*") == 1
    assert storage.count_files("a") == 4
    assert storage.delete_prefix("a?") == 1
    assert storage.delete_prefix("[x]") == 1
    assert storage.delete_prefix("\\") == 1
    assert storage.delete_prefix("none") == 0
    assert storage.count_files() == len(names) - 3


def test_many_files_are_counted_and_deleted(storage: client.PocketClient) -> None:
    pipeline = storage.redis.pipeline(transaction=False)
    for number in range(2500):
        pipeline.set(f"p/{number}", b"x")
    pipeline.set("other", b"x")
    pipeline.execute()
    assert storage.count_files("p/") == 2500
    assert storage.delete_prefix("p/") == 2500
    assert storage.count_files() == 1


def test_an_empty_prefix_deletes_nothing(storage: client.PocketClient) -> None:
    storage.put_buffer(b"", "a")
    with pytest.raises(client.InvalidArgumentError):
        storage.delete_prefix("")
    assert storage.count_files() == 1


def test_a_client_pickles_to_its_url(storage: client.PocketClient) -> None:
    storage.put_buffer(b"x", "a")
    with pickle.loads(pickle.dumps(storage)) as copy:  # noqa: S301 - our own bytes
        assert copy.get_buffer("a") == b"x"
        assert type(copy.redis) is type(storage.redis)


def test_the_connection_survives_that_the_server_hung_up(storage: client.PocketClient) -> None:
    """A Lambda that was frozen finds its connection closed."""
    storage.put_buffer(b"x", "a")
    with redis.Redis.from_url(connection.with_user(storage._url, "default", "")) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    # Not repeated by anybody, so this shows that it was found out before anything was sent.
    assert storage.get_buffer("a", delete_after_read=True) == b"x"


def test_what_does_not_fit_is_told_apart(plain_url: str) -> None:
    with client.connect(plain_url, retries=0) as storage:
        storage.redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(client.OutOfSpaceError):
                storage.put_buffer(b"x", "a")
        finally:
            storage.redis.config_set("maxmemory", 0)


def test_files_that_are_too_large_are_not_sent(
    storage: client.PocketClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FILE_BYTES_MAX", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    for source in (tmp_path / "large", io.BytesIO(bytes(11))):
        with pytest.raises(client.FileTooLargeError):
            storage.put(source, "a")
    with pytest.raises(client.FileTooLargeError):
        storage.put_buffer(bytes(11), "a")
    assert storage.put_buffer(bytes(10), "a") == 10


def test_text_files_are_refused(storage: client.PocketClient) -> None:
    with pytest.raises(client.InvalidArgumentError, match="binary"):
        storage.put(cast("BinaryIO", io.StringIO("text")), "a")


def test_files_without_a_size_are_read(storage: client.PocketClient) -> None:
    assert storage.put("/proc/self/status", "a") > 100
    assert storage.get_buffer("a").startswith(b"Name:")


def test_a_wrong_token_is_denied(plain_url: str) -> None:
    wrong = connection.with_user(plain_url, "nobody", "wrong")
    with client.connect(wrong) as storage, pytest.raises(client.AccessDeniedError):
        storage.get_buffer("a")
    with pytest.raises(client.AccessDeniedError):
        client.connect(wrong, cluster=True)


def test_a_plain_server_is_no_cluster(plain_url: str) -> None:
    with pytest.raises(client.PocketError, match="luster"):
        client.connect(plain_url, cluster=True, retries=0)


# --- the protocol --------------------------------------------------------------------------------


def test_requests_are_packed_without_copying_what_is_large() -> None:
    large = bytearray(20_000)
    pieces = Packer().pack("CONFIG GET", b"a", large, 5, 1.5, memoryview(b"mv"))
    assert b"".join(pieces) == (
        b"*7\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$1\r\na\r\n$20000\r\n" + bytes(20_000) + b"\r\n"
        b"$1\r\n5\r\n$3\r\n1.5\r\n$2\r\nmv\r\n"
    )
    assert isinstance(pieces[1], memoryview)
    assert pieces[1].obj is large


@pytest.mark.parametrize("wrong", [None, True, [1], {"a": 1}])
def test_what_is_no_argument_is_not_sent(wrong: object) -> None:
    with pytest.raises(redis.DataError):
        Packer().pack("SET", "a", wrong)


def test_prefixes_are_escaped() -> None:
    assert files.glob_of_prefix(b"a*?[]\\^-\xff\x00") == b"a\\*\\?\\[\\]\\\\^-\xff\x00*"
