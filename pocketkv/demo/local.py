"""A cluster of the demo's own: `pocketkv serve` on free ports, for as long as a block lasts."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

LIFELINE_VARIABLE: Final = "POCKETKV_LIFELINE_FD"
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0


class ClusterError(Exception):
    """The cluster does not start, or does not stop; one line."""


@contextmanager
def local_cluster(options: Sequence[str] = ()) -> Iterator[str]:
    """Run `pocketkv serve` with these options; gives the URL of its router.

    It has a session of its own, so that Ctrl-C does not reach it before its job is deregistered,
    and a lifeline, so that it ends when this process does, however that comes about.

    Raises:
        ClusterError: It does not start in `START_TIMEOUT_S`, or not stop in `STOP_TIMEOUT_S`.
    """
    ready_read, ready_write = os.pipe()
    lifeline_read, lifeline_write = os.pipe()
    # -P: a module in the folder that we were started in must not take the place of one of ours.
    command = [sys.executable, "-P", "-m", "pocketkv", "serve", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [*command, "--announce-fd", str(ready_write), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_write, lifeline_read),
                env=os.environ | {LIFELINE_VARIABLE: str(lifeline_read)},
                start_new_session=True,
            )
        finally:
            os.close(ready_write)
            os.close(lifeline_read)
        try:
            yield _wait_ready(ready_read, log)
        finally:
            try:
                _stop(process)
            finally:
                os.close(ready_read)
                os.close(lifeline_write)


def _wait_ready(announced_fd: int, log: IO[bytes]) -> str:
    """Return the URL that the cluster announces."""
    deadline = time.monotonic() + START_TIMEOUT_S
    text = b""
    while not text.endswith(b"\n"):
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([announced_fd], [], [], left_s)[0]:
            raise ClusterError(f"pocketkv serve is not ready after {START_TIMEOUT_S:.0f} s")
        read = os.read(announced_fd, 4096)
        if not read:
            raise ClusterError(f"pocketkv serve does not start: {_last_line(log)}")
        text += read
    ready = json.loads(text)
    return f"redis://{ready['host']}:{ready['port']}"


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise ClusterError(f"pocketkv serve did not stop in {STOP_TIMEOUT_S:.0f} s") from error
