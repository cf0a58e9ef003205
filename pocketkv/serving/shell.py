"""The life of one server process: sockets, clock, background work, health, and an orderly end.

Storage servers, routers and the controller differ in what they do with a request and in their
background tasks; everything around that is here, once.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import trio

from pocketkv import limits
from pocketkv.engine.info import running_core
from pocketkv.engine.node import Node
from pocketkv.engine.session import Session
from pocketkv.engine.sinks import ExtentSinks
from pocketkv.engine.trimming import Trimmer
from pocketkv.observability import http
from pocketkv.observability.metrics import NodeMetrics
from pocketkv.observability.process import ProcessSampler
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.connection import Connection
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.reactor import Reactor
from pocketkv.resp.sinks import SinkFactory
from pocketkv.serving.compacting import Compacting
from pocketkv.serving.memory import release_free_memory

# Set for a process whose parent must not die without it: a pipe that ends with the parent.
LIFELINE_VARIABLE = "POCKETKV_LIFELINE_FD"
_EXPIRE_INTERVAL_S = 0.1
_FREE_ENTRIES_PER_SLICE = 2000
# Of Redis's levels, from LOG_DEBUG to LOG_WARNING.
_SCRIPT_LEVELS = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)
_SCRIPT_TEXT_BYTES = 1024
_FREE_INTERVAL_S = 0.02
_TRIM_INTERVAL_S = 0.1
_BUFFERS_INTERVAL_S = 0.5
# Connections that still have replies to send get so long when the server stops.
_STOP_GRACE_S = 1.0


class StartError(Exception):
    """The server cannot start; one line for the operator. The exit status is 2."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a server that is ready can be reached."""

    role: str
    id: str
    host: str
    port: int
    metrics_port: int | None
    pid: int

    def as_json(self) -> dict[str, Any]:
        """The fields, for the line that `--announce` prints."""
        return {"event": "ready", **asdict(self)}


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one.

    Raises:
        StartError: The address is wrong, in use, or not this machine's.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(limits.LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


