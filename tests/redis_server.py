"""A real redis-server for tests that compare with it or need one as a peer."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


def free_port() -> int:
    """A TCP port of the loopback that nobody listened on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class RedisServer:
    """A redis-server that keeps nothing; made by `redis_server`.

    Attributes:
        path: Its Unix socket.
        port: Its TCP port on the loopback; 0: it has none.
        pid: Its process.
    """

    def __init__(self, process: subprocess.Popen[bytes], path: Path, port: int) -> None:
        self.process = process
        self.path = path
        self.port = port
        self.pid = process.pid

    def connect(self) -> socket.socket:
        """A new connection through its Unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(START_TIMEOUT_S)
        try:
            sock.connect(str(self.path))
        except OSError:
            sock.close()
            raise
        return sock


@contextlib.contextmanager
def redis_server(*options: str, tcp: bool = False) -> Iterator[RedisServer]:
    """Run a redis-server, by Unix socket and, if asked for, on a TCP port.

    Args:
        options: More command line options, such as ``--maxmemory``, ``1mb``.
        tcp: Whether it listens on a port of the loopback too. Somebody may take the free port
            before it does, so that is tried again.

    Raises:
        RuntimeError: It did not start in time; the message has what it printed.
    """
    if shutil.which("redis-server") is None:
        raise RuntimeError("redis-server is not installed (Debian: apt-get install redis-server)")
    # Not pytest's directory: the path of a Unix socket may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        for _ in range(5):
            server = _start(Path(folder), free_port() if tcp else 0, options)
            if server is not None:
                break
        else:
            raise RuntimeError(f"redis-server: {(Path(folder) / 'log').read_text()}")
        try:
            yield server
        finally:
            _stop(server.process)


def _start(folder: Path, port: int, options: tuple[str, ...]) -> RedisServer | None:
    path = folder / "socket"
    path.unlink(missing_ok=True)
    command = ["redis-server", "--port", str(port), "--unixsocket", str(path)]
    command += ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    command += ["--enable-debug-command", "yes", "--daemonize", "no", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    server = RedisServer(process, path, port)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(server):
            return server
        # Nothing tells when it is ready, so it is asked again shortly.
        time.sleep(0.01)
    _stop(process)
    return None


def _answers(server: RedisServer) -> bool:
    try:
        with server.connect() as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(16) == b"+PONG\r\n"
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT_S)
