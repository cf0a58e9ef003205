"""What the same commands are sent to: our engine in this process, or any server by its socket."""

from __future__ import annotations

import socket
from typing import Protocol

from pocketkv.engine.eviction import evict_some
from pocketkv.engine.extents import Extents
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium
from tests.engine.stores import MemoryStore
from tests.replies import reply_end

RECEIVE_BYTES = 1 << 16


class Target(Protocol):
    """A server without keys, on database 0, once `begin` returned."""

    def begin(self, protocol: int, now_ms: int) -> None:
        """Start an example: remove all keys, speak RESP 2 or 3."""
        ...

    def run(self, requests: list[list[bytes]]) -> list[bytes]:
        """Send the requests in one go; the bytes of each reply."""
        ...


class EngineTarget:
    """The engine without sockets. Its clock stands still during an example."""

    def __init__(self) -> None:
        self.engine = self.make_engine()
        self.client: Client = self.engine.connect()

    def make_engine(self) -> Engine:
        """The engine; large values are in extents."""
        return Engine(extents=Extents(FakeMedium(32 * 256, page_bytes=4096)))

    def begin(self, protocol: int, now_ms: int) -> None:
        """Start anew, with a new connection."""
        self.client.disconnect()
        self.engine.clock.set(now_ms)
        self.engine.space.clear()
        while self.engine.keyspace.free_some(1000):
            pass
        self.client = self.engine.connect(protocol=protocol)

    def run(self, requests: list[list[bytes]]) -> list[bytes]:
        """Serve them one by one."""
        replies = [self._answer(encode_request(request)) for request in requests]
        self.engine.validate()
        return replies

    def _answer(self, request: bytes) -> bytes:
        """The reply to a request; who has to wait waits in vain, since nobody else is there."""
        reply = self.client.send(request)
        blocked = self.client.session.blocked
        if blocked is not None:
            blocked.unblock(with_error=False)
            reply += self.client.transport.take()
        return reply


class StoreTarget(EngineTarget):
    """The engine on a store that has to be waited for whenever something is read.

    Every other request finds all sets moved out of memory.
    """

    def make_engine(self) -> Engine:
        """The engine; everything is in a journal."""
        return Engine(store=MemoryStore(is_slow=True))

    def run(self, requests: list[list[bytes]]) -> list[bytes]:
        """Serve them one by one."""
        keyspace = self.engine.keyspace
        replies = []
        for number, request in enumerate(requests):
            replies += super().run([request])
            if number % 2:
                while evict_some(keyspace, 1 << 30, 1 << 30):
                    pass
        return replies


class SocketTarget:
    """A server that is connected already: redis-server, or one of ours."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def begin(self, protocol: int, now_ms: int) -> None:
        """Start anew, on the same connection."""
        setup = [[b"HELLO", b"%d" % protocol], [b"SELECT", b"0"], [b"FLUSHALL"]]
        replies = self.run(setup)
        if any(reply.startswith(b"-") for reply in replies):
            raise RuntimeError(f"the server cannot start an example: {replies}")

    def run(self, requests: list[list[bytes]]) -> list[bytes]:
        """Send them in one pipeline."""
        self.socket.sendall(b"".join(map(encode_request, requests)))
        data = bytearray()
        replies: list[bytes] = []
        while len(replies) < len(requests):
            end = reply_end(data)
            if end >= 0:
                replies.append(bytes(data[:end]))
                del data[:end]
                continue
            received = self.socket.recv(RECEIVE_BYTES)
            if not received:
                raise RuntimeError(f"the connection was closed after {len(replies)} replies")
            data += received
        return replies