class Shell:
    """A running server, as its background tasks see it.

    Attributes:
        node: What the commands see.
        reactor: What serves the connections.
        sinks_of: Tells where large arguments of a session's requests go; a plane may set it.
        ready: Whether it can do its work (``/readyz``); a plane may lower it.
        stop: Set to end the process in an orderly way.
        before_clients: What is waited for at the start before those who have connected are
            served; a plane may set it.
        leave: What is to be done before that when a signal asks for it; a plane may set it.
    """

    def __init__(self, node: Node, log: logging.Logger, sampler: ProcessSampler) -> None:
        self.node = node
        self.log = log
        self.sampler = sampler
        self.reactor = Reactor(log, self._on_round, self._on_burst_end)
        self.metrics = NodeMetrics(node, self.reactor, sampler)
        extents = node.keyspace.extents
        self.trimmer = None if extents is None else Trimmer(node.keyspace, extents)
        # When `run_timers` wakes by itself, and what wakes it because a timer is due before that.
        self._timers_armed_ms: float = math.inf
        self._timers_changed = trio.Event()
        self.sinks_of: Callable[[Session], SinkFactory | None] = self._sinks_of
        self.endpoint: Ready | None = None
        self.ready = False
        self.stop = trio.Event()
        self.before_clients: Callable[[], Awaitable[None]] | None = None
        self.leave: Callable[[], Awaitable[None]] | None = None
        node.script_log = self._log_script

    def _log_script(self, job_id: str, level: int, text: bytes) -> None:
        """Log what a script says by `redis.log`."""
        self.log.log(
            _SCRIPT_LEVELS[level],
            "a script says",
            extra={"job": job_id, "text": text[:_SCRIPT_TEXT_BYTES].decode("utf-8", "replace")},
        )

    def _on_round(self) -> None:
        self.node.clock.set(time.time_ns() // 1_000_000)

    def _on_burst_end(self) -> None:
        if self.node.ready_waiters:
            self.node.settle_waiters()
        due_ms = self.node.timers.next_ms()
        if due_ms is not None and due_ms < self._timers_armed_ms:
            self._timers_changed.set()

    def accept(
        self, sock: socket.socket, handler_of: Callable[[Session], RequestHandler]
    ) -> Connection | None:
        """Make the connection and the session of an accepted socket."""
        try:
            peer, local = sock.getpeername(), sock.getsockname()
        except OSError:
            sock.close()
            return None
        connection = ClientConnection(self.reactor, sock)
        session = self.node.open_session(connection, _address(peer), _address(local))
        connection.handler = handler_of(session)
        connection.parser.sinks = self.sinks_of(session)
        return connection

    def _sinks_of(self, session: Session) -> SinkFactory | None:
        return None if self.node.keyspace.extents is None else ExtentSinks(session)

    # --- background ----------------------------------------------------------------------------

    async def expire(self) -> None:
        """Remove expired keys, a slice at a time."""
        while True:
            self._on_round()
            more = self.node.keyspace.expire_some()
            if self.node.ready_waiters:
                # Of what changed without a command: by this, or anything else in the background.
                self.node.settle_waiters()
            # Somebody may be told of what has expired.
            self._on_burst_end()
            await trio.sleep(0 if more else _EXPIRE_INTERVAL_S)

    async def run_timers(self) -> None:
        """Do what commands left to be done later, when its time comes."""
        timers = self.node.timers
        while True:
            self._on_round()
            timers.run_due()
            due_ms = timers.next_ms()
            self._timers_armed_ms = math.inf if due_ms is None else due_ms
            wait_s = math.inf if due_ms is None else (due_ms - self.node.clock.now_ms) / 1000
            with trio.move_on_after(max(0.0, wait_s)):
                await self._timers_changed.wait()
            self._timers_changed = trio.Event()

    async def free(self) -> None:
        """Free discarded keys, a slice at a time, then give the memory back."""
        keyspace = self.node.keyspace
        while True:
            if keyspace.discarded or keyspace.shedding:
                gives_back = bool(keyspace.discarded)
                while keyspace.free_some(_FREE_ENTRIES_PER_SLICE):
                    await trio.lowlevel.checkpoint()
                if gives_back:
                    release_free_memory()
                    if self.trimmer is not None:
                        self.trimmer.hurry()
            # The engine knows no events; looking is cheaper than telling on each flush.
            await trio.sleep(_FREE_INTERVAL_S)

    async def trim(self) -> None:
        """Give the extents that nobody needs back to the system, a slice at a time."""
        if self.trimmer is None:
            return
        while True:
            try:
                while self.trimmer.step(time.monotonic()):
                    await trio.lowlevel.checkpoint()
            except OSError as error:
                # What was not given back stays free for use.
                self.log.warning("cannot give memory back", extra={"error": str(error)})
            await trio.sleep(_TRIM_INTERVAL_S)

    async def sample(self) -> None:
        """Refresh what the operating system knows of this process."""
        while True:
            self.node.process = self.sampler.sample()
            await trio.sleep(1.0)

    async def watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        """Stop on SIGINT and SIGTERM; on the second one at once."""
        is_leaving = False
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                task_status.started()
                async for number in signals:
                    self.log.info("stopping", extra={"signal": signal.Signals(number).name})
                    if is_leaving or self.leave is None:
                        self.stop.set()
                    else:
                        is_leaving = True
                        nursery.start_soon(self._leave, self.leave)

    async def _leave(self, leave: Callable[[], Awaitable[None]]) -> None:
        await leave()
        self.stop.set()

    async def watch_lifeline(self) -> None:
        """Stop when the parent is gone."""
        text = os.environ.get(LIFELINE_VARIABLE)
        if not text:
            return
        try:
            fd = int(text)
            os.fstat(fd)
        except (ValueError, OSError) as error:
            raise StartError(f"{LIFELINE_VARIABLE}: {text!r} is no open descriptor") from error
        await trio.lowlevel.wait_readable(fd)
        self.log.warning("the parent process is gone, stopping")
        self.stop.set()

    async def limit_buffers(self) -> None:
        """Drop the clients that leave most unread, when that takes too much of the machine."""
        while True:
            await trio.sleep(_BUFFERS_INTERVAL_S)
            share_bytes = limits.CONNECTION_BUFFERS_SHARE * self.node.process.machine_memory_bytes
            allowed_bytes = max(limits.CONNECTION_BUFFERS_MIN_BYTES, int(share_bytes))
            # They cannot take more than the process has; to add them up takes time where there
            # are ten thousand connections. Its figures are a second old.
            if self.node.process.anonymous_bytes > allowed_bytes // 2:
                drop_largest(self.reactor, allowed_bytes)

    async def wait_for_clients_turn(self) -> None:
        """Wait until clients may be served, or the end has come; the kernel holds them."""
        if self.before_clients is None:
            return
        async with trio.open_nursery() as nursery:

            async def end_with(event: Callable[[], Awaitable[None]]) -> None:
                await event()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with, self.stop.wait)
            nursery.start_soon(end_with, self.before_clients)

    async def finish(self) -> None:
        """Take no new connections, send what is due, then close."""
        self.ready = False
        self.reactor.stop_listening()
        with trio.move_on_after(_STOP_GRACE_S):
            while owes_replies(self.reactor):  # noqa: ASYNC110 - the kernel tells nobody
                await trio.sleep(_FREE_INTERVAL_S)

    def health_routes(self) -> dict[str, http.Route]:
        """What the health port serves."""

        def ready() -> http.Answer:
            return (200, http.TEXT, b"ok\n") if self.ready else (503, http.TEXT, b"not ready\n")

        return {
            "/healthz": lambda: (200, http.TEXT, b"ok\n"),
            "/readyz": ready,
            "/metrics": self.metrics.scrape,
        }


