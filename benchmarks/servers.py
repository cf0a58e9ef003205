"""The servers that are measured: started on free ports, watched from outside, stopped by pid."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import psutil

from benchmarks.client import BenchmarkError, Client
from pocketkv.limits import CONNECTIONS_MAX

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
DESCRIPTORS_WANTED: Final = 16_384
"""Open files that servers and drivers may have, for thousands of connections."""

_LIFELINE_VARIABLE: Final = "POCKETKV_LIFELINE_FD"


# What two counts of the same time may differ by: a tick at each end, for each of two processes.
_TICKS_TOLERANCE_S: Final = 0.04


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time of some processes until now, from both of the kernel's accounts.

    Attributes:
        ticks_s: Of the processes, from psutil, in steps of 10 ms.
        threads_s: Of their present threads, to the nanosecond.
    """

    ticks_s: float
    threads_s: float

    def since(self, before: CpuTime) -> float:
        """Return the seconds since then, by the finer account.

        That loses what a thread had when it ends; if it shows, the coarse account counts.
        """
        ticks_s = self.ticks_s - before.ticks_s
        threads_s = self.threads_s - before.threads_s
        return threads_s if abs(threads_s - ticks_s) <= _TICKS_TOLERANCE_S else ticks_s


def _threads_cpu_s(pid: int) -> float:
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between the listing and the look.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total_ns += int((path / "schedstat").read_text(encoding="ascii").split()[0])
    return total_ns / 1e9


@dataclass(frozen=True)
class Endpoint:
    """A server under measurement.

    Attributes:
        name: What the table calls it.
        port: Where it listens, on the loopback.
        pids: The processes that do its work.
    """

    name: str
    port: int
    pids: tuple[int, ...]

    def cpu(self) -> CpuTime:
        """User and system time of its processes, as the kernel counts it."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return CpuTime(
            ticks_s=sum(t.user + t.system for t in times),
            threads_s=sum(_threads_cpu_s(pid) for pid in self.pids),
        )

    def memory_bytes(self) -> int:
        """Memory that its processes hold: what is resident, and memory files' unmapped part."""
        return sum(_memory_bytes(pid) for pid in self.pids)

    def is_alive(self) -> bool:
        """Whether all of its processes still run."""
        return all(
            psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            for pid in self.pids
        )

    def client(self) -> Client:
        """Return a new connection to it."""
        return Client(HOST, self.port)


def _memory_bytes(pid: int) -> int:
    # A memory file's pages are the process's burden whether it has mapped them or not, but only
    # mapped ones are in its RSS.
    mapped_bytes = 0
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssShmem:"):
            mapped_bytes = int(line.split()[1]) * 1024
    rss_bytes: int = psutil.Process(pid).memory_info().rss
    return rss_bytes - mapped_bytes + max(mapped_bytes, _memory_file_bytes(pid))


