"""A helper process that holds connections which do nothing: ``python -m benchmarks.idle``.

With ``blocked`` as its last argument they wait in BLPOP, each for a key of its own.

In a process of its own, so that neither the driver's poll nor its table of descriptors is any
different from that of a run without idle connections.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

from benchmarks.client import TIMEOUT_S, Client
from benchmarks.servers import allow_many_connections

_PONG = b"+PONG\r\n"
_PAUSE_S = 0.05


def open_idle(host: str, port: int, count: int) -> list[socket.socket]:
    """Return connections that the server has accepted, and answered once.

    Raises:
        ConnectionError: The server does not take so many.
        OSError: The system does not allow so many.
    """
    with contextlib.ExitStack() as unwind:
        opened = []
        for _ in range(count):
            sock = unwind.enter_context(socket.create_connection((host, port), timeout=TIMEOUT_S))
            sock.sendall(b"PING\r\n")
            opened.append(sock)
        for number, sock in enumerate(opened):
            answer = sock.recv(64)
            if answer != _PONG:
                raise ConnectionError(f"connection {number} of {count} is answered {answer!r}")
        unwind.pop_all()
        return opened


def block(host: str, port: int, connections: list[socket.socket]) -> None:
    """Have connections wait in BLPOP.

    Raises:
        TimeoutError: The server does not say that they do.
    """
    for number, sock in enumerate(connections):
        sock.sendall(b"BLPOP awaited:%d 0\r\n" % number)
    deadline_s = time.monotonic() + TIMEOUT_S
    with Client(host, port) as client:
        while int(client.info("clients")["blocked_clients"]) < len(connections):
            if time.monotonic() > deadline_s:
                raise TimeoutError("not all connections are blocked")
            time.sleep(_PAUSE_S)


def main() -> None:
    """Open the connections, say so, and hold them until standard input ends."""
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    allow_many_connections()
    held = open_idle(host, port, count)
    if "blocked" in sys.argv[4:]:
        block(host, port, held)
    print("ready", flush=True)
    sys.stdin.read()
    for sock in held:
        sock.close()


if __name__ == "__main__":
    main()
