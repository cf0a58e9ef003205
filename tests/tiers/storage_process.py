"""`pocketkv storage` as a process, and clients that are as blunt as a test needs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pocketkv.resp.encoder import encode_request
from tests.replies import decode, reply_end

START_TIMEOUT_S = 30.0
WAIT_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


def eventually(condition: Callable[[], bool], timeout_s: float = WAIT_TIMEOUT_S) -> None:
    """Look at a condition until it is so."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"it is not so after {timeout_s} s"
        select.select([], [], [], 0.02)


class Client:
    """A connection that sends and receives just what a test says."""

    def __init__(self, port: int, receive_buffer_bytes: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_TIMEOUT_S)
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        self._received = bytearray()

    def send(self, *arguments: bytes) -> None:
        self.socket.sendall(encode_request(list(arguments)))

    def send_raw(self, data: bytes | memoryview) -> None:
        self.socket.sendall(data)

    def receive(self, count: int) -> bytes:
        """Just so many bytes."""
        while len(self._received) < count:
            self._receive_some(count - len(self._received))
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _receive_some(self, count: int) -> None:
        data = self.socket.recv(max(1, min(count, 1 << 20)))
        assert data, "the server has closed the connection"
        self._received += data

    def bulk(self, pause: Callable[[], None] = lambda: None) -> bytes:
        """A bulk reply; `pause` is called between its pieces."""
        head = self.receive(1)
        assert head == b"$", head + self._received[:100]
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.receive(1)
        size = int(line)
        parts = []
        while size > 0:
            parts.append(self.receive(min(size, 1 << 18)))
            size -= len(parts[-1])
            pause()
        assert self.receive(2) == b"\r\n"
        return b"".join(parts)

    def __call__(self, *arguments: object) -> Any:
        """The decoded reply to a request, which must not be a large one."""
        encoded = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        self.send(*encoded)
        while (end := reply_end(self._received)) < 0:
            self._receive_some(1 << 16)
        return decode(self.receive(end))

    def get(self, key: bytes) -> bytes:
        self.send(b"GET", key)
        return self.bulk()

    def close(self) -> None:
        self.socket.close()


class Storage:
    """A running storage server."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self.port = port
        self._clients: list[Client] = []
        self.control = self.client()

    def client(self, receive_buffer_bytes: int = 0) -> Client:
        client = Client(self.port, receive_buffer_bytes)
        self._clients.append(client)
        return client

    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def info(self, field: str) -> int:
        """A number that INFO tells."""
        text = self.control("INFO").decode()
        match = re.search(rf"^{field}:(\d+)", text, re.MULTILINE)
        assert match is not None, text
        return int(match[1])

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def storage(
    folder: Path, *options: str, role: str = "storage", may_be_killed: bool = False
) -> Iterator[Storage]:
    """Run a storage server (or another role) on a free port; it is seen to that it ends.

    With `may_be_killed` the test may have ended it by itself, as it likes.
    """
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pocketkv", role, "--port", "0"]
    command += ["--metrics-port", "off", "--announce-fd", str(writing), *options]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,)
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as announced:
            ready, _, _ = select.select([announced], [], [], START_TIMEOUT_S)
            line = announced.readline() if ready else ""
        assert line, (folder / "log").read_text(encoding="utf-8")
        server = Storage(process.pid, int(json.loads(line)["port"]))
        with contextlib.closing(server):
            yield server
    finally:
        process.terminate()
        try:
            status = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
            raise
    log_text = (folder / "log").read_text(encoding="utf-8")
    assert status == 0 or may_be_killed, log_text
    assert "internal error" not in log_text, log_text
