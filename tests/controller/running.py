"""A controller that serves on a socket, and members that a test plays."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import trio

from pocketkv.config import ControllerConfig
from pocketkv.controller.core import Core
from pocketkv.controller.service import Controller, make_core, make_node
from pocketkv.controller.store import Store
from pocketkv.observability.process import ProcessSampler
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import Peer, open_peer
from pocketkv.serving.membership import UPDATE_PUSH
from pocketkv.serving.shell import Ready, Shell, listen, serve
from pocketkv.tokens import member_proof
from tests.controller.builders import CATALOG, GIB, UNHINTED_SERVERS

SECRET = bytes(range(32))
LOG = logging.getLogger("pocketkv.tests")


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test under trio."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            await test(**fixtures)

        trio.run(main)

    return run


def plain(reply: Any) -> Any:
    """A reply with texts instead of bytes."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    if isinstance(reply, dict):
        return {plain(key): plain(value) for key, value in reply.items()}
    return reply


class Running:
    """A controller, and connections to it that end with the test."""

    def __init__(self, nursery: trio.Nursery, port: int, core: Core, shell: Shell) -> None:
        self.nursery = nursery
        self.port = port
        self.core = core
        self.shell = shell
        self._peers: list[Peer] = []

    async def connect(self, protocol: int = 3) -> Peer:
        peer = await open_peer(self.nursery, "127.0.0.1", self.port)
        self._peers.append(peer)
        if protocol == 3:
            await peer.call("HELLO", 3)
        return peer

    async def join(self, member_id: str, role: str = "storage", **fields: Any) -> Member:
        peer = await self.connect()
        member = Member(peer, member_id)
        member.take(await peer.call("MEMBER.JOIN", *await member.credentials(role, fields)))
        return member

    async def joined(self, member_id: str, role: str = "storage", **fields: Any) -> Member:
        """A member that acknowledges everything at once."""
        member = await self.join(member_id, role, **fields)
        await member.acknowledge()
        self.nursery.start_soon(member.follow)
        return member

    async def close(self) -> None:
        for peer in self._peers:
            await peer.aclose()


class Member:
    """A member of the cluster, whose part the test plays."""

    def __init__(self, peer: Peer, member_id: str) -> None:
        self.peer = peer
        self.id = member_id
        self.updates: list[dict[str, Any]] = []

    async def credentials(
        self, role: str, fields: dict[str, Any], secret: bytes = SECRET
    ) -> tuple[str, str]:
        nonce = await self.peer.call("MEMBER.CHALLENGE")
        identity = {
            "id": self.id,
            "role": role,
            "tier": "dram" if role == "storage" else "",
            "host": "127.0.0.1",
            "port": 7000,
            "metrics_port": None,
            "pid": None,
            "machine": "here",
            "capacity_bytes": GIB,
            "epoch": 0,
            **fields,
        }
        return json.dumps(identity), member_proof(secret, self.id, nonce)

    def take(self, text: bytes) -> dict[str, Any]:
        update: dict[str, Any] = json.loads(text)
        self.updates.append(update)
        return update

    async def next_update(self) -> dict[str, Any]:
        name, text = await self.peer.pushes.receive()
        assert name == UPDATE_PUSH
        return self.take(text)

    async def acknowledge(self) -> None:
        await self.peer.call("MEMBER.ACK", self.updates[-1]["epoch"])

    async def follow(self) -> None:
        # The answer to an acknowledgement may come after that to a command which was passed on and
        # waits for the next acknowledgement; so it is not waited for.
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    await self.next_update()
                    nursery.start_soon(self._try_to_acknowledge)
            except trio.EndOfChannel:
                pass  # The connection is over.

    async def _try_to_acknowledge(self) -> None:
        try:
            await self.acknowledge()
        except PeerError:
            pass  # The connection is over.

    async def report(self, **jobs: dict[str, int]) -> None:
        await self.peer.call("MEMBER.REPORT", json.dumps({"jobs": jobs}))


@asynccontextmanager
async def running(
    state: Path | None = None, admin_password: str | None = None, timeout_s: float = 20
) -> AsyncIterator[Running]:
    """A controller without a backend."""
    config = ControllerConfig(
        host="127.0.0.1",
        port=0,
        metrics_port=None,
        log_level="info",
        log_format="text",
        state=state,
        catalog=None,
        unhinted_servers=UNHINTED_SERVERS,
        secret=SECRET,
        admin_password=admin_password,
    )
    store = Store(state)
    node = make_node(config)
    core = make_core(config, LOG, store, CATALOG, None, node.topology)
    ready: list[Ready] = []
    shells: list[Shell] = []
    is_ready = trio.Event()

    def on_ready(where: Ready) -> None:
        ready.append(where)
        is_ready.set()

    controller = Controller(node, core, None, on_ready)

    def configure(shell: Shell) -> None:
        shells.append(shell)
        controller.prepare(shell)

    async def run() -> None:
        await serve(
            node,
            listen("127.0.0.1", 0),
            handler_of=controller.handler_of,
            log=LOG,
            sampler=ProcessSampler(),
            metrics_port=None,
            background=[controller.run],
            configure=configure,
        )

    try:
        with trio.fail_after(timeout_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await is_ready.wait()
                found = Running(nursery, ready[0].port, core, shells[0])
                yield found
                core.state.validate()
                await found.close()
                found.shell.stop.set()
    finally:
        store.close()