def _memory_file_bytes(pid: int) -> int:
    """What all memory files that a process has open hold, each counted once."""
    found: dict[int, int] = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        # A descriptor may be closed between the listing and the look.
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(path).startswith("/memfd:"):  # noqa: PTH115 - the link names no file
                status = path.stat()
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def allow_many_connections() -> None:
    """Let this process and those that it starts open as many files as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def redis_server(name: str = "redis") -> Iterator[Endpoint]:
    """Run a redis-server that keeps nothing on disk.

    Raises:
        BenchmarkError: It is not installed, or does not start.
    """
    if shutil.which("redis-server") is None:
        raise BenchmarkError("redis-server is not installed (Debian: apt-get install redis-server)")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        log = Path(folder) / "log"
        # Somebody may take the free port before it does, so that is tried again.
        for _ in range(5):
            port = _free_port()
            command = ["redis-server", "--port", str(port), "--bind", HOST, "--dir", folder]
            command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
            command += ["--maxclients", str(CONNECTIONS_MAX)]
            with log.open("wb") as output:
                process = _spawn(command, output)
            try:
                if _answers(process, port):
                    yield Endpoint(name, port, (process.pid,))
                    return
            finally:
                _stop(process)
        raise BenchmarkError(f"redis-server does not start: {_last_line(log)}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with Client(HOST, port) as client:
                return bool(client.call("INFO", "server")) and process.poll() is None
        except ConnectionError:
            # Nothing tells when it is ready, so it is asked again shortly.
            time.sleep(0.01)
    return False


@contextlib.contextmanager
def storage_server(name: str = "pocketkv", *options: str) -> Iterator[Endpoint]:
    """Run `pocketkv storage` by itself, with these options.

    Raises:
        BenchmarkError: It does not start.
    """
    with _pocketkv("storage", *options) as ready:
        yield Endpoint(name, ready["port"], (ready["pid"],))


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Run `pocketkv serve` with one storage server; gives its router, and that server itself.

    The router's processes are its own and the storage server's, since both work for a request.

    Raises:
        BenchmarkError: It does not start, or does not show where the storage server is.
    """
    with _pocketkv("serve", "--dram", "1", "--nvme", "0") as ready:
        with Client(HOST, ready["port"]) as client:
            slots = client.call("CLUSTER", "SLOTS")
        ports = {node[1] for _, _, *nodes in slots for node in nodes}
        if len(ports) != 1:
            raise BenchmarkError(f"one storage server is expected, the map shows {len(ports)}")
        port = ports.pop()
        owners = {
            connection.laddr.port: process.pid
            for process in psutil.Process(ready["pid"]).children(recursive=True)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        if port not in owners or ready["port"] not in owners:
            raise BenchmarkError("the processes of `pocketkv serve` do not listen where they say")
        storage_pid, router_pid = owners[port], owners[ready["port"]]
        yield (
            Endpoint("router", ready["port"], (router_pid, storage_pid)),
            Endpoint("direct", port, (storage_pid,)),
        )


@contextlib.contextmanager
def serving(*options: str) -> Iterator[int]:
    """Run `pocketkv serve` with these options; gives the port of its router.

    Raises:
        BenchmarkError: It does not start.
    """
    with _pocketkv("serve", *options) as ready:
        yield int(ready["port"])


@contextlib.contextmanager
def _pocketkv(*arguments: str) -> Iterator[dict[str, Any]]:
    """Run a `pocketkv` subcommand on a free port; gives what it announces when it is ready."""
    ready_read, ready_write = os.pipe()
    lifeline_read, lifeline_write = os.pipe()
    command = [sys.executable, "-m", "pocketkv", *arguments, "--host", HOST, "--port", "0"]
    command += ["--announce-fd", str(ready_write)]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        log = Path(folder) / "log"
        try:
            with log.open("wb") as output:
                process = _spawn(command, output, ready_write, lifeline_read)
        finally:
            os.close(ready_write)
            os.close(lifeline_read)
        try:
            yield _announced(ready_read, arguments[0], log)
        finally:
            try:
                _stop(process)
            finally:
                os.close(ready_read)
                os.close(lifeline_write)


def _spawn(command: Sequence[str], output: IO[bytes], *inherited: int) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, so that Ctrl-C reaches it only through us."""
    environment = dict(os.environ)
    if inherited:
        environment[_LIFELINE_VARIABLE] = str(inherited[-1])
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=inherited,
        env=environment,
        start_new_session=True,
    )


def _announced(ready_fd: int, name: str, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_TIMEOUT_S
    text = b""
    while not text.endswith(b"\n"):
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([ready_fd], [], [], left_s)[0]:
            raise BenchmarkError(f"pocketkv {name} is not ready after {START_TIMEOUT_S:.0f} s")
        part = os.read(ready_fd, 4096)
        if not part:
            raise BenchmarkError(f"pocketkv {name} does not start: {_last_line(log)}")
        text += part
    ready: dict[str, Any] = json.loads(text)
    return ready


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _free_port() -> int:
    """A port of the loopback that nobody listened on just now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP unwind this process, as Ctrl-C does, so that servers are stopped."""

    def unwind(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = [(n, signal.signal(n, unwind)) for n in (signal.SIGTERM, signal.SIGHUP)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
