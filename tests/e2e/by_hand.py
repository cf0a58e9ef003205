"""A cluster whose processes are started one by one, as on machines of their own.

Nobody ends those that hang, or starts others in place of those that die.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 10.0
SECOND_STOP_S = 0.5


class Process:
    """A running process of PocketKV, and what it announced."""

    def __init__(self, process: subprocess.Popen[bytes], ready: dict[str, Any], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.port = int(ready.get("port", 0))
        self.is_ready = bool(ready)
        self._log = log

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def log_lines(self, *words: str) -> list[str]:
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if all(word in line for word in words)]


class ByHand:
    """Starts processes that share a secret; what is left of them ends with the stack."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._count = 0
        self._environment = os.environ | {
            "POCKETKV_SECRET": secrets.token_hex(32),
            "TMPDIR": str(folder),
        }

    def start(self, command: str, *options: str, port: int = 0) -> Process:
        """Start `pocketkv COMMAND` and wait until it is ready, or has ended."""
        self._count += 1
        log = self._folder / f"{self._count}-{command}.log"
        reading, writing = os.pipe()
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pocketkv", command, "--port", str(port)),
                    *("--metrics-port", "off", "--announce-fd", str(writing), *options),
                ],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(writing,),
                env=self._environment,
            )
        self._stack.callback(_end, process)
        os.close(writing)
        with os.fdopen(reading, "rb") as announced:
            assert select.select([announced], [], [], START_TIMEOUT_S)[0], "it is not ready"
            line = announced.readline()
        return Process(process, json.loads(line or b"{}"), log)


@contextmanager
def by_hand(folder: Path) -> Iterator[ByHand]:
    """Processes that are started one by one."""
    with ExitStack() as stack:
        yield ByHand(stack, folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        # Whose controller has ended before it waits for the next one, unless it is told twice.
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECOND_STOP_S)
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
