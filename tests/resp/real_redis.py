"""A real Redis server for comparison, in a process of its own, on a Unix socket."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 20.0


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Path]:
    """Start a server that keeps nothing; gives its socket."""
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    quiet = ["--save", "", "--appendonly", "no", "--logfile", ""]
    with subprocess.Popen([*command, *quiet, *options], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if b"ready to accept" in line.lower():
                    break
            else:
                raise RuntimeError("redis-server did not start")
            yield path
        finally:
            server.terminate()


def exchange(path: Path, sent: bytes) -> bytes:
    """Send bytes on a new connection, then say that no more come; everything that is answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        sock.sendall(sent)
        received = b""
        while not received.endswith(_END) and (data := sock.recv(65536)):
            received += data
        return received.removesuffix(_END)


# Answer to the request that follows what a test sends, unless the connection broke before.
_END = b"$3\r\nend\r\n"
END_REQUEST = b"\r\n*2\r\n$4\r\nECHO\r\n$3\r\nend\r\n"
