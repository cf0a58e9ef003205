"""redis-benchmark, Redis's own driver, run as a child and checked."""

from __future__ import annotations

import csv
import io
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.client import BenchmarkError
from benchmarks.driver import Driven

PROGRAM: Final = "redis-benchmark"
TIMEOUT_S: Final = 300.0
# It says so where CONFIG GET is refused, and goes on: it only prints what it would have got.
_HARMLESS: Final = "could not fetch server config"


@dataclass(frozen=True)
class RedisBenchmark:
    """A run of redis-benchmark.

    Attributes:
        arguments: Its own options, or the command that it is to send; ``__rand_int__`` in it
            becomes a number below `keys`.
        clients: Connections.
        pipeline: Requests that each sends at once.
        keys: How many keys it uses.
    """

    arguments: Sequence[str]
    clients: int
    pipeline: int
    keys: int

    def run(self, host: str, port: int, operations: int) -> Driven:
        """As `benchmarks.driver.Driver`."""
        command = [PROGRAM, "-h", host, "-p", str(port), "--csv"]
        command += ["-c", str(self.clients), "-P", str(self.pipeline), "-r", str(self.keys)]
        command += ["-n", str(operations), *self.arguments]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{PROGRAM} is not done after {TIMEOUT_S:.0f} s") from error
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        check(done.returncode, done.stderr)
        throughput, p50_us, p99_us = parse(done.stdout)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Driven(operations, operations / throughput, p50_us, p99_us, cpu_s)


def is_installed() -> bool:
    """Whether redis-benchmark can be run."""
    return shutil.which(PROGRAM) is not None


def check(status: int, errors: str) -> None:
    """Make sure that a run has measured what it says.

    It stops at the first error reply, but a warning may also mean that it did something else.

    Raises:
        BenchmarkError: It has ended with an error, or complained.
    """
    complaints = [
        line.strip()
        for line in errors.splitlines()
        if line.strip() and _HARMLESS not in line.lower()
    ]
    if status or complaints:
        said = complaints[0] if complaints else "nothing"
        raise BenchmarkError(f"{PROGRAM} (exit status {status}) says: {said}")


def parse(text: str) -> tuple[float, float, float]:
    """Return operations per second, p50 and p99 in microseconds from what ``--csv`` prints.

    Raises:
        BenchmarkError: It is not one header and the figures of one test.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    if len(rows) != 1:
        raise BenchmarkError(f"{PROGRAM} printed figures of {len(rows)} tests instead of one")
    try:
        throughput = float(rows[0]["rps"])
        p50_ms = float(rows[0]["p50_latency_ms"])
        p99_ms = float(rows[0]["p99_latency_ms"])
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(f"{PROGRAM} printed no figures: {text[:200]!r}") from error
    if not throughput > 0:
        raise BenchmarkError(f"{PROGRAM} printed a throughput of {throughput}")
    return throughput, p50_ms * 1000, p99_ms * 1000
