"""Live moves: how fast slots go, beside a bare `sendfile`, and what clients notice meanwhile.

``python -m benchmarks.moves`` runs two storage servers under a played controller, fills one with
large values, and has all slots go to the other, in parts; then back, while a client in a process of
its own writes small keys by the clock. The bare copy goes between two processes as well, from one
memory file into another that is new, as a server's is that was just added: making its pages is most
of the work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.client import BenchmarkError, Client
from benchmarks.comparison import Row, Target, ratios, spread
from benchmarks.helpers import helper
from benchmarks.played_controller import JOB, Controller
from benchmarks.sampling import P99
from benchmarks.servers import HOST, storage_server
from benchmarks.works import MOVES_PREFIX
from pocketkv.slots import SLOT_COUNT
from pocketkv.tokens import job_token

MIB: Final = 1024 * 1024
GROUP: Final = "moves"
NAME: Final = "moves-large"
_FASTER: Final = Target(low=0.6)
_BESIDE: Final = Target(high=2.0)
_HELD: Final = Target(high=5.0, unit=" ms")
_SECRET: Final = bytes(range(32))
_IDS: Final = ("a" * 40, "b" * 40)
_VALUE_BYTES: Final = 4 * MIB
_PARTS: Final = 8
_INTERVAL_S: Final = 0.001
_BEFORE_S: Final = 2.0
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Taken:
    """What one run found.

    Attributes:
        bare_mib_s, move_mib_s: How fast bytes went.
        beside_mib_s: The same while a client was served.
        hold_p99_ms, hold_max_ms: How long commands were held.
        p99_before_us, p99_meanwhile_us: How long the client waited for replies.
    """

    bare_mib_s: float
    move_mib_s: float
    beside_mib_s: float
    hold_p99_ms: float
    hold_max_ms: float
    p99_before_us: float
    p99_meanwhile_us: float


def _watch(ports: list[int]) -> None:
    """A cluster client in a process of its own, which sends a small request every millisecond.

    It prints when each was sent and how long it took, as JSON, when its standard input ends.
    """
    clients = [_client(port) for port in ports]
    times_s: list[tuple[float, float]] = []
    at, number = 0, 0
    print("ready", flush=True)
    due_s = time.monotonic()
    while True:
        due_s += _INTERVAL_S
        if select.select([sys.stdin], [], [], max(0.0, due_s - time.monotonic()))[0]:
            break
        number += 1
        request = ("SET", f"small-{number % 500}", "x" * 100)
        began_s = time.monotonic()
        while not _is_served(clients[at], request):
            at = 1 - at
        times_s.append((began_s, time.monotonic() - began_s))
    print(json.dumps(times_s))


def _is_served(client: Client, request: tuple[str, ...]) -> bool:
    """Send a request; whether this server has its slot."""
    try:
        client.call(*request)
    except BenchmarkError as refusal:
        if "MOVED" not in str(refusal):
            raise
        return False
    return True


def _client(port: int) -> Client:
    client = Client(HOST, port)
    client.call("AUTH", JOB, job_token(_SECRET, JOB))
    return client


def _p99_us(times_s: list[tuple[float, float]], begin_s: float, end_s: float) -> float:
    """What 99 % of the requests that were sent in a time did not take longer than."""
    found = sorted(taken_s for began_s, taken_s in times_s if begin_s <= began_s < end_s)
    if not found:
        raise BenchmarkError("the client sent nothing meanwhile")
    return found[len(found) * 99 // 100] * 1e6


def measure(size_mib: int, before_s: float = _BEFORE_S) -> Taken:
    """Move so much, there and back.

    Args:
        size_mib: How much.
        before_s: How long the client is looked at before that.

    Raises:
        BenchmarkError: A server does not start, or the move does not end.
    """
    bare_mib_s = bare_copy(size_mib)
    controller = Controller()
    with contextlib.ExitStack() as stack:
        stack.callback(controller.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secret = folder / "secret"
        secret.write_text(_SECRET.hex(), encoding="ascii")
        secret.chmod(0o600)
        options = ["--controller", controller.place, "--secret-file", str(secret)]
        # They are ended at once: nobody orders a drain here.
        options += ["--drain-timeout", "0"]
        options += ["--memory", f"{2 * size_mib + 64}mb"]
        servers = [
            stack.enter_context(storage_server("pocketkv", *options, "--server-id", server_id))
            for server_id in _IDS
        ]
        _wait(lambda: len(controller.servers) == len(_IDS))
        controller.place_job([(0, SLOT_COUNT - 1, _IDS[0])])
        time.sleep(0.5)
        with _client(servers[0].port) as filling:
            value = os.urandom(_VALUE_BYTES)
            for number in range(size_mib * MIB // _VALUE_BYTES):
                filling.call("SET", f"large-{number}", value)
        alone_s = _move_all(controller, *_IDS)
        with helper("moves", "--watch", *(str(server.port) for server in servers)) as watching:
            # What is not needed any more goes back to the system meanwhile.
            time.sleep(2 * before_s)
            began_s = time.monotonic()
            took_s = _move_all(controller, *reversed(_IDS))
        times_s = json.loads(watching.result)
        time.sleep(1.5)
        holds = max((r["holds"] for r in controller.reports.values()), key=lambda h: h["count"])
    return Taken(
        bare_mib_s=bare_mib_s,
        move_mib_s=size_mib / alone_s,
        beside_mib_s=size_mib / took_s,
        hold_p99_ms=holds["p99_s"] * 1000,
        hold_max_ms=holds["max_s"] * 1000,
        p99_before_us=_p99_us(times_s, began_s - before_s, began_s),
        p99_meanwhile_us=_p99_us(times_s, began_s, began_s + took_s),
    )


def _move_all(controller: Controller, source: str, target: str) -> float:
    """Have all slots go to another server, in parts; how long it took, in seconds."""
    step = SLOT_COUNT // _PARTS
    parts = [(start, start + step - 1, source, target) for start in range(0, SLOT_COUNT, step)]
    began_s = time.monotonic()
    moves = controller.place_job([(0, SLOT_COUNT - 1, source)], parts)
    _wait(lambda: all(controller.messages("MEMBER.MOVED", move_id) for move_id in moves))
    return time.monotonic() - began_s


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"it is not so after {_TIMEOUT_S} s")
        select.select([], [], [], 0.002)


# --- the bare copy -----------------------------------------------------------------------------


def bare_copy(size_mib: int) -> float:
    """How many MiB per second go from one process to another by `sendfile`, and nothing else."""
    fd = os.memfd_create("bare")
    receiver = helper("moves", "--receive", str(size_mib))
    with contextlib.closing(os.fdopen(fd, "wb")), receiver as far:
        for number in range(size_mib):
            os.pwrite(fd, os.urandom(MIB), number * MIB)
        with socket.create_connection((HOST, int(far.ready))) as sock:
            began_s = time.perf_counter()
            offset = 0
            while offset < size_mib * MIB:
                offset += os.sendfile(sock.fileno(), fd, offset, min(MIB, size_mib * MIB - offset))
            sock.recv(1)
            return size_mib / (time.perf_counter() - began_s)


def _receive(size_mib: int) -> None:
    """The other end of it, in a process of its own."""
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        sock, _ = listener.accept()
    with sock, _new_memory(size_mib * MIB) as view:
        received = 0
        while received < len(view):
            received += sock.recv_into(view[received : received + MIB])
        sock.sendall(b"x")
        sys.stdin.read()


@contextlib.contextmanager
def _new_memory(size: int) -> Iterator[memoryview]:
    fd = os.memfd_create("far")
    os.ftruncate(fd, size)
    with mmap.mmap(fd, size) as mapped, memoryview(mapped) as view:
        yield view
    os.close(fd)


def rows(taken: Sequence[Taken]) -> list[Row]:
    """The lines of the table for some runs."""
    holds_ms = spread([one.hold_p99_ms for one in taken])
    speeds = [one.move_mib_s for one in taken]
    bare = [one.bare_mib_s for one in taken]
    meanwhile = [one.p99_meanwhile_us for one in taken]
    before = [one.p99_before_us for one in taken]
    beside = spread([one.beside_mib_s for one in taken]).median
    return [
        Row(
            work=f"{MOVES_PREFIX}4 MiB values to another server, and a bare sendfile",
            measure="throughput",
            unit="MiB/s",
            ours=spread(speeds).median,
            theirs=spread(bare).median,
            compared=ratios(speeds, bare),
            target=_FASTER,
            is_less_better=False,
            note=f"{beside:.0f} MiB/s beside a client",
        ),
        Row(
            work=f"{MOVES_PREFIX}SET 100 B, 1000/s, of a client meanwhile, and before",
            measure=P99,
            unit="us",
            ours=spread(meanwhile).median,
            theirs=spread(before).median,
            compared=ratios(meanwhile, before),
            target=_BESIDE,
        ),
        Row(
            work=f"{MOVES_PREFIX}commands on slots that go are held",
            measure="p99",
            unit="ms",
            ours=holds_ms.median,
            theirs=0.0,
            compared=holds_ms,
            target=_HELD,
            is_own=True,
        ),
    ]


def main() -> int:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="what is moved (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="how often (default: %(default)s)")
    parser.add_argument("--receive", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--watch", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.watch:
        _watch(arguments.watch)
        return 0
    if arguments.receive:
        _receive(arguments.receive)
        return 0
    for _ in range(arguments.runs):
        taken = measure(arguments.mib)
        print(
            f"move {taken.move_mib_s:.0f} MiB/s, bare sendfile {taken.bare_mib_s:.0f} MiB/s "
            f"(ratio {taken.move_mib_s / taken.bare_mib_s:.2f}); beside a client "
            f"{taken.beside_mib_s:.0f} MiB/s, holds p99 {taken.hold_p99_ms:.2f} ms, "
            f"max {taken.hold_max_ms:.2f} ms, client p99 "
            f"{taken.p99_before_us:.0f} us before, {taken.p99_meanwhile_us:.0f} us meanwhile "
            f"(ratio {taken.p99_meanwhile_us / max(1.0, taken.p99_before_us):.2f})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
