"""The controller process: remembers, joins members, keeps servers running, answers job commands.

It serves RESP with the serving core that all servers share. Started by `pocketkv serve`, it runs
the storage servers of the supervisor's plan; started by itself, it waits for servers that others
start. It is never on the path of data: while it is away, everything goes on as it was.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Mapping

import trio

from pocketkv.catalog import Catalog, CatalogError, load_catalog
from pocketkv.config import ControllerConfig
from pocketkv.controller.administration import Administration
from pocketkv.controller.backends.base import Backend
from pocketkv.controller.backends.local import LocalBackend, LocalPlan
from pocketkv.controller.children import LISTENER_VARIABLE
from pocketkv.controller.core import Clock as SteadyClock
from pocketkv.controller.core import Core
from pocketkv.controller.errors import SnapshotError
from pocketkv.controller.figures import figures
from pocketkv.controller.messages import Snapshot
from pocketkv.controller.requests import ControllerHandler
from pocketkv.controller.state import ClusterState
from pocketkv.controller.store import Memory, Store, StoreError
from pocketkv.engine import handlers
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.engine.topology import Topology
from pocketkv.observability.process import ProcessSampler
from pocketkv.scaling_rules import check_scaling
from pocketkv.serving.shell import Ready, Shell, StartError, listen, serve

__all__ = ["Controller", "handlers", "run_controller"]


class Controller:
    """What makes a process the controller.

    Args:
        node: Its state as the engine's commands see it.
        core: What it decides with.
        plan: The supervisor's, which is told when the whole cluster is there.
        on_ready: Called when clients can connect; with a plan, to the whole cluster.
    """

    def __init__(
        self,
        node: Node,
        core: Core,
        plan: LocalPlan | None = None,
        on_ready: Callable[[Ready], None] = lambda ready: None,
    ) -> None:
        self.node = node
        self.core = core
        self._plan = plan
        self._on_ready = on_ready
        self._administration = Administration(
            core, node.secret, is_closed=bool(node.admin_password)
        )

    def handler_of(self, session: Session) -> ControllerHandler:
        """The handler of a new connection."""
        return ControllerHandler(session, self.core, self._administration)

    def prepare(self, shell: Shell) -> None:
        """Called when the port is known and nothing runs yet."""
        shell.metrics.sources.append(lambda: figures(self.core))

    async def run(self, shell: Shell) -> None:
        """Everything that the controller does beside serving."""
        assert shell.endpoint is not None  # set before background tasks start
        async with trio.open_nursery() as nursery:
            await nursery.start(self.core.run, (shell.endpoint.host, shell.endpoint.port))
            if self._plan is not None:
                await self.core.wait_until(self._is_complete)
            self._on_ready(shell.endpoint)

    def _is_complete(self) -> bool:
        """Whether all members of the plan are there, and know everything."""
        state = self.core.state
        return (
            state.is_started
            and state.fleet.is_complete
            and self._plan is not None
            and len(state.routers) >= self._plan.routers
            and not self.core.behind(state.epoch)
        )


def make_node(config: ControllerConfig) -> Node:
    """The controller as the engine's commands see it; its keyspace stays empty."""
    keyspace = Keyspace(0, Clock(time.time_ns() // 1_000_000), random.Random())
    return Node(
        node_id=secrets.token_hex(20),
        role="controller",
        tier="",
        keyspace=keyspace,
        topology=Topology(),
        timer_ns=time.perf_counter_ns,
        secret=config.secret,
        admin_password=(config.admin_password or "").encode("utf-8", "surrogateescape"),
        host=config.host,
    )


def make_core(
    config: ControllerConfig,
    log: logging.Logger,
    store: Memory,
    catalog: Catalog,
    backend: Backend | None,
    topology: Topology,
    snapshot: Snapshot | None = None,
) -> Core:
    """The core, with what the store remembers, or has just told as a `snapshot`.

    Raises:
        StartError: What it remembers is not understood, or it cannot scale anything.
        ConfigError: It cannot be scaled as it is told.
    """
    if config.scaling is not None and backend is None:
        raise StartError("--autoscale: this controller starts no servers itself")
    clock = SteadyClock()
    try:
        check_scaling(config.scaling, catalog, {} if backend is None else backend.plan)
        state = ClusterState(
            catalog,
            # Without a backend, no server is requested.
            str if backend is None else backend.new_server_id,
            now_ms=clock.now_ms(),
            plan=None if backend is None else backend.plan,
            plan_id="" if backend is None else backend.plan_id,
            rules=config.scaling,
            may_leave=(lambda tier, servers: servers) if backend is None else backend.may_leave,
            traits=None if backend is None else backend.traits,
            snapshot=store.read() if snapshot is None else snapshot,
            unhinted_servers=config.unhinted_servers,
        )
    except StoreError as error:
        raise StartError(str(error)) from error
    except SnapshotError as error:
        where = "the state" if config.state is None else f"--state {config.state}"
        raise StartError(f"{where}: {error}") from error
    return Core(
        state=state,
        store=store,
        backend=backend,
        topology=topology,
        now_ms=clock.now_ms,
        log=log,
    )


async def run_controller(
    config: ControllerConfig,
    log: logging.Logger,
    on_ready: Callable[[Ready], None] = lambda ready: None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Run a controller until it is told to stop.

    Raises:
        StartError: It cannot start, or cannot write its memory any more.
    """
    if config.release is not None:
        # Only here, since nobody else may pay for what it imports.
        from pocketkv.controller.replicas import run_replica  # noqa: PLC0415 - see above

        await run_replica(config, log, on_ready, environ)
        return
    plan = LocalPlan.from_environment(environ)
    try:
        catalog = load_catalog(None if config.catalog is None else str(config.catalog))
        store = Store(config.state)
    except (CatalogError, StoreError) as error:
        raise StartError(str(error)) from error
    try:
        node = make_node(config)
        backend = None if plan is None else LocalBackend(plan, config.secret, log, environ)
        core = make_core(config, log, store, catalog, backend, node.topology)
        controller = Controller(node, core, plan, on_ready)
        await serve(
            node,
            inherited_listener(environ) or listen(config.host, config.port),
            handler_of=controller.handler_of,
            log=log,
            sampler=ProcessSampler(),
            metrics_port=config.metrics_port,
            background=[controller.run],
            configure=controller.prepare,
        )
    finally:
        store.close()


def inherited_listener(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that the supervisor holds; None if there is none.

    Raises:
        StartError: The descriptor is not one of a socket.
    """
    text = environ.get(LISTENER_VARIABLE)
    if not text:
        return None
    try:
        return socket.socket(fileno=int(text))
    except (OSError, ValueError) as error:
        raise StartError(f"{LISTENER_VARIABLE}: {text!r} is no socket") from error