def owes_replies(reactor: Reactor) -> bool:
    """Whether a client still waits for something that was asked or is to be sent."""
    return any(
        connection.outbox.pending_bytes > 0
        or (isinstance(connection, ClientConnection) and connection.outstanding > 0)
        for connection in reactor.connections.values()
    )


def drop_largest(reactor: Reactor, allowed_bytes: int) -> None:
    """Drop the clients with most in buffers until those of all take no more than this."""
    size = 0
    for connection in reactor.connections.values():
        if isinstance(connection, ClientConnection):
            size += connection.unsent_reply_bytes + connection.input_bytes
    if size <= allowed_bytes:
        # Nearly always: then to look at ten thousand connections has to cost little.
        return
    sizes = [
        (connection.unsent_reply_bytes + connection.input_bytes, connection)
        for connection in reactor.connections.values()
        if isinstance(connection, ClientConnection)
    ]
    excess_bytes = sum(size for size, _ in sizes) - allowed_bytes
    for size, connection in sorted(sizes, key=lambda pair: pair[0], reverse=True):
        if excess_bytes <= 0:
            return
        reactor.drop(connection, "buffers of all clients take too much memory")
        excess_bytes -= size


async def serve(
    node: Node,
    listener: socket.socket,
    *,
    handler_of: Callable[[Session], RequestHandler],
    log: logging.Logger,
    sampler: ProcessSampler,
    metrics_port: int | None,
    background: Sequence[Callable[[Shell], Awaitable[None]]] = (),
    on_ready: Callable[[Ready], None] = lambda ready: None,
    configure: Callable[[Shell], None] = lambda shell: None,
) -> None:
    """Run a server until it is told to stop.

    Args:
        node: Its state; `node.port` is set to the listener's.
        listener: From `listen`.
        handler_of: Makes the request handler of a session.
        log: The process's log.
        sampler: Reads the process's figures.
        metrics_port: Port for metrics and health; 0 takes a free one, ``None`` serves none.
        background: Tasks of the plane; they end with the server.
        on_ready: Called when clients can connect.
        configure: Called with the shell before anything runs.

    Raises:
        StartError: The metrics port cannot be opened.
    """
    shell = Shell(node, log, sampler)
    host, port = listener.getsockname()[:2]
    node.port = port
    node.process = sampler.sample()
    node.entropy = secrets.token_bytes
    configure(shell)
    async with trio.open_nursery() as nursery:
        await nursery.start(shell.watch_signals)
        nursery.start_soon(shell.watch_lifeline)
        metrics_bound = await _serve_health(nursery, shell, host, metrics_port)
        await nursery.start(shell.reactor.run)
        shell.endpoint = Ready(node.role, node.id, host, port, metrics_bound, os.getpid())
        for task in (
            shell.expire,
            shell.run_timers,
            shell.free,
            shell.trim,
            shell.sample,
            shell.limit_buffers,
        ):
            nursery.start_soon(task)
        if node.role == "storage":
            nursery.start_soon(Compacting(node, log, sampler).run)
        for plane_task in background:
            nursery.start_soon(plane_task, shell)
        shell.ready = True
        await shell.wait_for_clients_turn()
        shell.reactor.listen(listener, lambda reactor, sock: shell.accept(sock, handler_of))
        log.info(
            "ready",
            extra={
                "host": host,
                "port": port,
                "metrics_port": metrics_bound,
                "core": running_core(),
            },
        )
        on_ready(shell.endpoint)
        await shell.stop.wait()
        await shell.finish()
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _serve_health(
    nursery: trio.Nursery, shell: Shell, host: str, port: int | None
) -> int | None:
    if port is None:
        return None
    try:
        bound: int = await nursery.start(http.serve, host, port, shell.health_routes())
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def _address(address: Any) -> str:
    """A socket address as ``host:port`` (IPv6 in brackets, as Redis writes it)."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return str(address) or "unix"
