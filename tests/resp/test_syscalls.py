"""The system calls of the hot path, on real descriptors; the same for both twins."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from pocketkv import limits
from pocketkv.resp.syscalls import (
    READABLE,
    WRITABLE,
    MonotonicStopwatch,
    Poller,
    receive,
    receive_into,
    send,
    send_before_file,
    send_file,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_receive_gives_what_is_there_and_no_more_than_its_size(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        receive(ours.fileno())
    theirs.sendall(b"hello")
    assert receive(ours.fileno()) == b"hello"
    theirs.sendall(bytes(limits.RECEIVE_BYTES + 1))
    assert len(receive(ours.fileno())) == limits.RECEIVE_BYTES
    assert receive(ours.fileno()) == b"\0"
    theirs.close()
    assert receive(ours.fileno()) == b""


@pytest.mark.parametrize(
    ("sent", "spill", "expected"),
    [
        (b"abc", True, (3, b"")),
        (b"abcdefgh", True, (5, b"fgh")),
        (b"abcdefgh", False, (5, b"")),
        (b"abcde", True, (5, b"")),
    ],
)
def test_what_comes_after_a_buffer_spills(
    pair: Pair, sent: bytes, spill: bool, expected: tuple[int, bytes]
) -> None:
    ours, theirs = pair
    buffer = bytearray(5)
    theirs.sendall(sent)
    assert receive_into(ours.fileno(), memoryview(buffer), spill) == expected
    assert bytes(buffer[: expected[0]]) == sent[: expected[0]]


def test_receive_into_tells_nothing_from_the_end(pair: Pair) -> None:
    ours, theirs = pair
    view = memoryview(bytearray(5))
    with pytest.raises(BlockingIOError):
        receive_into(ours.fileno(), view, True)
    theirs.close()
    assert receive_into(ours.fileno(), view, True) == (0, b"")


def test_send_tells_how_much_was_taken(pair: Pair) -> None:
    ours, theirs = pair
    assert send(ours.fileno(), b"hello") == 5
    assert theirs.recv(10) == b"hello"
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
    assert send(ours.fileno(), bytes(10_000_000)) < 10_000_000
    with pytest.raises(BlockingIOError):
        send(ours.fileno(), bytes(10_000_000))
    theirs.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send(ours.fileno(), b"x")


def test_a_part_of_a_file_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours, theirs:
            assert send_before_file(ours, [memoryview(b"$4"), memoryview(b"\r\n")]) == 4
            assert send_file(ours.fileno(), file.fileno(), 3, 4) == 4
            # A file that ends early gives less, and then nothing.
            assert send_file(ours.fileno(), file.fileno(), 8, 4) == 2
            assert send_file(ours.fileno(), file.fileno(), 10, 4) == 0
            theirs.settimeout(5)
            assert _exactly(theirs, 10) == b"$4\r\n345689"


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


def test_a_bad_descriptor_is_an_error() -> None:
    for call in (
        lambda: receive(-1),
        lambda: send(-1, b"x"),
        lambda: send_file(-1, -1, 0, 1),
        lambda: receive_into(-1, memoryview(bytearray(1)), False),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


def test_the_poller_tells_what_is_ready_for_what(pair: Pair) -> None:
    ours, theirs = pair
    poller = Poller()
    poller.register(ours.fileno(), READABLE)
    assert poller.poll(0) == 0
    theirs.sendall(b"x")
    assert poller.poll(1000) == 1
    assert poller.fd(0) == ours.fileno()
    assert poller.mask(0) & READABLE
    poller.modify(ours.fileno(), WRITABLE)
    assert poller.poll(0) == 1
    assert poller.mask(0) == WRITABLE
    poller.unregister(ours.fileno())
    assert poller.poll(0) == 0
    with pytest.raises(FileNotFoundError):
        poller.unregister(ours.fileno())
    poller.close()


def test_the_poller_gives_many_events_in_turns() -> None:
    poller = Poller()
    fds = [os.eventfd(1) for _ in range(limits.EVENTS_PER_POLL + 10)]
    try:
        for fd in fds:
            poller.register(fd, READABLE)
        assert poller.poll(0) == limits.EVENTS_PER_POLL
        assert {poller.fd(index) for index in range(limits.EVENTS_PER_POLL)} <= set(fds)
    finally:
        poller.close()
        for fd in fds:
            os.close(fd)


def test_the_stopwatch_goes_on() -> None:
    stopwatch = MonotonicStopwatch()
    before_ns = stopwatch.now_ns()
    assert stopwatch.now_ns() >= before_ns > 0
