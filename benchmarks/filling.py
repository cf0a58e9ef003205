"""A driver that writes many large values one after the other, and holds one of them in memory."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.client import TIMEOUT_S, BenchmarkError
from benchmarks.driver import Lane, connect, stalled
from benchmarks.exchanges import OK, Exchange, key

_END: Final = b"\r\n"
_RECEIVE_BYTES: Final = 4096


class _Writer(Lane):
    """A connection with one SET under way, whose value is not copied to be sent."""

    __slots__ = ("parts",)

    def __init__(self, host: str, port: int) -> None:
        super().__init__(connect(host, port))
        self.sock.setblocking(False)
        self.parts: list[memoryview] = []

    def set(self, name: bytes, stored: bytes, poller: select.epoll) -> None:
        """Begin to set a key."""
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, len(stored))
        self.expect(Exchange(head, OK), time.perf_counter_ns())
        self.parts = [memoryview(head), memoryview(stored), memoryview(_END)]
        poller.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def send_parts(self, poller: select.epoll) -> None:
        """Send as much as the socket takes."""
        sent = self.sock.sendmsg(self.parts)
        while self.parts and sent >= len(self.parts[0]):
            sent -= len(self.parts.pop(0))
        if self.parts:
            self.parts[0] = self.parts[0][sent:]
        else:
            poller.modify(self.sock, select.EPOLLIN)


def set_in_order(
    host: str, port: int, stored: bytes, numbers: Sequence[int], clients: int
) -> float:
    """Set the keys of these numbers, each connection one after the other.

    Returns:
        How many seconds it took until the last reply.

    Raises:
        BenchmarkError: A reply was not OK, or none came.
        OSError: The server went away.
    """
    writers = [_Writer(host, port) for _ in range(min(clients, len(numbers)))]
    left = iter(numbers)
    try:
        with select.epoll() as poller:
            for writer in writers:
                poller.register(writer.sock, select.EPOLLIN)
            began_s = time.perf_counter()
            for writer, number in zip(writers, left, strict=False):
                writer.set(key(number), stored, poller)
            _set_rest(poller, writers, [*left], stored, len(numbers))
            return time.perf_counter() - began_s
    finally:
        for writer in writers:
            writer.sock.close()


def _set_rest(
    poller: select.epoll, writers: Sequence[_Writer], rest: list[int], stored: bytes, count: int
) -> None:
    by_fd = {writer.sock.fileno(): writer for writer in writers}
    buffer = bytearray(_RECEIVE_BYTES)
    left = iter(rest)
    done = 0
    while done < count:
        for fd, events in poller.poll(TIMEOUT_S) or stalled(writers):
            writer = by_fd[fd]
            if events & ~select.EPOLLOUT:
                size = writer.sock.recv_into(buffer)
                if writer.parts:
                    raise BenchmarkError(
                        f"answered {bytes(buffer[:size])!r} before the value's end"
                    )
                if writer.take(buffer, size):
                    done += 1
                    number = next(left, None)
                    if number is not None:
                        writer.set(key(number), stored, poller)
            elif events & select.EPOLLOUT:
                writer.send_parts(poller)
