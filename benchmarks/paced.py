"""A driver for latency under a light load: requests leave by the clock, whatever comes back.

A driver that waits for a reply before it sends the next request leaves a server that stalls in
peace, and sees the stall once. Here every request has its time; what is measured is from then to
its reply, so a stall is seen by every request that fell into it.
"""

from __future__ import annotations

import itertools
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.client import TIMEOUT_S
from benchmarks.driver import Driven, Lane, connect, driven, stalled
from benchmarks.exchanges import Exchange

_BUFFER_BYTES: Final = 64 * 1024


@dataclass
class Paced:
    """Many connections that together send so many requests per second.

    Attributes:
        make: Makes the exchanges, small ones; called at the first run.
        clients: Number of connections. A request whose time has come while all of them await
            replies is sent later, and its latency counts from its time all the same.
        rate: Requests per second.
    """

    make: Callable[[], list[Exchange]]
    clients: int
    rate: int
    _made: list[Exchange] = field(default_factory=list)

    def run(self, host: str, port: int, operations: int) -> Driven:
        """As `benchmarks.driver.Driver`."""
        self._made = self._made or self.make()
        lanes = [Lane(connect(host, port)) for _ in range(self.clients)]
        try:
            return _paced(lanes, self._made, operations, 1_000_000_000 // self.rate)
        finally:
            for lane in lanes:
                lane.sock.close()


def _paced(
    lanes: Sequence[Lane], exchanges: Sequence[Exchange], count: int, interval_ns: int
) -> Driven:
    """Have `count` exchanges done, one every `interval_ns`."""
    next_exchange = itertools.cycle(exchanges).__next__
    clock = time.perf_counter_ns
    buffer = bytearray(_BUFFER_BYTES)
    free = deque(lanes)
    waiting: dict[int, Lane] = {}
    took_ns: list[int] = []
    cpu_began_s = time.process_time()
    began_ns = due_ns = clock()
    end_ns = began_ns + count * interval_ns
    while len(took_ns) < count:
        now_ns = clock()
        while free and due_ns <= now_ns and due_ns < end_ns:
            lane = free.popleft()
            exchange = next_exchange()
            lane.expect(exchange, due_ns)
            lane.sock.sendall(exchange.request)
            waiting[lane.sock.fileno()] = lane
            due_ns += interval_ns
        is_sending = bool(free) and due_ns < end_ns
        # The timeout of epoll is in milliseconds, which is too coarse for this.
        pause_s = max(0.0, (due_ns - clock()) / 1e9) if is_sending else TIMEOUT_S
        ready, _, _ = select.select(waiting, (), (), pause_s)
        if not ready and not is_sending:
            stalled(lanes)
        for fd in ready:
            lane = waiting[fd]
            if lane.take(buffer, lane.sock.recv_into(buffer)):
                took_ns.append(clock() - lane.began_ns)
                free.append(waiting.pop(fd))
    duration_s = (clock() - began_ns) / 1e9
    driver_cpu_s = time.process_time() - cpu_began_s
    return driven(took_ns, exchanges[0].operations, duration_s, driver_cpu_s)
