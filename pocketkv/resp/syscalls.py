"""System calls of the hot path; `syscalls.pyx` is the same without objects for what goes in."""

from __future__ import annotations

import os
import select
import socket
import time

from pocketkv import limits
from pocketkv.stopwatch import Stopwatch

READABLE: int = select.EPOLLIN | select.EPOLLRDHUP
WRITABLE: int = select.EPOLLOUT
BROKEN: int = select.EPOLLERR | select.EPOLLHUP


def receive(fd: int, size: int = limits.RECEIVE_BYTES) -> bytes:
    """What the kernel has, at most `size`, which is at most `limits.RECEIVE_BYTES`.

    Returns:
        Nothing at the end of the stream.

    Raises:
        OSError: As `socket.socket.recv`.
    """
    return os.read(fd, size)


def receive_into(fd: int, view: memoryview, spill: bool) -> tuple[int, bytes]:
    """Receive into a buffer and, with `spill`, what comes after it.

    Returns:
        How much stands in the buffer, and up to `limits.RECEIVE_HEAD_BYTES` that came after it;
        0 at the end of the stream.

    Raises:
        OSError: As `socket.socket.recv_into`.
    """
    if not spill:
        return os.readv(fd, [view]), b""
    after = bytearray(limits.RECEIVE_HEAD_BYTES)
    count = os.readv(fd, [view, after])
    if count <= len(view):
        return count, b""
    return len(view), bytes(after[: count - len(view)])


def send(fd: int, data: bytes) -> int:
    """Send what the kernel takes; how much that was.

    Raises:
        OSError: As `socket.socket.send`.
    """
    return os.write(fd, data)


def send_before_file(sock: socket.socket, pieces: list[memoryview]) -> int:
    """Send what goes before a file's bytes: the kernel may wait for them, to send all at once.

    Raises:
        OSError: As `socket.socket.sendmsg`.
    """
    return sock.sendmsg(pieces, [], socket.MSG_MORE)


def send_file(fd: int, file_fd: int, offset: int, count: int) -> int:
    """Send a part of a file without copying it; how much the kernel took.

    Raises:
        OSError: As `os.sendfile`.
    """
    return os.sendfile(fd, file_fd, offset, count)


class MonotonicStopwatch(Stopwatch):
    """Reads the system's monotonic clock."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(time.perf_counter_ns)


class Poller:
    """An epoll set, and the events of its last `poll`."""

    __slots__ = ("_epoll", "_events")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events: list[tuple[int, int]] = []

    def fileno(self) -> int:
        """The set's own descriptor: readable when something is ready."""
        return self._epoll.fileno()

    def register(self, fd: int, mask: int) -> None:
        """Watch a descriptor.

        Raises:
            OSError: As `select.epoll.register`.
        """
        self._epoll.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """Watch a descriptor for something else.

        Raises:
            OSError: As `select.epoll.modify`.
        """
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Watch a descriptor no more.

        Raises:
            OSError: As `select.epoll.unregister`.
        """
        self._epoll.unregister(fd)

    def poll(self, timeout_ms: int) -> int:
        """How many descriptors are ready; `fd` and `mask` tell which, and for what.

        Waits for the first one for at most `timeout_ms`.
        """
        self._events = self._epoll.poll(timeout_ms / 1000, limits.EVENTS_PER_POLL)
        return len(self._events)

    def poll_briefly(self) -> int:
        """`poll` for some 50 microseconds; here, as long as the system can tell."""
        return self.poll(1)

    def fd(self, index: int) -> int:
        """The descriptor of one event."""
        return self._events[index][0]

    def mask(self, index: int) -> int:
        """What a descriptor is ready for."""
        return self._events[index][1]

    def close(self) -> None:
        """Close the set."""
        self._epoll.close()
