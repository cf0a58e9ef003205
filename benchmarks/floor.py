"""The bare floor: what receiving and sending alone cost on this kernel.

``python -m benchmarks.floor`` is a server without a protocol: it counts the bytes of a request
and sends a reply that was made before, out of memory or out of a memory file by `sendfile`.
Nothing is parsed, stored or looked up. What a real server's CPU time per operation has beyond is
its own work, but for the microsecond or so that this loop takes itself, being Python.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.exchanges import Exchange, Operation, exchanges
from benchmarks.helpers import helper
from benchmarks.servers import HOST, Endpoint

# Below this, copying a reply is cheaper than looking up the pages of a file.
_SENDFILE_FROM_BYTES: Final = 64 * 1024
_SENDFILE: Final = "sendfile"
_SEND: Final = "send"
_BUFFER_BYTES: Final = 1024 * 1024


def ways(operation: Operation, value_bytes: int) -> tuple[str, ...]:
    """Return the ways of sending that are worth trying; which is cheaper, machines differ in."""
    is_large_reply = operation == "GET" and value_bytes >= _SENDFILE_FROM_BYTES
    return (_SEND, _SENDFILE) if is_large_reply else (_SEND,)


@contextmanager
def floor_server(
    operation: Operation, value_bytes: int, pipeline: int, way: str
) -> Iterator[Endpoint]:
    """Run the floor for one kind of exchange.

    Raises:
        BenchmarkError: It does not start.
    """
    arguments = (operation, str(value_bytes), str(pipeline), way)
    with helper("floor", *arguments) as running:
        yield Endpoint("floor", int(running.ready), (running.pid,))


class _Floor:
    """Answers every so many bytes with the same reply."""

    def __init__(self, exchange: Exchange, way: str) -> None:
        self._request_bytes = len(exchange.request)
        self._reply = exchange.reply
        self._file = -1
        if way == _SENDFILE:
            self._file = os.memfd_create("reply")
            os.pwrite(self._file, self._reply, 0)
        self._received: dict[int, int] = {}
        self._socks: dict[int, socket.socket] = {}
        self._buffer = bytearray(_BUFFER_BYTES)

    def run(self, listener: socket.socket) -> None:
        """Serve until standard input ends."""
        with select.epoll() as poller:
            poller.register(listener, select.EPOLLIN)
            poller.register(sys.stdin, select.EPOLLIN)
            while True:
                for fd, _ in poller.poll():
                    if fd == listener.fileno():
                        sock, _ = listener.accept()
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._socks[sock.fileno()] = sock
                        self._received[sock.fileno()] = 0
                        poller.register(sock, select.EPOLLIN)
                    elif fd == sys.stdin.fileno():
                        return
                    else:
                        self._serve(fd)

    def _serve(self, fd: int) -> None:
        sock = self._socks[fd]
        size = sock.recv_into(self._buffer)
        if not size:
            sock.close()
            del self._socks[fd], self._received[fd]
            return
        received = self._received[fd] + size
        if received < self._request_bytes:
            self._received[fd] = received
            return
        # One exchange at a time is under way on each connection.
        self._received[fd] = 0
        if self._file < 0:
            sock.sendall(self._reply)
            return
        sent = 0
        while sent < len(self._reply):
            sent += os.sendfile(fd, self._file, sent, len(self._reply) - sent)


def main() -> None:
    """Serve on a free port, which is printed, until standard input ends."""
    name, value_bytes, pipeline, way = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    operation: Operation = "GET" if name == "GET" else "SET"
    [exchange] = exchanges(operation, value_bytes, pipeline, pipeline)
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        _Floor(exchange, way).run(listener)


if __name__ == "__main__":
    main()
