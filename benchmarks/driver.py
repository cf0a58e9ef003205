"""Drivers of our own: plain sockets, foretold replies, no parser, nothing that is compiled.

`Flood` keeps many connections busy from one thread. It costs less per operation than
redis-benchmark, so it can saturate a server, and it can receive large values without copying them
about. `Ping` sends one request at a time over one connection, for latency.

Neither opens a connection or compares a large value twice while the clock runs.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from benchmarks.client import TIMEOUT_S, BenchmarkError
from benchmarks.comparison import percentile
from benchmarks.exchanges import Exchange

# It stays in the processor's cache, so that receiving costs the driver as little as it can.
_BUFFER_BYTES: Final = 256 * 1024
# Replies up to this size are compared whole each time, larger ones on their first arrival.
_COMPARED_BYTES: Final = 4096
_HEAD_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Driven:
    """What a driver saw.

    Attributes:
        operations: Requests that were answered.
        duration_s: From the first request sent to the last reply received.
        p50_us, p99_us: Time from a request (the first of a pipeline) to its reply (the last).
        driver_cpu_s: CPU time that the driver took itself.
    """

    operations: int
    duration_s: float
    p50_us: float
    p99_us: float
    driver_cpu_s: float


class Driver(Protocol):
    """Sends one kind of work to any server."""

    def run(self, host: str, port: int, operations: int) -> Driven:
        """Have about so many operations done.

        Raises:
            BenchmarkError: A reply was not the one that is due.
            OSError: The server cannot be reached, or went away.
        """
        ...


@dataclass
class Flood:
    """Many connections, each with one exchange under way.

    Attributes:
        make: Makes the exchanges; called at the first run, since they can be large.
        clients: Number of connections.
    """

    make: Callable[[], list[Exchange]]
    clients: int
    _made: list[Exchange] = field(default_factory=list)

    def run(self, host: str, port: int, operations: int) -> Driven:
        """As `Driver`."""
        self._made = self._made or self.make()
        count = max(self.clients, operations // self._made[0].operations)
        lanes = [Lane(connect(host, port)) for _ in range(self.clients)]
        try:
            with select.epoll() as poller:
                for lane in lanes:
                    lane.sock.setblocking(False)
                    poller.register(lane.sock, select.EPOLLIN)
                return _flood(poller, lanes, self._made, count)
        finally:
            for lane in lanes:
                lane.sock.close()


@dataclass
class Ping:
    """One connection, one request at a time, and nothing else in between."""

    make: Callable[[], list[Exchange]]
    _made: list[Exchange] = field(default_factory=list)

    def run(self, host: str, port: int, operations: int) -> Driven:
        """As `Driver`."""
        self._made = self._made or self.make()
        with connect(host, port) as sock:
            return _ping(sock, self._made, operations)


class Lane:
    """One connection, with at most one exchange under way."""

    __slots__ = ("began_ns", "is_compared", "received", "reply", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reply = b""
        self.received = 0
        self.unsent = memoryview(b"")
        self.began_ns = 0
        self.is_compared = False

    def expect(self, exchange: Exchange, now_ns: int) -> None:
        """Await the reply to a request that is sent now."""
        self.reply = exchange.reply
        self.received = 0
        self.began_ns = now_ns

    def begin(self, exchange: Exchange, now_ns: int, poller: select.epoll) -> None:
        """Send a request, or as much of it as the socket takes."""
        self.expect(exchange, now_ns)
        sent = self.sock.send(exchange.request)
        if sent < len(exchange.request):
            self.unsent = memoryview(exchange.request)[sent:]
            poller.modify(self.sock, select.EPOLLIN | select.EPOLLOUT)

    def send_more(self, poller: select.epoll) -> None:
        """Send what was left."""
        self.unsent = self.unsent[self.sock.send(self.unsent) :]
        if not self.unsent:
            poller.modify(self.sock, select.EPOLLIN)

    def take(self, buffer: bytearray, size: int) -> bool:
        """Take what was received into the buffer; true when the reply is complete."""
        reply = self.reply
        if size == len(reply) <= _COMPARED_BYTES and buffer.startswith(reply):
            return True
        start = self.received
        self.received += size
        if len(reply) <= _COMPARED_BYTES or not self.is_compared:
            is_due = buffer.startswith(reply[start : start + size])
        else:
            is_due = start > 0 or buffer.startswith(reply[: min(size, _HEAD_BYTES)])
        if not size or not is_due or self.received > len(reply):
            raise _unexpected(bytes(buffer[:size]), reply)
        if self.received < len(reply):
            return False
        self.is_compared = True
        return True


def _flood(
    poller: select.epoll, lanes: Sequence[Lane], exchanges: Sequence[Exchange], count: int
) -> Driven:
    """Have `count` exchanges done by all lanes together."""
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    next_exchange = itertools.cycle(exchanges).__next__
    clock = time.perf_counter_ns
    buffer = bytearray(_BUFFER_BYTES)
    took_ns: list[int] = []
    cpu_began_s = time.process_time()
    began_ns = clock()
    for lane in lanes:
        lane.begin(next_exchange(), clock(), poller)
    unsent = count - len(lanes)
    while len(took_ns) < count:
        for fd, events in poller.poll(TIMEOUT_S) or stalled(lanes):
            lane = by_fd[fd]
            if events & select.EPOLLOUT:
                lane.send_more(poller)
                # Every other event is found by receiving: an error, an end.
                if events == select.EPOLLOUT:
                    continue
            if lane.take(buffer, lane.sock.recv_into(buffer)):
                now_ns = clock()
                took_ns.append(now_ns - lane.began_ns)
                if unsent > 0:
                    unsent -= 1
                    lane.begin(next_exchange(), now_ns, poller)
    duration_s = (clock() - began_ns) / 1e9
    driver_cpu_s = time.process_time() - cpu_began_s
    return driven(took_ns, exchanges[0].operations, duration_s, driver_cpu_s)


def _ping(sock: socket.socket, exchanges: Sequence[Exchange], count: int) -> Driven:
    clock = time.perf_counter_ns
    took_ns: list[int] = []
    cpu_began_s = time.process_time()
    began_ns = clock()
    for exchange in itertools.islice(itertools.cycle(exchanges), count):
        reply = exchange.reply
        sent_ns = clock()
        sock.sendall(exchange.request)
        received = sock.recv(len(reply) + 1)
        while received != reply:
            if not reply.startswith(received):
                raise _unexpected(received, reply)
            part = sock.recv(len(reply) + 1 - len(received))
            if not part:
                raise _unexpected(part, reply)
            received += part
        took_ns.append(clock() - sent_ns)
    duration_s = (clock() - began_ns) / 1e9
    return driven(took_ns, 1, duration_s, time.process_time() - cpu_began_s)


def driven(
    took_ns: Sequence[int], operations: int, duration_s: float, driver_cpu_s: float
) -> Driven:
    """Return what was seen, given how long each exchange of so many operations took."""
    return Driven(
        operations=len(took_ns) * operations,
        duration_s=duration_s,
        p50_us=percentile(took_ns, 50) / 1000,
        p99_us=percentile(took_ns, 99) / 1000,
        driver_cpu_s=driver_cpu_s,
    )


def connect(host: str, port: int) -> socket.socket:
    """Return a blocking connection, which gives up after a time.

    Raises:
        OSError: Nobody listens there.
    """
    sock = socket.create_connection((host, port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def stalled(lanes: Sequence[Lane]) -> NoReturn:
    """Say that nothing came back for too long.

    Raises:
        BenchmarkError: Always.
    """
    waiting = [f"{lane.received} of {len(lane.reply)} bytes" for lane in lanes[:3]]
    raise BenchmarkError(f"no reply for {TIMEOUT_S:.0f} s; received {', '.join(waiting)} ...")


def _unexpected(received: bytes, reply: bytes) -> BenchmarkError:
    if not received:
        return BenchmarkError("the server closed the connection")
    return BenchmarkError(f"answered {received[:100]!r} instead of {reply[:40]!r}")
