"""`pocketkv serve`: a whole cluster on this machine, as processes that live and end together.

The supervisor starts a controller and the routers, all at once, and starts them again when they
die; the controller does the same for storage servers. The supervisor holds what must outlive a
process: the controller's listening socket (connections wait in it while there is no controller),
the routers' port, the secret, and the lifeline, by which everything ends when the supervisor
does. Processes whose parent has died become the supervisor's children, so that none is left.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import trio

from pocketkv.catalog import CatalogError, load_catalog
from pocketkv.config import ServeConfig
from pocketkv.controller.backends.local import LocalPlan
from pocketkv.controller.children import (
    ADMIN_PASSWORD_VARIABLE,
    LISTENER_VARIABLE,
    LOCAL_VARIABLE,
    SECRET_VARIABLE,
    child_environment,
    descendants_of,
    how_it_ended,
    lifeline_fd,
    processes,
    start_child,
)
from pocketkv.controller.machine import (
    LOOPBACK,
    WILDCARDS,
    adopt_orphans,
    primary_address,
    private_directory,
    reserved_port,
)
from pocketkv.controller.overview import overview
from pocketkv.controller.store import Store, StoreError
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import open_peer
from pocketkv.scaling_rules import check_scaling, scaling_arguments
from pocketkv.serving.shell import LIFELINE_VARIABLE, Ready, StartError, listen
from pocketkv.tokens import SECRET_BYTES

# The cluster must be ready by then, on a machine however busy.
START_TIMEOUT_S: Final = 60.0
# Clients of a router that has just started wait no longer than this for the cluster.
_CLIENTS_WAIT_S: Final = 20.0
# Processes are asked to end; then the lifeline ends; those that are left are killed. All of it is
# over within 5 s.
ASK_TIMEOUT_S: Final = 1.5
STOP_TIMEOUT_S: Final = 3.0
KILL_TIMEOUT_S: Final = 1.5
# A process that dies younger than this is started again after a pause, the next time after a
# longer one, but not so long that clients give up: what has killed it may be over.
YOUNG_S: Final = 10.0
PAUSE_MIN_S: Final = 0.5
PAUSE_MAX_S: Final = 3.0

_POLL_S: Final = 0.01
_REAP_INTERVAL_S: Final = 1.0
_ANNOUNCEMENT_BYTES_MAX: Final = 4096
# Of what the disk has free, for values in files if nothing else is said.
_DISK_SHARE: Final = 0.9


class Supervisor:
    """Runs the processes of one cluster.

    Args:
        config: What is to run.
        directory: Where files may be kept, for as long as the cluster runs.
        listener: The controller's listening socket.
        port: The routers' port, which is reserved.
        lifeline: The reading end of the lifeline; `cut_lifeline` ends it.
        log: The process's log.
        spill: A directory that dram servers may spill to, for as long as the cluster runs.
    """

    def __init__(
        self,
        config: ServeConfig,
        directory: Path,
        listener: socket.socket,
        port: int,
        lifeline: int,
        cut_lifeline: Callable[[], None],
        log: logging.Logger,
        spill: Path | None = None,
    ) -> None:
        self.config = config
        self.port = port
        self.log = log
        self.stop = trio.Event()
        self._directory = directory
        self._spill_directory = spill
        self._listener = listener
        self._lifeline = lifeline
        self._cut_lifeline = cut_lifeline
        self._secret = config.secret or secrets.token_bytes(SECRET_BYTES)
        self._run_id = secrets.token_hex(8)
        self._ready: dict[str, dict[str, Any]] = {}
        self._ready_changed = trio.Event()
        self._is_ready = False
        self._hurry = trio.Event()
        self._own_pids: set[int] = set()
        self._starting = 0

    @property
    def advertise_host(self) -> str | None:
        """What clients are told, if the address to listen on is none to be told."""
        return primary_address(self.config.host) if self.config.host in WILDCARDS else None

    # --- life ----------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[Sequence[str]], None]) -> None:
        """Run the cluster until it is told to stop; `on_ready` gets lines that tell what runs.

        Raises:
            StartError: It does not become ready.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            nursery.start_soon(self._watch_parent)
            nursery.start_soon(self._reap)
            try:
                for name, arguments, variables, inherited in self._processes():
                    nursery.start_soon(self._keep, name, arguments, variables, inherited)
                await self._wait_ready()
                if not self.stop.is_set():
                    on_ready(await self._overview())
                    self._is_ready = True
                await self.stop.wait()
            finally:
                self.stop.set()
                with trio.CancelScope(shield=True):
                    await self._end_all()
            nursery.cancel_scope.cancel()

    async def _wait_ready(self) -> None:
        """Wait until the controller says that all is there, and the routers, or for the end."""
        names = {name for name, *_ in self._processes()}
        with trio.move_on_after(START_TIMEOUT_S) as scope:
            while names - self._ready.keys() and not self.stop.is_set():
                await self._ready_changed.wait()
                self._ready_changed = trio.Event()
        if scope.cancelled_caught:
            raise StartError(f"the cluster is not ready after {START_TIMEOUT_S:.0f} s")

    def _wake(self) -> None:
        self._ready_changed.set()

    async def _watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                self.log.info("stopping", extra={"signal": signal.Signals(number).name})
                if self.stop.is_set():
                    self._hurry.set()
                self.stop.set()
                self._wake()

    async def _watch_parent(self) -> None:
        fd = lifeline_fd(os.environ)
        if fd is not None:
            await trio.lowlevel.wait_readable(fd)
            self.log.warning("the parent process is gone, stopping")
            self.stop.set()
            self._wake()

    # --- processes -----------------------------------------------------------------------------

    def _processes(self) -> Iterator[tuple[str, list[str], dict[str, str], list[int]]]:
        """Yield name, arguments, variables and inherited descriptors of what is to be kept."""
        listener = self._listener.fileno()
        variables = {LISTENER_VARIABLE: str(listener), LOCAL_VARIABLE: self._plan().as_text()}
        yield "controller", self._controller_arguments(), variables, [listener]
        for number in range(self.config.routers):
            yield f"router-{number + 1}", self._router_arguments(number), {}, []

    def _plan(self) -> LocalPlan:
        config = self.config
        return LocalPlan(
            run_id=self._run_id,
            servers={tier: count for tier, count in config.servers.items() if count},
            routers=config.routers,
            memory_bytes=config.server_memory_bytes,
            host=config.host,
            advertise_host=self.advertise_host,
            directory=str(self._directory),
            capacity_bytes=self._server_capacity_bytes(),
            log_level=config.log_level,
            log_format=config.log_format,
            require_auth=config.require_auth,
            metrics_port=self._metrics_port(1 + config.routers),
            spill=None if config.spill is None else str(self._spill_directory or config.spill),
            retain=config.retain,
        )

    def _server_capacity_bytes(self) -> int:
        """What one server that keeps files may store, so that all of them fit on the disk."""
        whole = self.config.capacity_bytes
        if whole is None:
            whole = int(shutil.disk_usage(self._directory).free * _DISK_SHARE)
        return whole // self.config.server_capacity_shares

    def _metrics_port(self, number: int) -> int | None:
        """Return the metrics port of the process of this number: 0 is any, None none."""
        first = self.config.metrics_port
        return first + number if first else first

    def _common_arguments(self, number: int) -> list[str]:
        port = self._metrics_port(number)
        return [
            *("--metrics-port", "off" if port is None else str(port)),
            *("--log-level", self.config.log_level, "--log-format", self.config.log_format),
        ]

    def _controller_arguments(self) -> list[str]:
        config = self.config
        state = config.state or self._directory / "state.db"
        arguments = ["controller", "--host", LOOPBACK, "--port", str(self._controller_port)]
        arguments += ["--state", str(state), *self._common_arguments(0)]
        arguments += scaling_arguments(config.scaling)
        arguments += ["--unhinted-servers", str(config.unhinted_servers)]
        return arguments + (["--catalog", str(config.catalog)] if config.catalog else [])

    @property
    def _controller_port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _router_arguments(self, number: int) -> list[str]:
        config = self.config
        arguments = ["router", "--host", config.host, "--port", str(self.port), "--reuse-port"]
        # Who waits for the port may go on when there is one; nobody meets a cluster without slots.
        if any(config.servers.values()):
            arguments += ["--start-wait", f"{_CLIENTS_WAIT_S:g}"]
        arguments += ["--controller", f"{LOOPBACK}:{self._controller_port}"]
        arguments += ["--require-auth" if config.require_auth else "--no-require-auth"]
        if self.advertise_host is not None:
            arguments += ["--advertise-host", self.advertise_host]
        return arguments + self._common_arguments(1 + number)

    async def _keep(
        self, name: str, arguments: list[str], variables: dict[str, str], inherited: list[int]
    ) -> None:
        """Run a process, again and again, until the cluster stops.

        Raises:
            StartError: It died before the cluster was ready.
        """
        pause_s = 0.0
        while not self.stop.is_set():
            started_s = trio.current_time()
            status = await self._run_once(name, arguments, variables, inherited)
            if self.stop.is_set():
                return
            reason = how_it_ended(status)
            if not self._is_ready:
                raise StartError(f"the {name.partition('-')[0]} does not start: {reason}")
            if trio.current_time() - started_s > YOUNG_S:
                pause_s = 0.0
            self.log.error(
                "process died", extra={"what": name, "reason": reason, "pause_s": pause_s}
            )
            with trio.move_on_after(pause_s):
                await self.stop.wait()
            pause_s = min(max(pause_s * 2, PAUSE_MIN_S), PAUSE_MAX_S)

    async def _run_once(
        self, name: str, arguments: list[str], variables: dict[str, str], inherited: list[int]
    ) -> int:
        reading, writing = os.pipe()
        environment = child_environment(
            os.environ,
            **variables,
            **{
                SECRET_VARIABLE: self._secret.hex(),
                ADMIN_PASSWORD_VARIABLE: self.config.admin_password,
                LIFELINE_VARIABLE: str(self._lifeline),
            },
        )
        announced = [*arguments, "--announce-fd", str(writing)]
        self._starting += 1
        try:
            with trio.CancelScope(shield=True):
                child = await start_child(
                    announced, environment, [*inherited, self._lifeline, writing]
                )
            self._own_pids.add(child.pid)
        finally:
            self._starting -= 1
            os.close(writing)
        self.log.debug("process started", extra={"what": name, "pid": child.pid})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_announcement, name, reading)
            status = await child.wait()
            nursery.cancel_scope.cancel()
        self._own_pids.discard(child.pid)
        return status

    async def _read_announcement(self, name: str, reading: int) -> None:
        async with trio.lowlevel.FdStream(reading) as stream:
            text = b""
            while not text.endswith(b"\n") and len(text) < _ANNOUNCEMENT_BYTES_MAX:
                received = await stream.receive_some(_ANNOUNCEMENT_BYTES_MAX)
                if not received:
                    return  # It has ended, which `_keep` sees.
                text += received
        self._ready[name] = json.loads(text)
        self._wake()

    async def _overview(self) -> list[str]:
        """Ask the controller what runs, and put it in lines."""
        try:
            async with trio.open_nursery() as nursery:
                peer = await open_peer(nursery, LOOPBACK, self._controller_port)
                password = self.config.admin_password
                if password is not None:
                    await peer.call("AUTH", "admin", password, timeout_s=START_TIMEOUT_S)
                await peer.call("HELLO", 3, timeout_s=START_TIMEOUT_S)
                servers = await peer.call("SERVER.LIST", timeout_s=START_TIMEOUT_S)
                await peer.aclose()
        except* PeerError as errors:
            raise StartError(f"the controller does not answer: {errors.exceptions[0]}") from errors
        host = self.advertise_host or self.config.host
        return overview(self.config, host, self.port, self._ready, servers)

    # --- the end -------------------------------------------------------------------------------

    async def _end_all(self) -> None:
        """End every process below this one: by asking, by the lifeline, at last by force."""
        # All at the same time, so that none begins to make up for the end of another.
        _signal_descendants(signal.SIGTERM)
        await self._wait_ended(ASK_TIMEOUT_S)
        self._cut_lifeline()
        await self._wait_ended(STOP_TIMEOUT_S - ASK_TIMEOUT_S)
        left = _signal_descendants(signal.SIGKILL)
        if left:
            self.log.warning("processes killed", extra={"count": left})
        with trio.move_on_after(KILL_TIMEOUT_S):
            # Children of what is killed become ours, and are found the next time.
            while _signal_descendants(signal.SIGKILL):  # noqa: ASYNC110 - as below
                await trio.sleep(_POLL_S)

    async def _wait_ended(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            # Nothing tells of the end of somebody else's child.
            while descendants_of(os.getpid()) and not self._hurry.is_set():  # noqa: ASYNC110
                await trio.sleep(_POLL_S)

    async def _reap(self) -> None:
        """Reap processes whose parent died before them, now and then."""
        while True:
            with trio.open_signal_receiver(signal.SIGCHLD) as signals:
                with trio.move_on_after(_REAP_INTERVAL_S):
                    async for _ in signals:
                        break
            if not self._starting:
                _reap_orphans(self._own_pids)


def _reap_orphans(known: Set[int]) -> None:
    """Reap our children that have ended, but for `known` ones, for which somebody waits."""
    for pid, parent, has_ended in processes():
        if parent == os.getpid() and has_ended and pid not in known:
            os.waitpid(pid, os.WNOHANG)


def _signal_descendants(number: signal.Signals) -> int:
    """Send a signal to every process below this one; how many there were."""
    pids = descendants_of(os.getpid())
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # It has just ended.
    return len(pids)


async def run_serve(
    config: ServeConfig, log: logging.Logger, print_line: Callable[[str], None]
) -> None:
    """Run a cluster on this machine until it is told to stop.

    Raises:
        StartError: It cannot start; nothing is left behind.
        ConfigError: Its servers cost more than they may.
    """
    _check_files(config)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port(config.host, config.port))
        directory = stack.enter_context(private_directory(config.dir))
        spill = None
        if isinstance(config.spill, Path):
            spill = stack.enter_context(private_directory(config.spill, "--spill"))
        listener = stack.enter_context(listen(LOOPBACK, 0))
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        lifeline = stack.enter_context(ExitStack())
        lifeline.callback(os.close, writing)
        adopt_orphans()
        supervisor = Supervisor(
            config, directory, listener, port, reading, lifeline.close, log, spill
        )

        def on_ready(lines: Sequence[str]) -> None:
            for line in lines:
                print_line(line)
            announce(config, port)

        await supervisor.run(on_ready)


def announce(config: ServeConfig, port: int) -> None:
    """Tell a parent process where the routers are.

    Raises:
        StartError: The descriptor that it gave cannot be written.
    """
    if config.announce_fd is None:
        return
    host = LOOPBACK if config.host in WILDCARDS else config.host
    ready = Ready("serve", "", host, port, None, os.getpid())
    try:
        os.write(config.announce_fd, json.dumps(ready.as_json()).encode() + b"\n")
        os.close(config.announce_fd)
    except OSError as error:
        raise StartError(f"--announce-fd {config.announce_fd}: {error.strerror}") from error


def _check_files(config: ServeConfig) -> None:
    """Find what is wrong with files before anything is started."""
    try:
        catalog = load_catalog(None if config.catalog is None else str(config.catalog))
        check_scaling(config.scaling, catalog, config.servers)
        if config.state is not None:
            store = Store(config.state)
            try:
                store.read()
            finally:
                store.close()
    except (CatalogError, StoreError) as error:
        raise StartError(str(error)) from error
