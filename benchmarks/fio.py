"""fio: what a directory's medium gives to a program that does nothing but use it.

It goes past the page cache, keeps as many requests under way as PocketKV's clients do, and the time
of a write ends when all of it is on the device.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.client import BenchmarkError

PROGRAM: Final = "fio"
INSTALL: Final = f"{PROGRAM} is not installed (Debian: apt-get install {PROGRAM})"
_TIMEOUT_S: Final = 600.0

Kind = Literal["write", "read", "randread"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What fio got."""

    bytes_per_s: float
    operations_per_s: float


def is_installed() -> bool:
    """Whether there is a fio."""
    return shutil.which(PROGRAM) is not None


class Fio:
    """Runs fio on one file of a directory.

    Args:
        folder: The directory.
        size_bytes: Of the file.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._path = folder / "fio"
        self._size_bytes = size_bytes

    def write(self, block_bytes: int, depth: int) -> Measured:
        """Write the file anew, one block after the other.

        Raises:
            BenchmarkError: fio failed.
        """
        self._path.unlink(missing_ok=True)
        return self._run("write", block_bytes, depth, "--end_fsync=1")

    def read(self, block_bytes: int, depth: int) -> Measured:
        """Read all of the file, one block after the other; otherwise as `write`."""
        self._lay_out()
        return self._run("read", block_bytes, depth)

    def read_randomly(self, block_bytes: int, depth: int, run_s: float) -> Measured:
        """Read blocks anywhere in the file for so long; otherwise as `write`."""
        self._lay_out()
        return self._run(
            "randread", block_bytes, depth, "--time_based", f"--runtime={run_s * 1000:.0f}ms"
        )

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _lay_out(self) -> None:
        """Make the file if it is not there: what was never written is no read."""
        if not self._path.exists():
            self.write(1024 * 1024, 4)

    def _run(self, kind: Kind, block_bytes: int, depth: int, *more: str) -> Measured:
        if not is_installed():
            raise BenchmarkError(INSTALL)
        command = [PROGRAM, "--name=beside", f"--filename={_escaped(self._path)}", f"--rw={kind}"]
        command += [f"--bs={block_bytes}", f"--iodepth={depth}", f"--size={self._size_bytes}"]
        command += ["--ioengine=libaio", "--direct=1", "--randrepeat=0", "--thread"]
        command += ["--output-format=json", *more]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                cwd=self._path.parent,
            )
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"fio ({kind}) took longer than {_TIMEOUT_S:.0f} s") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise BenchmarkError(f"fio ({kind}) failed: {said[-1] if said else done.returncode}")
        return measured(done.stdout, kind)


def measured(output: str, kind: Kind) -> Measured:
    """Return what fio's JSON says of its only job.

    Raises:
        BenchmarkError: It is not what it should be, or fio has met errors.
    """
    # Warnings may stand before it.
    begin = output.find("{")
    try:
        (job,) = json.loads(output[max(begin, 0) :])["jobs"]
        side = job["write" if kind == "write" else "read"]
        if job["error"]:
            raise BenchmarkError(f"fio ({kind}) met the error {job['error']}")
        moved_bytes, operations = int(side["io_bytes"]), int(side["total_ios"])
        # The whole time of the job, so that what is waited for at its end counts.
        took_s = max(int(side["runtime"]), int(job["job_runtime"])) / 1000
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"fio ({kind}) tells something else: {error!r}") from error
    if not moved_bytes or not took_s:
        raise BenchmarkError(f"fio ({kind}) has moved nothing")
    return Measured(moved_bytes / took_s, operations / took_s)


def _escaped(path: Path) -> str:
    """A path as fio takes it, which has a meaning for colons."""
    return str(path.absolute()).replace("\\", "\\\\").replace(":", "\\:")
