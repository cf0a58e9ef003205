"""What leads connections to pods in a test, as a Service does."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Callable, Iterator

Address = tuple[str, int]


class Forwarder:
    """Listens at an address, and leads each connection to one of those that are there then.

    Args:
        address: Where to listen; port 0 is any.
        endpoints: Tells where a new connection may be led to.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, address: Address, endpoints: Callable[[], list[Address]]) -> None:
        self._endpoints = endpoints
        self._listener = socket.create_server(address)
        self._listener.settimeout(0.1)
        self.port = int(self._listener.getsockname()[1])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, with all connections."""
        self._stop.set()
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(client.close)
            found = self._endpoints()
            for endpoint in random.sample(found, len(found)):
                try:
                    upstream = socket.create_connection(endpoint, 1)
                except OSError:
                    continue
                stack.callback(upstream.close)
                upstream.settimeout(None)
                client.settimeout(None)
                for data, to in _exchanged(client, upstream, self._stop):
                    try:
                        to.sendall(data)
                    except OSError:
                        return
                return


def _exchanged(
    one: socket.socket, other: socket.socket, stop: threading.Event
) -> Iterator[tuple[bytes, socket.socket]]:
    """Yield what comes from either, and whom it is for, until one of them ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while not stop.is_set():
            for key, _ in selector.select(0.2):
                source = one if key.data is other else other
                try:
                    data = source.recv(1 << 16)
                except OSError:
                    return
                if not data:
                    return
                yield data, key.data
