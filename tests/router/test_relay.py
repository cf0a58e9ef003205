"""The pipe between two connections: what goes in comes out, and nothing of it stays for others."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.router.relay import Relay


@contextlib.contextmanager
def connected() -> Iterator[tuple[Relay, socket.socket, socket.socket]]:
    """A relay, and the two ends of a connection."""
    relay = Relay()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        near.setblocking(False)
        far.setblocking(False)
        relay.open_pipe()
        with near, far:
            yield relay, near, far
        relay.close()


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_bytes_come_out_as_they_went_in() -> None:
    with connected() as (relay, near, far):
        near.sendall(b"abcdefgh")
        assert relay.fill(far.fileno(), 6) == 6
        assert relay.drain(far.fileno(), 4, more=False) == 4
        assert relay.take(2) == b"ef"
        assert near.recv(100) == b"abcd"
        assert relay.fill(far.fileno(), 6) == 2
        assert relay.take(2) == b"gh"
        with pytest.raises(BlockingIOError):
            relay.fill(far.fileno(), 6)
        near.close()
        assert relay.fill(far.fileno(), 6) == 0


def test_what_somebody_left_in_the_pipe_reaches_nobody() -> None:
    with connected() as (relay, near, far):
        near.sendall(b"left")
        assert relay.fill(far.fileno(), 100) == 4
        near.sendall(b"next")
        assert relay.fill(far.fileno(), 100) == 4
        assert relay.take(4) == b"next"


def test_a_small_pipe_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return 64 * limits.KIB

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    before = descriptors()
    relay = Relay()
    relay.open_pipe()
    assert relay.pipe_bytes == 0
    assert descriptors() == before


def test_without_splice_there_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "splice")
    relay = Relay()
    relay.open_pipe()
    assert relay.pipe_bytes == 0
    relay.close()


def test_opening_and_closing_twice_does_nothing() -> None:
    before = descriptors()
    relay = Relay()
    relay.open_pipe()
    relay.open_pipe()
    assert relay.pipe_bytes == limits.RECEIVE_LARGE_BYTES
    assert descriptors() == before + 2
    relay.close()
    relay.close()
    assert descriptors() == before
