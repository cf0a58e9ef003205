"""A cluster in one trio loop: storage servers and a router over real sockets, maps set by hand.

    async with run_cluster(3) as cluster:
        client = await cluster.connect()
        assert await client.call("SET", "key", "value") == "OK"
        cluster.place({0: 1.0, 2: 1.0})

Maps change at once, with the keys, as if a live move were over. `tell_router` and `tell_storage`
leave one side with an older map.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from pocketkv import limits
from pocketkv.engine import handlers
from pocketkv.engine.changes import tell_left
from pocketkv.engine.gate import GateHandler
from pocketkv.engine.keyspace import DEFAULT_JOB, Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.engine.topology import Topology
from pocketkv.engine.validation import validate_space
from pocketkv.observability.process import ProcessSampler
from pocketkv.placement import PlacementMap, Server, assign_slots
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.handler import RequestHandler
from pocketkv.router.routing import Router
from pocketkv.router.service import RouterServer
from pocketkv.serving.shell import Shell, listen
from pocketkv.slots import SLOT_COUNT
from pocketkv.tokens import job_token
from tests.replies import decode, reply_end

__all__ = [
    "SECRET",
    "Client",
    "Cluster",
    "Storage",
    "answered",
    "eventually",
    "handlers",
    "run_cluster",
    "to_bytes",
]

SECRET = bytes(range(32))
LOG = logging.getLogger("pocketkv.test")
TIMEOUT_S = 20.0


def to_bytes(argument: object) -> bytes:
    """An argument as a client would send it."""
    return argument if isinstance(argument, bytes) else str(argument).encode()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, which is looked at again and again."""
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - what happens in servers tells nobody
            await trio.sleep(0.005)


async def answered(client: Client, expected: object, *request: object) -> None:
    """Ask until the answer is this one: what a map has changed is noticed a moment later."""
    with trio.fail_after(TIMEOUT_S):
        while await client.call(*request) != expected:  # noqa: ASYNC110 - as above
            await trio.sleep(0.005)


