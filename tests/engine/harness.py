"""A server without sockets: sessions over a fake transport, a clock to set, seeded randomness.

    engine = Engine()
    client = engine.connect()
    assert client("SET", "key", "value") == "OK"
    engine.advance(1000)
    assert client.raw("GET", "key") == b"$5\\r\\nvalue\\r\\n"

Requests go the way of a real connection: encoded, parsed, through the gate to the handler, and the
reply through the encoder; `tests.replies` says what replies become.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any

from pocketkv import limits
from pocketkv.engine import gate, handlers
from pocketkv.engine.cold import Store
from pocketkv.engine.database import Database
from pocketkv.engine.extents import Extents
from pocketkv.engine.keyspace import DEFAULT_JOB, Clock, JobSpace, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.engine.sinks import ExtentSinks
from pocketkv.engine.topology import Topology, standalone_topology
from pocketkv.engine.validation import validate_space
from pocketkv.placement import PlacementMap, Server, SlotRange
from pocketkv.resp.encoder import Outbox, encode_request
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.parser import NEED_DATA, RequestParser
from pocketkv.resp.replies import Deferred, Marker, Reply
from pocketkv.slots import SLOT_COUNT
from tests.engine.stores import fetch_at_once
from tests.replies import decode

__all__ = ["BLOCKED", "START_MS", "Client", "Engine", "FakeTransport", "handlers", "to_bytes"]

START_MS = 1_700_000_000_000
# What `Client` answers while the reply is not known.
BLOCKED = Marker("BLOCKED")

NODE_ID = "a" * 40
OTHER_ID = "b" * 40
OTHER_ADDRESS = "127.0.0.1:7001"


def to_bytes(argument: object) -> bytes:
    """An argument as a client would send it."""
    if isinstance(argument, bytes | bytearray):
        return bytes(argument)
    return str(argument).encode()


def make_server(server_id: str, port: int) -> Server:
    """The record of a storage server on this machine."""
    return Server(
        id=server_id,
        tier="dram",
        host="127.0.0.1",
        port=port,
        machine="here",
        capacity_bytes=limits.GIB,
        bandwidth_bytes_s=0,
    )


class FakeTransport:
    """What a session sees of its connection; it keeps what would be sent."""

    def __init__(self) -> None:
        self.fd = 8
        self.outbox = Outbox()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.input_bytes = 0
        self.closed = False
        self.closing = False
        self.restricted = False
        self.bulk_bytes_max = limits.BULK_BYTES_MAX
        self.handler: RequestHandler | None = None
        self.unread_bytes_max = limits.PUSH_BACKLOG_MAX_BYTES

    def push(self, reply: Reply) -> None:
        self.outbox.encode(reply)

    def hand_over(self, handler: RequestHandler) -> None:
        self.handler = handler

    def restrict_input(self) -> None:
        self.restricted = True

    def unrestrict_input(self, bulk_bytes_max: int, request_bytes_max: int) -> None:
        self.restricted = False
        self.bulk_bytes_max = bulk_bytes_max

    def is_left(self) -> bool:
        return self.closed

    def limit_pushes(self, unread_bytes_max: int) -> None:
        self.unread_bytes_max = unread_bytes_max

    def close_when_sent(self) -> None:
        self.closing = True

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        """Everything that waits to be sent; it counts as sent."""
        data = bytearray()
        while self.outbox.pending_bytes:
            part = self.outbox.file_part()
            if part is not None:
                data += part.read()
                self.outbox.sent(part.size)
                continue
            pieces = self.outbox.pieces()
            for piece in pieces:
                data += piece
            self.outbox.sent(sum(map(len, pieces)))
            for piece in pieces:
                piece.release()
        self.sent_bytes += len(data)
        return bytes(data)


class Client:
    """One connection: called with a request, it returns the decoded reply."""

    def __init__(self, engine: Engine, session: Session, transport: FakeTransport) -> None:
        self.engine = engine
        self.session = session
        self.transport = transport
        self.parser = RequestParser()
        self.parser.sinks = ExtentSinks(session)
        self.deferred: Deferred | None = None

    @property
    def db(self) -> Database:
        """The database that is selected."""
        return self.session.db

    def __call__(self, *arguments: object) -> Any:
        raw = self.raw(*arguments)
        if self.deferred is not None and not self.deferred.done:
            return BLOCKED
        # Nothing at all was sent: CLIENT REPLY OFF.
        return decode(raw) if raw else None

    def raw(self, *arguments: object) -> bytes:
        """What is sent in reply to one request, as bytes."""
        return self.send(encode_request([to_bytes(a) for a in arguments]))

    def send(self, data: bytes) -> bytes:
        """What is sent in reply to bytes, which may hold many requests."""
        self.receive(data)
        return self.transport.take()

    def receive(self, data: bytes) -> None:
        """Take bytes in pieces, as a connection does; what is sent stays in the outbox."""
        self.transport.received_bytes += len(data)
        rest = memoryview(data)
        while rest:
            place = self.parser.writable()
            if place is None:
                count = min(len(rest), limits.RECEIVE_BYTES)
                self.parser.feed(bytes(rest[:count]))
            else:
                count = min(len(rest), len(place))
                with place:
                    place[:count] = rest[:count]
                self.parser.wrote(count)
            rest = rest[count:]
            while isinstance(request := self.parser.next_request(), list):
                self.execute(request)
            assert request is NEED_DATA

    def execute(self, request: list[bytes]) -> None:
        """Serve one request; what is sent stays in the outbox."""
        assert self.deferred is None or self.deferred.done, "the client waits for a reply"
        reply = gate.run(self.session, request)
        error = self.engine.node.commit()
        if error is not None and not isinstance(reply, Deferred):
            reply = error
        if isinstance(reply, Deferred):
            self.deferred = reply
            reply.listen(self._answer)
        else:
            self.transport.outbox.encode(reply)

    def _answer(self) -> None:
        assert self.deferred is not None
        reply = self.deferred.reply
        assert not isinstance(reply, Deferred)
        self.transport.outbox.encode(reply)

    def result(self) -> Any:
        """The decoded reply that came after `BLOCKED`; `BLOCKED` if it did not come yet."""
        assert self.deferred is not None
        return decode(self.transport.take()) if self.deferred.done else BLOCKED

    def pushed(self) -> Any:
        """The one decoded message that was sent unasked."""
        return decode(self.transport.take())

    def disconnect(self) -> None:
        """The connection is gone."""
        self.parser.abort()
        self.transport.outbox.clear()
        if self.deferred is not None:
            self.deferred.abandon()
        self.engine.node.close_session(self.session)


class Engine:
    """A node with its keyspace; it owns all slots of the job `default`."""

    def __init__(
        self,
        *,
        seed: int = 0,
        memory_bytes: int = limits.GIB,
        now_ms: int = START_MS,
        secret: bytes = b"",
        require_auth: bool = False,
        role: str = "storage",
        extents: Extents | None = None,
        store: Store | None = None,
    ) -> None:
        self.clock = Clock(now_ms)
        self.keyspace = Keyspace(memory_bytes, self.clock, random.Random(seed), extents, store)
        self.server = make_server(NODE_ID, 7000)
        self.topology: Topology = standalone_topology(self.server, DEFAULT_JOB)
        self.timer_now_ns = 0
        self.node = Node(
            node_id=NODE_ID,
            role=role,
            tier="dram",
            keyspace=self.keyspace,
            topology=self.topology,
            timer_ns=self._timer_ns,
            secret=secret,
            require_auth=require_auth,
            port=7000,
        )
        self.node.fetcher = fetch_at_once
        self.node.entropy = os.urandom
        self.space.own_everything()

    def _timer_ns(self) -> int:
        # Every command takes a microsecond.
        self.timer_now_ns += 1000
        return self.timer_now_ns

    @property
    def space(self) -> JobSpace:
        """The keys of the job `default`."""
        return self.keyspace.open(DEFAULT_JOB)

    def connect(
        self, *, protocol: int = 2, job_id: str = DEFAULT_JOB, proxied: bool = False
    ) -> Client:
        """A new connection, in a job."""
        transport = FakeTransport()
        session = self.node.open_session(transport, "127.0.0.1:50000", "127.0.0.1:7000")
        session.protocol = protocol
        session.proxied = proxied
        if job_id != DEFAULT_JOB:
            session.enter_job(job_id)
            session.space.own_everything()
        return Client(self, session, transport)

    def advance(self, milliseconds: int) -> None:
        """Let time pass; what is due is done."""
        self.clock.set(self.clock.now_ms + milliseconds)
        self.node.timers.run_due()
        self.node.settle_waiters()

    def own_only(self, ranges: Iterable[tuple[int, int]], job_id: str = DEFAULT_JOB) -> None:
        """Leave this server these slot ranges, both ends included; another one gets the rest."""
        owned = bytearray(SLOT_COUNT)
        for first, last in ranges:
            owned[first : last + 1] = b"\x01" * (last + 1 - first)
        parts: list[SlotRange] = []
        for slot in range(SLOT_COUNT):
            owner = NODE_ID if owned[slot] else OTHER_ID
            if parts and parts[-1].server_id == owner:
                parts[-1] = SlotRange(parts[-1].start, slot, owner)
            else:
                parts.append(SlotRange(slot, slot, owner))
        epoch = self.topology.epoch + 1
        servers = [self.server, make_server(OTHER_ID, 7001)]
        self.topology.set_servers(servers, epoch)
        self.topology.set_placement(
            PlacementMap(
                job_id=job_id,
                epoch=epoch,
                ranges=tuple(parts),
                quotas={NODE_ID: None, OTHER_ID: None},
                weights={NODE_ID: 1.0, OTHER_ID: 1.0},
            )
        )
        self.keyspace.open(job_id).own(owned)

    def validate(self) -> None:
        """Check what must always hold."""
        for space in self.keyspace.spaces.values():
            validate_space(space)
        spaces = self.keyspace.spaces.values()
        assert self.keyspace.used_bytes == sum(space.used_bytes for space in spaces)
        assert self.keyspace.incoming_bytes == sum(space.incoming_bytes for space in spaces)
        if self.keyspace.extents is not None:
            self.keyspace.extents.validate()
