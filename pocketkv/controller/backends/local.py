"""Storage servers as processes of this machine: what `pocketkv serve` has.

The controller starts them, but they do not depend on it: when it dies, they go on, and the next
controller takes them over by the process numbers that they join with. They end with the lifeline
of the supervisor. A server is watched by a descriptor of its process, so that its death is known
at once, and no signal ever reaches a stranger that was given its number.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from pocketkv.config import LOCAL_SERVERS_MAX
from pocketkv.controller.backends.base import Tell
from pocketkv.controller.children import (
    LOCAL_VARIABLE,
    SECRET_VARIABLE,
    child_environment,
    how_it_ended,
    is_running,
    lifeline_fd,
    start_child,
)
from pocketkv.controller.fleet import BackendTraits
from pocketkv.controller.messages import ProcessDied
from pocketkv.placement import is_store
from pocketkv.serving.shell import LIFELINE_VARIABLE, StartError

# A server that was told to stop and does not is killed after so long.
STOP_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True)
class LocalPlan:
    """What the supervisor wants of the controller that it starts.

    Attributes:
        run_id: Tells this run of the supervisor from every other.
        servers: How many storage servers of each tier there are to be.
        routers: How many routers the supervisor starts: the cluster is ready with all of them.
        memory_bytes: What one storage server may use for values.
        host: Where storage servers listen; `advertise_host`: what clients are told instead.
        directory: Where values may be kept in files.
        capacity_bytes: What one server may store there.
        spill: Where dram servers spill to, a directory (each has a part of it) or S3, if anywhere.
        retain: Where storage servers keep what jobs retain, in S3, if they do.
        metrics_port: Of the first storage server, the others follow; 0 are free ones, None none.
    """

    run_id: str
    servers: Mapping[str, int]
    routers: int
    memory_bytes: int
    host: str
    directory: str
    capacity_bytes: int
    log_level: str
    log_format: str
    require_auth: bool
    advertise_host: str | None = None
    metrics_port: int | None = 0
    spill: str | None = None
    retain: str | None = None

    def as_text(self) -> str:
        """Return the plan for the environment of a child."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> LocalPlan | None:
        """Return the supervisor's plan; None if no supervisor started this process.

        Raises:
            StartError: It is not understood.
        """
        text = environ.get(LOCAL_VARIABLE)
        if not text:
            return None
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise StartError(f"{LOCAL_VARIABLE}: not a plan: {error}") from error


@dataclass
class _Process:
    """A server's process; `pidfd` is None until it has been started."""

    pidfd: int | None = None
    stop: trio.Event = field(default_factory=trio.Event)
    force: bool = False