class Client:
    """A plain connection: it sends requests and decodes replies, nothing else."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""
        self._position = 0

    @property
    def unread(self) -> bytes:
        """What was received of a reply that is not whole."""
        return self._received[self._position :]

    async def send(self, *arguments: object) -> None:
        await self.stream.send_all(encode_request([to_bytes(a) for a in arguments]))

    async def receive_raw(self) -> bytes:
        """One reply as bytes; empty at the end of the connection."""
        with trio.fail_after(TIMEOUT_S):
            while (end := reply_end(self._received, self._position)) < 0:
                data = await self._receive_some()
                if not data:
                    return b""
                self._received = self._received[self._position :] + bytes(data)
                self._position = 0
        raw = self._received[self._position : end]
        self._position = end
        return raw

    async def _receive_some(self) -> bytes | bytearray:
        try:
            return await self.stream.receive_some(1 << 20)
        except trio.BrokenResourceError:
            return b""

    async def receive(self) -> Any:
        raw = await self.receive_raw()
        assert raw, "the connection ended"
        return decode(raw)

    async def call(self, *arguments: object) -> Any:
        await self.send(*arguments)
        return await self.receive()

    async def call_all(self, requests: Sequence[Sequence[object]]) -> list[Any]:
        """A pipeline: all requests at once, then all replies."""
        data = b"".join(encode_request([to_bytes(a) for a in r]) for r in requests)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream.send_all, data)
            return [await self.receive() for _ in requests]

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


class Storage:
    """One storage server of the cluster."""

    def __init__(self, server_id: str, secret: bytes) -> None:
        self.topology = Topology()
        clock = Clock(time.time_ns() // 1_000_000)
        self.node = Node(
            node_id=server_id,
            role="storage",
            tier="dram",
            keyspace=Keyspace(limits.GIB, clock, random.Random(1)),
            topology=self.topology,
            timer_ns=time.perf_counter_ns,
            secret=secret,
            clustered=True,
        )
        self.listener = listen("127.0.0.1", 0)
        # What the router is told; a test may have it told something else.
        self.host = "127.0.0.1"
        self.port: int = self.listener.getsockname()[1]
        self.shell = Shell(self.node, LOG, ProcessSampler())

    @property
    def server(self) -> Server:
        return Server(
            id=self.node.id,
            tier="dram",
            host=self.host,
            port=self.port,
            machine="here",
            capacity_bytes=limits.GIB,
            bandwidth_bytes_s=0,
        )


class Cluster:
    """Storage servers and a router that were started by `run_cluster`."""

    def __init__(self, storages: list[Storage], server: RouterServer, shell: Shell) -> None:
        self.storages = storages
        self.server = server
        self.shell = shell
        self.port = 0
        self.epoch = 0
        self._clients: list[Client] = []

    @property
    def router(self) -> Router:
        return self.server.router

    # --- maps ----------------------------------------------------------------------------------

    def place(self, weights: dict[int, float], job_id: str = DEFAULT_JOB) -> PlacementMap:
        """Spread a job over servers, its keys with it, and tell everybody."""
        placement = self.plan(weights, job_id)
        self.tell_storage(placement)
        self.tell_router(placement)
        return placement

    def plan(self, weights: dict[int, float], job_id: str = DEFAULT_JOB) -> PlacementMap:
        """A map that nobody is told yet."""
        self.epoch += 1
        by_id = {self.storages[index].node.id: weight for index, weight in weights.items()}
        known = self.storages[0].topology.placements.get(job_id)
        ranges = assign_slots(by_id, known)
        owners = {r.server_id for r in ranges}
        return PlacementMap(
            job_id=job_id,
            epoch=self.epoch,
            ranges=ranges,
            quotas=dict.fromkeys(owners),
            weights=by_id,
        )

    def tell_storage(self, placement: PlacementMap) -> None:
        servers = [storage.server for storage in self.storages]
        owners = _owners(placement)
        self._move_keys(placement.job_id, owners)
        for storage in self.storages:
            storage.topology.set_servers(servers, placement.epoch)
            storage.topology.set_placement(placement)
            space = storage.node.keyspace.open(placement.job_id)
            before = space.given
            space.own(bytes(owner == storage.node.id for owner in owners))
            space.epoch = placement.epoch
            tell_left(space, before)

    def tell_router(self, placement: PlacementMap) -> None:
        topology = self.router.node.topology
        topology.set_servers([storage.server for storage in self.storages], placement.epoch)
        topology.set_placement(placement)
        self.router.topology_changed()

    def _move_keys(self, job_id: str, owners: list[str]) -> None:
        spaces = {s.node.id: s.node.keyspace.open(job_id) for s in self.storages}
        for server_id, space in spaces.items():
            for index, database in list(space.databases.items()):
                for slot in [s for s, _ in database.slot_tables() if owners[s] != server_id]:
                    target = spaces[owners[slot]].database(index)
                    for key in list(database.table(slot)):
                        due_ms = database.expiry_ms(key)
                        value = database.take(key)
                        assert value is not None
                        target.put(key, value)
                        if due_ms is not None:
                            target.set_expiry(key, due_ms)

    # --- clients -------------------------------------------------------------------------------

    async def connect(self, port: int | None = None) -> Client:
        """A client of the router, or of whoever has another port."""
        stream = await trio.open_tcp_stream("127.0.0.1", port or self.port)
        client = Client(stream)
        self._clients.append(client)
        return client

    async def login(self, job_id: str, protocol: int = 2) -> Client:
        """A client of the router in a job."""
        client = await self.connect()
        token = job_token(self.router.node.secret, job_id)
        if protocol == 3:
            reply = await client.call("HELLO", 3, "AUTH", job_id, token)
            assert reply[b"proto"] == 3
        else:
            assert await client.call("AUTH", job_id, token) == "OK"
        return client

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()

    def used_keys(self, job_id: str = DEFAULT_JOB) -> list[int]:
        """How many keys of a job each server has."""
        return [
            sum(db.size for db in s.node.keyspace.open(job_id).databases.values())
            for s in self.storages
        ]


def _owners(placement: PlacementMap) -> list[str]:
    owners = [""] * SLOT_COUNT
    for r in placement.ranges:
        owners[r.start : r.end + 1] = [r.server_id] * len(r)
    return owners


async def _serve(
    nursery: trio.Nursery,
    shell: Shell,
    listener: socket.socket,
    handler_of: Callable[[Session], RequestHandler],
) -> None:
    shell.reactor.listen(listener, lambda _, sock: shell.accept(sock, handler_of))
    await nursery.start(shell.reactor.run)
    nursery.start_soon(shell.run_timers)


@contextlib.asynccontextmanager
async def run_cluster(
    servers: int = 3,
    *,
    secret: bytes = SECRET,
    require_auth: bool = False,
    is_placed: bool = True,
) -> AsyncIterator[Cluster]:
    """Start servers and a router; the job `default` is spread evenly, unless it is not placed."""
    storages = [Storage(f"{index:x}" * 40, secret) for index in range(servers)]
    node = Node(
        node_id="f" * 40,
        role="router",
        tier="",
        keyspace=Keyspace(0, Clock(time.time_ns() // 1_000_000), random.Random(2)),
        topology=Topology(),
        timer_ns=time.perf_counter_ns,
        secret=secret,
        require_auth=require_auth,
    )
    listener = listen("127.0.0.1", 0)
    server = RouterServer(node, LOG)
    shell = Shell(node, LOG, server.sampler)
    cluster = Cluster(storages, server, shell)
    cluster.port = listener.getsockname()[1]
    server.prepare(shell)
    try:
        async with trio.open_nursery() as nursery:
            for storage in storages:
                storage.node.require_auth = require_auth
                await _serve(nursery, storage.shell, storage.listener, GateHandler)
            await _serve(nursery, shell, listener, server.handler_of)
            nursery.start_soon(server.run, shell)
            if is_placed:
                cluster.place(dict.fromkeys(range(servers), 1.0))
            yield cluster
            server.router.is_closing = True
            nursery.cancel_scope.cancel()
    finally:
        await cluster.aclose()
    for storage in storages:
        for space in storage.node.keyspace.spaces.values():
            validate_space(space)
