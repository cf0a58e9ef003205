"""A helper process that reads cold values: ``python -m benchmarks.cold``.

Some connections, each with one GET under way, go through keys in random order until standard input
ends; then it prints how many GETs were answered, and in how many seconds. No key is asked for
twice: when all of them were, it says so instead, since they are not cold any more.
It gives way to other processes, so that on a machine of few cores the client that is measured
beside it feels the server and not this process.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import sys
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.client import TIMEOUT_S, BenchmarkError
from benchmarks.driver import Lane, connect, stalled
from benchmarks.exchanges import Exchange, bulk, command, dense_value, key

EXHAUSTED: Final = "exhausted"
_BUFFER_BYTES: Final = 64 * 1024
_NICENESS: Final = 10


def cold_exchanges(keys: int, value_bytes: int, seed: int) -> Iterator[Exchange]:
    """Yield a GET of every key, each once, in an order that the seed says."""
    reply = bulk(dense_value(value_bytes))
    for number in random.Random(seed).sample(range(keys), keys):
        yield Exchange(command(b"GET", key(number)), reply)


def _pump(lanes: list[Lane], exchanges: Iterator[Exchange]) -> str:
    """Have GETs answered until standard input ends; what is to be said then."""
    by_fd = {lane.sock.fileno(): lane for lane in lanes}
    buffer = bytearray(_BUFFER_BYTES)
    done = 0
    with select.epoll() as poller:
        poller.register(sys.stdin, select.EPOLLIN)
        began_s = time.monotonic()
        for lane in lanes:
            poller.register(lane.sock, select.EPOLLIN)
            lane.begin(next(exchanges), 0, poller)
        is_exhausted = False
        while True:
            for fd, _ in poller.poll(TIMEOUT_S) or ([] if is_exhausted else stalled(lanes)):
                if fd == sys.stdin.fileno():
                    return EXHAUSTED if is_exhausted else f"{done} {time.monotonic() - began_s:.6f}"
                lane = by_fd[fd]
                if not lane.take(buffer, lane.sock.recv_into(buffer)):
                    continue
                done += 1
                following = next(exchanges, None)
                if following is None:
                    is_exhausted = True
                else:
                    lane.begin(following, 0, poller)


def main() -> None:
    """Connect, say so, and read until standard input ends."""
    host, port, clients, keys, value_bytes, seed = sys.argv[1], *map(int, sys.argv[2:])
    os.nice(_NICENESS)
    exchanges = cold_exchanges(keys, value_bytes, seed)
    # The order is made before anything is said.
    first = list(itertools.islice(exchanges, clients))
    lanes = [Lane(connect(host, port)) for _ in first]
    for lane in lanes:
        lane.sock.setblocking(False)
    print("ready", flush=True)
    try:
        print(_pump(lanes, itertools.chain(first, exchanges)), flush=True)
    except (BenchmarkError, OSError) as error:
        sys.exit(f"the cold clients: {error}")
    finally:
        for lane in lanes:
            lane.sock.close()


if __name__ == "__main__":
    main()
