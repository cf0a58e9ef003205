"""Storage servers as processes that are stopped, killed and started again on the same files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pocketkv.config import StorageConfig
from pocketkv.resp.encoder import encode_request
from tests.replies import Error, decode, reply_end
from tests.tiers import storage_process

FILE_TIERS = ["nvme", "ssd", "hdd"]
# What a server may be told to keep values on; `spill` as soon as servers know the option.
MEDIA = ["dram", *FILE_TIERS]
if "spill" in StorageConfig.__dataclass_fields__:
    MEDIA.append("spill")

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0

Request = list[bytes]


class Client(storage_process.Client):
    """A connection whose replies may be long."""

    def next_reply(self) -> Any:
        """The decoded reply that comes next."""
        while (end := reply_end(self._received)) < 0:
            self._receive_some(1 << 20)
        return decode(self.receive(end))

    def __call__(self, *arguments: object) -> Any:
        """The decoded reply to a request."""
        self.send(*[a if isinstance(a, bytes) else str(a).encode() for a in arguments])
        return self.next_reply()


class Server:
    """A storage server under way.

    Attributes:
        process: The process.
        port: Where it listens.
        control: A connection to it.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log
        self._clients: list[Client] = []
        self.control = self.client()

    def client(self) -> Client:
        """A new connection."""
        client = Client(self.port)
        self._clients.append(client)
        return client

    @property
    def log(self) -> str:
        """What it has said so far, and those before it with the same log."""
        return self._log.read_text(encoding="utf-8")

    def memory_bytes(self) -> int:
        """Its memory, but for what is a file's."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = [re.search(rf"{name}:\s+(\d+) kB", text) for name in ("RssAnon", "RssShmem")]
        return sum(int(match[1]) for match in found if match) * 1024

    def kill(self) -> None:
        """End it without giving it any say."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)
        self.disconnect()

    def stop(self, status: int = 0) -> None:
        """Have it end by itself; without a defect met, and with such a status."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_TIMEOUT_S) == status, self.log
        self.disconnect()
        assert "internal error" not in self.log, self.log

    def disconnect(self) -> None:
        """Close all connections to it."""
        for client in self._clients:
            client.close()


def options_of(medium: str, folder: Path) -> list[str]:
    """What makes a server keep its values on a medium."""
    if medium == "dram":
        return ["--tier", "dram", "--memory", "512mb"]
    if medium == "spill":
        return ["--tier", "dram", "--memory", "256mb", "--spill", str(folder)]
    return ["--tier", medium, "--memory", "256mb", "--dir", str(folder)]


def _command(options: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pocketkv", "storage", "--port", "0", "--metrics-port", "off"]
    return [*command, *options]


@contextlib.contextmanager
def serving(log_folder: Path, *options: str) -> Iterator[Server]:
    """Run a server. It is stopped in the end, if it was not before."""
    reading, writing = os.pipe()
    log = log_folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_command(options), "--announce-fd", str(writing)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writing,),
        )
    os.close(writing)
    server = None
    try:
        with os.fdopen(reading) as announced:
            ready, _, _ = select.select([announced], [], [], START_TIMEOUT_S)
            line = announced.readline() if ready else ""
        assert line, log.read_text(encoding="utf-8")
        server = Server(process, int(json.loads(line)["port"]), log)
        yield server
        if process.returncode is None:
            server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        if server is not None:
            server.disconnect()


def refusal(*options: str) -> tuple[int, str]:
    """How a server ends that cannot start: its status, and what it said."""
    done = subprocess.run(
        _command(options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


def pipeline(client: Client, requests: Sequence[Request]) -> list[Any]:
    """Send requests in one go; the decoded replies, of which none may be very long."""
    client.send_raw(b"".join([encode_request(request) for request in requests]))
    return [client.next_reply() for _ in requests]


def info(server: Server, field: str) -> int:
    """A number that INFO tells."""
    lines = server.control("INFO", "tiers").decode().splitlines()
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[field])


def must(reply: Any) -> Any:
    """A reply that is no error."""
    assert not isinstance(reply, Error), reply
    return reply


@lru_cache(64)
def pattern(seed: int, size: int) -> bytes:
    """Bytes that tell where they belong: no two places of any two values look alike."""
    block = b"%016d|" % seed
    words = size // 24 + 1
    return b"".join([block + b"%07d" % number for number in range(words)])[:size]
