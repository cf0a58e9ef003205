"""Helper processes of the benchmarks: what they need started, asked and ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.client import BenchmarkError

STOP_TIMEOUT_S = 10.0


@dataclass
class Helper:
    """A helper process.

    Attributes:
        pid: Its process.
        ready: The line that it printed when it was ready.
        result: What it printed afterwards, once it has ended.
    """

    pid: int
    ready: str
    result: str = ""


@contextlib.contextmanager
def helper(module: str, *arguments: str) -> Iterator[Helper]:
    """Run a module of this package until the block ends.

    The module prints a line when it is ready, and ends when its standard input does, so that it
    never outlives us.

    Raises:
        BenchmarkError: It ended before it was ready.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the helper benchmarks.{module} does not start")
        running = Helper(process.pid, line.strip())
        yield running
        running.result = _end(process)
    finally:
        _end(process)
        process.stdout.close()


def _end(process: subprocess.Popen[str]) -> str:
    """End the process, if it has not ended; what it said at last."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.returncode is not None:
        return ""
    process.stdin.close()
    # It may have more to say than a pipe holds, and so is read before it is waited for.
    killer = threading.Timer(STOP_TIMEOUT_S, process.kill)
    killer.start()
    try:
        said = process.stdout.read().strip()
        process.wait()
    finally:
        killer.cancel()
    return said