class LocalBackend:
    """Runs storage servers on this machine.

    Args:
        plan: What the supervisor wants.
        secret: The cluster's secret.
        log: The controller's log.
        environ: The environment of this process, which children inherit.
    """

    def __init__(
        self, plan: LocalPlan, secret: bytes, log: logging.Logger, environ: Mapping[str, str]
    ) -> None:
        self._plan = plan
        self._secret = secret
        self._log = log
        self._environ = environ
        self._lifeline = lifeline_fd(environ)
        self._processes: dict[str, _Process] = {}
        self._metrics_ports: dict[str, int] = {}
        self._controller = ("", 0)
        self._tell: Tell = lambda event: None
        self._nursery: trio.Nursery | None = None

    @property
    def plan(self) -> Mapping[str, int]:
        """How many servers of each tier a new cluster begins with."""
        return self._plan.servers

    @property
    def plan_id(self) -> str:
        """Tells this plan from that of another run of the supervisor."""
        return self._plan.run_id

    @property
    def traits(self) -> BackendTraits:
        """Nothing: processes are as the cluster's state expects them."""
        return BackendTraits()

    def servers_max(self, tier: str) -> int:
        """How many servers a tier can have at most."""
        return LOCAL_SERVERS_MAX

    def new_server_id(self, tier: str) -> str:
        """Return 40 hexadecimal digits, the form of node ids in Redis Cluster."""
        return secrets.token_hex(20)

    def may_leave(self, tier: str, server_ids: Sequence[str]) -> Sequence[str]:
        """Return all of them: a process is like another."""
        return server_ids

    async def run(
        self,
        controller: tuple[str, int],
        tell: Tell,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until cancelled; the processes go on."""
        self._controller = controller
        self._tell = tell
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def start(self, server_id: str, tier: str) -> None:
        """Start a process that will join as this server."""
        self._spawn(server_id, self._run_child, tier)

    def watch(self, server_id: str, pid: int) -> None:
        """Watch a process that an earlier controller started."""
        self._spawn(server_id, self._run_adopted, pid)

    def _spawn(self, server_id: str, task: Any, argument: Any) -> None:
        assert self._nursery is not None, "it does not run"
        if server_id not in self._processes:
            process = self._processes[server_id] = _Process()
            self._nursery.start_soon(task, server_id, process, argument)

    def stop(self, server_id: str, *, force: bool, returns: bool = False) -> None:
        """Send SIGTERM, and SIGKILL later; with `force`, SIGKILL at once.

        That it `returns` makes no difference: a process has no place to be kept.
        """
        process = self._processes.get(server_id)
        if process is None:
            self._tell(ProcessDied(server_id, "it does not run"))
            return
        process.force = process.force or force
        process.stop.set()

    # --- one process ---------------------------------------------------------------------------

    async def _run_child(self, server_id: str, process: _Process, tier: str) -> None:
        inherited = () if self._lifeline is None else (self._lifeline,)
        try:
            # Not cancelled half way, or a process could be left that nobody knows of.
            with trio.CancelScope(shield=True):
                child = await start_child(
                    self._arguments(server_id, tier), self._environment(), inherited
                )
            with _pidfd(child.pid, process):
                await self._wait(process)
                status = await child.wait()
        except OSError as error:
            self._end(server_id, f"it cannot be started: {error.strerror}")
            return
        # A server that takes its place has directories of its own.
        for path in (self._directory_of(server_id, tier), self._spill_directory_of(server_id)):
            if path is not None:
                remove = partial(shutil.rmtree, path, ignore_errors=True)
                await trio.to_thread.run_sync(remove)
        self._end(server_id, how_it_ended(status))

    async def _run_adopted(self, server_id: str, process: _Process, pid: int) -> None:
        try:
            with _pidfd(pid, process):
                # After the descriptor was opened, so that it is surely that process's.
                if is_running(pid, server_id):
                    self._log.info("server adopted", extra={"server": server_id, "pid": pid})
                    await self._wait(process)
        except OSError:
            pass  # There is no such process.
        self._end(server_id, "it has ended")

    def _end(self, server_id: str, reason: str) -> None:
        del self._processes[server_id]
        self._metrics_ports.pop(server_id, None)
        self._tell(ProcessDied(server_id, reason))

    async def _wait(self, process: _Process) -> None:
        """Wait until a process has ended, and end it if that is asked for."""
        assert process.pidfd is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_told, process)
            await trio.lowlevel.wait_readable(process.pidfd)
            nursery.cancel_scope.cancel()

    async def _stop_when_told(self, process: _Process) -> None:
        await process.stop.wait()
        if not process.force:
            _signal(process, signal.SIGTERM)
            await trio.sleep(STOP_TIMEOUT_S)
        _signal(process, signal.SIGKILL)

    # --- its command line ----------------------------------------------------------------------

    def _arguments(self, server_id: str, tier: str) -> list[str]:
        plan = self._plan
        host, port = self._controller
        arguments = ["storage", "--server-id", server_id, "--tier", tier]
        arguments += ["--host", plan.host, "--port", "0"]
        arguments += ["--controller", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
        arguments += ["--memory", str(plan.memory_bytes)]
        arguments += ["--metrics-port", self._metrics_port(server_id)]
        arguments += ["--log-level", plan.log_level, "--log-format", plan.log_format]
        arguments += ["--require-auth" if plan.require_auth else "--no-require-auth"]
        if plan.advertise_host is not None:
            arguments += ["--advertise-host", plan.advertise_host]
        if tier != "dram":
            arguments += ["--dir", str(self._directory_of(server_id, tier))]
            arguments += ["--capacity", str(plan.capacity_bytes)]
        elif plan.spill is not None:
            arguments += ["--spill", str(self._spill_directory_of(server_id) or plan.spill)]
        if plan.retain is not None:
            arguments += ["--retain", plan.retain]
        return arguments

    def _directory_of(self, server_id: str, tier: str) -> Path:
        return Path(self._plan.directory) / f"{tier}-{server_id[:8]}"

    def _spill_directory_of(self, server_id: str) -> Path | None:
        """Where a dram server spills to; None if that is no directory."""
        spill = self._plan.spill
        return None if spill is None or is_store(spill) else Path(spill) / f"dram-{server_id[:8]}"

    def _metrics_port(self, server_id: str) -> str:
        first = self._plan.metrics_port
        if first is None:
            return "off"
        if first == 0:
            return "0"
        taken = self._metrics_ports.values()
        port = next(p for p in range(first, first + len(taken) + 1) if p not in taken)
        self._metrics_ports[server_id] = port
        return str(port)

    def _environment(self) -> dict[str, str]:
        lifeline = None if self._lifeline is None else str(self._lifeline)
        return child_environment(
            self._environ,
            **{SECRET_VARIABLE: self._secret.hex(), LIFELINE_VARIABLE: lifeline},
        )


@contextmanager
def _pidfd(pid: int, process: _Process) -> Iterator[None]:
    """Have a descriptor of a process.

    Raises:
        OSError: There is no such process.
    """
    process.pidfd = os.pidfd_open(pid)
    try:
        yield
    finally:
        os.close(process.pidfd)
        process.pidfd = None


def _signal(process: _Process, number: signal.Signals) -> None:
    assert process.pidfd is not None
    try:
        signal.pidfd_send_signal(process.pidfd, number)
    except ProcessLookupError:
        pass  # It has just ended, which is what was wanted.
