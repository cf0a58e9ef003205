"""Cases in which several connections take part: what each of them is sent after each step.

A case is written as steps, each with the letter of its connection, which is opened when it is
first named:

    A: SUBSCRIBE news / B: PUBLISH news hello / A: UNSUBSCRIBE
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
from typing import Final

from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Client, Engine
from tests.redis_server import RedisServer

Step = tuple[str, list[bytes]]
# What each connection was sent after a step.
Heard = dict[str, bytes]


def steps_of(case: str) -> list[Step]:
    """The steps of a case."""
    steps = []
    for part in case.split(" / "):
        name, _, request = part.strip().partition(":")
        steps.append((name, [word.encode() for word in shlex.split(request)]))
    return steps


class Conversation:
    """Connections to one server, and what each of them was sent since it was last asked."""

    def __init__(self) -> None:
        # By the word that stands for each.
        self.ids: dict[bytes, bytes] = {}

    def say(self, name: str, request: list[bytes]) -> Heard:
        """Send a request on a connection; what all of them were sent."""
        raise NotImplementedError  # An interface: what there is are the two below.


class EngineConversation(Conversation):
    """With our engine in this process."""

    def __init__(self, protocol: int, engine: Engine | None = None) -> None:
        super().__init__()
        self.engine = engine or Engine()
        self.protocol = protocol
        self.clients: dict[str, Client] = {}

    def say(self, name: str, request: list[bytes]) -> Heard:
        """As `Conversation.say`."""
        if name not in self.clients:
            self.clients[name] = self.engine.connect(protocol=self.protocol)
        if not self.clients[name].transport.closed:
            self.clients[name].receive(encode_request(request))
        self.engine.node.timers.run_due()
        heard = {n: client.transport.take() for n, client in self.clients.items()}
        for client in self.clients.values():
            if client.transport.closing:
                client.transport.closed = True
            if client.transport.closed:
                client.disconnect()
        return {n: data for n, data in heard.items() if data}


# Less than what Redis reads of a connection at a time.
_ROUND_BYTES: Final = 8 << 10


class RedisConversation(Conversation):
    """With a real redis-server."""

    def __init__(self, protocol: int, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.protocol = protocol
        self.sockets: dict[str, socket.socket] = {}
        self._fence = server.connect()

    def say(self, name: str, request: list[bytes]) -> Heard:
        """As `Conversation.say`."""
        if name not in self.sockets:
            sock = self.sockets[name] = self.server.connect()
            if self.protocol == 3:
                sock.sendall(encode_request([b"HELLO", b"3"]))
                self._wait()
                sock.recv(1 << 16)
        data = encode_request(request)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sockets[name].sendall(data)
        self._wait(len(data))
        heard = {n: _received(sock) for n, sock in self.sockets.items()}
        return {n: data for n, data in heard.items() if data}

    def _wait(self, sent_bytes: int = 0) -> None:
        """Until the server has answered all that it was sent.

        A request that is sent when the first of these is answered is read in a later round than
        what was there before, and what is sent on this machine is there at once. In a round Redis
        reads 16 KiB of a connection.
        """
        for _ in range(2 + sent_bytes // _ROUND_BYTES):
            self._fence.sendall(b"PING\r\n")
            answer = self._fence.recv(100)
            assert answer.startswith((b"+PONG", b"-")), answer

    def close(self) -> None:
        """Close all connections."""
        for sock in (*self.sockets.values(), self._fence):
            sock.close()


def _received(sock: socket.socket) -> bytes:
    data = b""
    sock.setblocking(False)
    try:
        while part := sock.recv(1 << 20):
            data += part
    except (BlockingIOError, ConnectionResetError):
        pass
    finally:
        sock.setblocking(True)
    return data


_ID: Final = re.compile(rb"(redirect\r\n:|redir-broken\r\n:|^:)(\d+)\r\n")


def say(conversation: Conversation, name: str, request: list[bytes]) -> Heard:
    """`Conversation.say`, where ``<A>`` stands for the id of connection A, asked and answered."""
    named = {word for word in request if word.startswith(b"<") and word.endswith(b">")}
    for word in named:
        if word not in conversation.ids:
            reply = conversation.say(word[1:-1].decode(), [b"CLIENT", b"ID"])
            conversation.ids[word] = reply[word[1:-1].decode()][1:-2]
    heard = conversation.say(name, [conversation.ids.get(word, word) for word in request])
    words = {number: word for word, number in conversation.ids.items()}
    return {
        n: _ID.sub(lambda m: b"%b%b\r\n" % (m[1], words.get(m[2], m[2])), data)
        for n, data in heard.items()
    }


def compare(
    case: str,
    protocol: int,
    server: RedisServer,
    engine: Engine | None = None,
    heard_by: str = "",
) -> list[tuple[Step, Heard, Heard]]:
    """The steps of a case after which ours and theirs differ: the step, ours, theirs.

    With `heard_by` only what that connection is sent counts.
    """
    ours = EngineConversation(protocol, engine)
    theirs = RedisConversation(protocol, server)
    try:
        theirs.say("Z", [b"FLUSHALL"])
        differences = []
        for name, request in steps_of(case):
            heard = say(ours, name, request)
            expected = say(theirs, name, request)
            if heard_by:
                heard, expected = ({heard_by: h.get(heard_by, b"")} for h in (heard, expected))
            if heard != expected:
                differences.append(((name, request), heard, expected))
        return differences
    finally:
        theirs.close()
