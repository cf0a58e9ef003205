"""Helper processes of the benchmarks: what they need started, asked and ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.client import BenchmarkError

STOP_TIMEOUT_S = 10.0


@contextlib.contextmanager
def helper(module: str, *arguments: str) -> Iterator[tuple[int, str]]:
    """Run a module of this package until the block ends; gives its pid and its first line.

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
        yield process.pid, line.strip()
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
