"""The router process: joins the controller, follows its maps, and serves clients.

Before it has reached the controller it answers commands about keys with ``-CLUSTERDOWN``; when the
controller goes away later, it goes on with the last map.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import trio

from pocketkv.config import RouterConfig
from pocketkv.engine import handlers
from pocketkv.engine.job_terms import follow_terms
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.engine.topology import Topology
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.observability.process import ProcessSampler
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.syscalls import MonotonicStopwatch
from pocketkv.router.counters import figures
from pocketkv.router.handler import RouterHandler
from pocketkv.router.routing import Router
from pocketkv.serving.membership import Membership
from pocketkv.serving.memory import keep_freed_memory
from pocketkv.serving.shell import Ready, Shell, listen, serve
from pocketkv.serving.terms import ControllerTerms

# Objects made and not freed after which the collector of cycles looks at those.
_COLLECTED_AFTER: Final = 50_000

__all__ = ["RouterServer", "handlers", "run_router"]


class RouterServer:
    """What makes a process a router.

    Args:
        node: Its state; the keyspace stays empty.
        log: The process's log.
        controller: Where the controller is; ``None``: whoever made this moves the topology.
        start_wait_s: How long clients wait at the start until the job `default` has slots, as all
            have when the cluster has started.
    """

    def __init__(
        self,
        node: Node,
        log: logging.Logger,
        controller: tuple[str, int] | None = None,
        start_wait_s: float = 0.0,
    ) -> None:
        self.node = node
        self.log = log
        self.sampler = ProcessSampler()
        self.router = Router(node, node.keyspace.randomness, log)
        self._controller = controller
        self._start_wait_s = start_wait_s
        self._has_slots = trio.Event()

    def handler_of(self, session: Session) -> RouterHandler:
        """The handler of a new client."""
        assert isinstance(session.transport, ClientConnection)
        return RouterHandler(self.router, session, session.transport)

    def prepare(self, shell: Shell) -> None:
        """Called when the port is known and nothing runs yet."""
        self.router.reactor = shell.reactor
        shell.metrics.sources.append(lambda: figures(self.router))
        if self._start_wait_s:
            shell.before_clients = self._wait_for_slots

    async def _wait_for_slots(self) -> None:
        with trio.move_on_after(self._start_wait_s):
            await self._has_slots.wait()

    async def run(self, shell: Shell) -> None:
        """Everything that the router does beside serving."""
        self.router.relay.open_pipe()
        try:
            async with trio.open_nursery() as nursery:
                self.router.nursery = nursery
                nursery.start_soon(self._watch_stop, shell)
                nursery.start_soon(self.router.retry_delayed)
                nursery.start_soon(self.router.watch_servers)
                nursery.start_soon(self.router.listening.run)
                if self._controller is not None:
                    nursery.start_soon(self._join, shell, self._controller)
        finally:
            self.router.relay.close()

    async def _watch_stop(self, shell: Shell) -> None:
        # While connections close one after the other, what one of them still owed must not be
        # sent over a new one.
        await shell.stop.wait()
        self.router.is_closing = True

    async def _join(self, shell: Shell, controller: tuple[str, int]) -> None:
        shell.ready = False
        membership = Membership(
            address=controller,
            secret=self.node.secret,
            identity=self._identity(shell),
            topology=self.node.topology,
            on_update=self.apply,
            report=lambda: self.report(shell),
            log=self.log,
        )
        self.router.membership = membership
        async with trio.open_nursery() as nursery:
            self.node.term_keeper = ControllerTerms(membership.call, nursery)
            nursery.start_soon(membership.run)
            await membership.wait_joined()
            shell.ready = True

    def _identity(self, shell: Shell) -> dict[str, Any]:
        assert shell.endpoint is not None  # set before background tasks start
        return {
            "id": self.node.id,
            "role": "router",
            "tier": self.node.tier,
            "host": self.node.host,
            "port": self.node.port,
            "metrics_port": shell.endpoint.metrics_port,
            "pid": os.getpid(),
            "generation": secrets.token_hex(8),
            "machine": self.sampler.machine_id(),
            "capacity_bytes": 0,
        }

    def apply(self, changed: list[str], ended: list[str]) -> None:
        """Follow the topology, which has changed for these jobs and has lost those."""
        for job_id in ended:
            self.log.info("job ended", extra={"job": job_id})
            self.router.job_ended(job_id)
        self.log.debug("map changed", extra={"jobs": len(changed)})
        self.router.topology_changed()
        follow_terms(self.node)
        if self.node.topology.ranges(DEFAULT_JOB_ID):
            self._has_slots.set()

    def report(self, shell: Shell) -> dict[str, Any]:
        """What the controller is told every second."""
        spaces = self.node.keyspace.spaces
        traffic = shell.reactor.traffic()
        return {
            "used_bytes": 0,
            "memory_bytes": 0,
            "rss_bytes": self.node.process.rss_bytes,
            "cpu": self.sampler.cpu_fraction,
            "received_bytes": sum(t.received_bytes for t in traffic.values()),
            "sent_bytes": sum(t.sent_bytes for t in traffic.values()),
            "keys": 0,
            "connections": len(shell.reactor.connections),
            "jobs": {
                job_id: {"used_bytes": 0, "keys": 0, "commands": space.stats.commands}
                for job_id, space in spaces.items()
            },
        }


@contextlib.contextmanager
def _collector_spared() -> Iterator[None]:
    """Have the collector of cycles run seldom: it would look at every request under way.

    Those are in no cycles; what is (an exception and its frames) is rare.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def make_node(config: RouterConfig) -> Node:
    """The state of a router."""
    keyspace = Keyspace(0, Clock(time.time_ns() // 1_000_000), random.Random())
    node = Node(
        node_id=config.router_id or secrets.token_hex(20),
        role="router",
        tier="",
        keyspace=keyspace,
        topology=Topology(),
        timer_ns=time.perf_counter_ns,
        secret=config.secret,
        require_auth=config.require_auth,
        admin_password=(config.admin_password or "").encode("utf-8", "surrogateescape"),
        host=config.advertise_host or config.host,
    )
    node.stopwatch = MonotonicStopwatch()
    return node


async def run_router(
    config: RouterConfig,
    log: logging.Logger,
    on_ready: Callable[[Ready], None] = lambda ready: None,
) -> None:
    """Run a router until it is told to stop.

    Raises:
        StartError: It cannot start.
    """
    keep_freed_memory()
    listener = listen(config.host, config.port, reuse_port=config.reuse_port)
    server = RouterServer(make_node(config), log, config.controller, config.start_wait_s)
    with _collector_spared():
        await serve(
            server.node,
            listener,
            handler_of=server.handler_of,
            log=log,
            sampler=server.sampler,
            metrics_port=config.metrics_port,
            background=[server.run],
            on_ready=on_ready,
            configure=server.prepare,
        )
