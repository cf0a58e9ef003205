"""A helper process that is a heavy client: ``python -m benchmarks.heavy``.

It keeps a pipeline of large GETs or SETs under way over one connection, until standard input ends;
then it prints how many MiB it moved per second. It gives way to other processes, so that on a
machine of few cores the light clients beside it feel the server and not this process.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import Final

from benchmarks.client import TIMEOUT_S, BenchmarkError, Client
from benchmarks.driver import connect
from benchmarks.exchanges import OK, Operation, bulk, command, value

MIB: Final = 1024 * 1024
VALUE_BYTES: Final = MIB
KEYS: Final = 8
PIPELINE: Final = 8
_BUFFER_BYTES: Final = 256 * 1024
_NICENESS: Final = 10


def fill(client: Client) -> int:
    """Set the keys that it uses; returns how many."""
    stored = value(VALUE_BYTES)
    client.send((command(b"SET", _key(number), stored) for number in range(KEYS)), OK)
    return KEYS


def _key(number: int) -> bytes:
    # Not the name of a key of any light client.
    return b"heavy:%d" % number


class Pump:
    """Keeps `PIPELINE` requests under way.

    Attributes:
        done: Requests that were answered.
    """

    def __init__(self, sock: socket.socket, operation: Operation) -> None:
        sock.setblocking(False)
        self._sock = sock
        stored = value(VALUE_BYTES)
        self._reply = bulk(stored) if operation == "GET" else OK
        tail = () if operation == "GET" else (stored,)
        self._requests = [command(operation.encode(), _key(n), *tail) for n in range(KEYS)]
        self._buffer = bytearray(_BUFFER_BYTES)
        self._begun = 0
        self._received = 0
        self._unsent = memoryview(b"")
        self.done = 0

    @property
    def wants(self) -> int:
        """The events of the socket that it can go on with."""
        return select.EPOLLIN | (select.EPOLLOUT if self._unsent or self._has_room else 0)

    @property
    def _has_room(self) -> bool:
        return self._begun - self.done < PIPELINE

    def send(self) -> None:
        """Send as much as the socket takes, and as the pipeline holds."""
        while self._unsent or self._has_room:
            if not self._unsent:
                self._unsent = memoryview(self._requests[self._begun % KEYS])
                self._begun += 1
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return

    def receive(self) -> None:
        """Receive once.

        Raises:
            BenchmarkError: It is not the reply that is due, or the connection was closed.
        """
        size = self._sock.recv_into(self._buffer)
        start = self._received % len(self._reply)
        head = self._reply[start : start + min(size, 32)]
        if not size or not self._buffer.startswith(head):
            raise BenchmarkError(f"got {bytes(self._buffer[: min(size, 100)])!r}")
        self._received += size
        self.done = self._received // len(self._reply)


def _pump(sock: socket.socket, operation: Operation) -> float:
    """Pump until standard input ends; MiB moved per second."""
    pump = Pump(sock, operation)
    began_s = time.monotonic()
    with select.epoll() as poller:
        poller.register(sock, pump.wants)
        poller.register(sys.stdin, select.EPOLLIN)
        while True:
            poller.modify(sock, pump.wants)
            events = poller.poll(TIMEOUT_S)
            if not events:
                raise BenchmarkError(f"no reply for {TIMEOUT_S:.0f} s")
            for fd, mask in events:
                if fd == sys.stdin.fileno():
                    return pump.done * VALUE_BYTES / MIB / (time.monotonic() - began_s)
                if mask & ~select.EPOLLOUT:
                    pump.receive()
                if mask & select.EPOLLOUT:
                    pump.send()


def main() -> None:
    """Connect, say so, and pump until standard input ends."""
    host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    operation: Operation = "GET" if name == "GET" else "SET"
    os.nice(_NICENESS)
    with connect(host, port) as sock:
        print("ready", flush=True)
        try:
            print(f"{_pump(sock, operation):.1f}", flush=True)
        except (BenchmarkError, OSError) as error:
            sys.exit(f"the heavy client: {error}")


if __name__ == "__main__":
    main()
