"""Doing to a cluster what a schedule says, and noting when, to whom, and what came of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import redis

from tests.chaos.clients import PlainClient
from tests.chaos.schedule import Kind, Step
from tests.chaos.watching import Watch
from tests.e2e.local import Cluster, is_alive

T = TypeVar("T")

# A server that is silent for 3 s is out, if there is a controller: on a busy machine one that was
# killed again and again takes its time to come back.
_GONE_TIMEOUT_S: Final = 45.0
_HANG_S: Final = 6.0
# For so long a command may be refused because of what happened before it.
_AFTERMATH_S: Final = 5.0
_POLL_S: Final = 0.02
# No more servers of the tier that is scaled.
_SERVERS_MAX: Final = 4
# What commands may be refused with: data that is there and cannot go elsewhere, or what another
# command has begun.
_MAY_BE_REFUSED: Final = (
    "holds data",
    "cannot shrink",
    "no other server",
    "would have to move",
    "would get too little",
    "too little room",
    "draining",
    "was told to end",
    "is being stopped",
)
_REFUSED: Final = "this must not be refused"
# Commands may take as long as moving data takes; other things happen meanwhile.
_COMMANDS: Final = frozenset((Kind.SCALE, Kind.DRAIN, Kind.UPDATE))


@dataclass
class Fault:
    """Something that was done.

    Attributes:
        kind: What.
        begin_s: Right before it was.
        end_s: When it was over: a process gone or going on, a command answered.
        victim: Whom it hit, or the request.
        servers: The storage servers that it made lose what they held.
        note: What came of it.
        is_refused: Whether a command was refused for a good reason.
        problem: What must not have come of it.
    """

    kind: Kind
    begin_s: float
    end_s: float
    victim: str = ""
    servers: list[str] = field(default_factory=list)
    note: str = ""
    is_refused: bool = False
    problem: str = ""

    def line(self, zero_s: float) -> str:
        """Return it as one line, its times counted from `zero_s`."""
        times = f"{self.begin_s - zero_s:8.3f} .. {self.end_s - zero_s:8.3f}"
        words = [times, self.kind.name, self.victim, self.note, self.problem]
        return "  ".join(word for word in words if word)


class Tormentor:
    """Carries out steps, one after the other, and commands beside them.

    Args:
        cluster: Whom.
        watch: What is seen of it.
        job_ids: Jobs that may be updated.
        churn: Has a job come and go; returns what is wrong with that, or nothing.
        say: Told of each fault as it is over.
    """

    def __init__(
        self,
        cluster: Cluster,
        watch: Watch,
        job_ids: Sequence[str],
        churn: Callable[[Step], tuple[str, str]],
        say: Callable[[Fault], None],
    ) -> None:
        self.faults: list[Fault] = []
        self._cluster = cluster
        self._watch = watch
        self._job_ids = job_ids
        self._churn = churn
        self._say = say

    def run(self, steps: Sequence[Step], stop: threading.Event) -> None:
        """Carry out all steps at their times, or later if one takes long."""
        zero_s = time.monotonic()
        with ThreadPoolExecutor(len(_COMMANDS)) as pool:
            tasks: list[Future[None]] = []
            for step in steps:
                if stop.wait(max(0.0, zero_s + step.at_s - time.monotonic())):
                    break
                if step.kind in _COMMANDS:
                    tasks.append(pool.submit(self._carry_out, step))
                else:
                    self._carry_out(step)
        for task in tasks:
            task.result()
        self.faults.sort(key=lambda fault: fault.begin_s)
        for fault in self.faults:
            # What happened meanwhile may be why.
            if fault.problem == _REFUSED and self._was_disturbed(fault):
                fault.problem = ""

    def _was_disturbed(self, fault: Fault) -> bool:
        return any(
            other.kind not in _COMMANDS
            and other.begin_s <= fault.end_s
            and other.end_s >= fault.begin_s - _AFTERMATH_S
            for other in self.faults
        )

    def _carry_out(self, step: Step) -> None:
        now_s = time.monotonic()
        fault = Fault(step.kind, now_s, now_s)
        try:
            self._ACTIONS[step.kind](self, step, fault)
        except ProcessLookupError:
            fault.note = "it was gone already"
        except redis.ResponseError as error:
            fault.note = f"refused: {error}"
            fault.is_refused = any(words in str(error) for words in _MAY_BE_REFUSED)
            # Commands need a controller, which may be gone; the watch sees for how long.
            if not fault.is_refused and "controller" not in str(error):
                fault.problem = _REFUSED
        except (redis.RedisError, OSError) as error:
            fault.note = f"{type(error).__name__}: {error}"
        fault.end_s = time.monotonic()
        self.faults.append(fault)
        self._say(fault)

    # --- storage servers -----------------------------------------------------------------------

    def _kill_server(self, step: Step, fault: Fault) -> None:
        victim = self._a_server(step)
        if victim is None:
            return
        self._mark(victim, fault)
        os.kill(victim["pid"], signal.SIGKILL)
        self._wait_gone(victim, fault)

    def _hang_server(self, step: Step, fault: Fault) -> None:
        victim = self._a_server(step)
        if victim is None:
            return
        self._mark(victim, fault)
        os.kill(victim["pid"], signal.SIGSTOP)
        _wait(lambda: not is_alive(victim["pid"]), _HANG_S)
        if is_alive(victim["pid"]):
            os.kill(victim["pid"], signal.SIGCONT)
            fault.note = f"it stood still for {_HANG_S} s"
        self._wait_gone(victim, fault)

    def _pause_server(self, step: Step, fault: Fault) -> None:
        victim = self._a_server(step)
        if victim is None:
            return
        fault.victim = _name(victim)
        _pause(victim["pid"], step.lasts_s, fault)

    def _a_server(self, step: Step) -> dict[str, Any] | None:
        """Return a storage server, of which one may be draining; of dram, never the last one."""
        look = self._watch.look()
        servers = look.servers if look is not None else self._watch.looks[-1].servers
        states = {"up"} if step.kind is Kind.DRAIN else {"up", "draining"}
        up = [s for s in servers if s["state"] in states and is_alive(s["pid"])]
        tiers = [s["tier"] for s in up]
        able = sorted(
            (s for s in up if tiers.count(s["tier"]) > 1 or s["tier"] != "dram"),
            key=lambda s: (s["tier"], s["port"]),
        )
        return able[int(step.dice * len(able))] if able else None

    def _mark(self, victim: dict[str, Any], fault: Fault) -> None:
        fault.victim = _name(victim)
        fault.servers.append(victim["id"])
        fault.begin_s = time.monotonic()

    def _wait_gone(self, victim: dict[str, Any], fault: Fault) -> None:
        """Wait until the controller has taken a server out."""

        def is_gone() -> bool:
            look = self._watch.look()
            # A server with files comes back under its old name, as another process.
            return look is not None and victim["pid"] not in {s["pid"] for s in look.servers}

        if not _wait(is_gone, _GONE_TIMEOUT_S):
            fault.problem = f"it is not out after {_GONE_TIMEOUT_S} s"

    # --- routers and the controller ------------------------------------------------------------

    def _kill_router(self, step: Step, fault: Fault) -> None:
        pid = self._a_process("router", step)
        fault.victim = f"pid {pid}"
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not is_alive(pid), _GONE_TIMEOUT_S)

    def _pause_router(self, step: Step, fault: Fault) -> None:
        pid = self._a_process("router", step)
        fault.victim = f"pid {pid}"
        _pause(pid, step.lasts_s, fault)

    def _kill_controller(self, step: Step, fault: Fault) -> None:
        pid = self._a_process("controller", step)
        os.kill(pid, signal.SIGKILL)
        self._wait_answer(fault)

    def _pause_controller(self, step: Step, fault: Fault) -> None:
        _pause(self._a_process("controller", step), step.lasts_s, fault)
        self._wait_answer(fault)

    def _kill_both(self, step: Step, fault: Fault) -> None:
        victim = self._a_server(step)
        if victim is None:
            return
        self._mark(victim, fault)
        os.kill(self._a_process("controller", step), signal.SIGKILL)
        os.kill(victim["pid"], signal.SIGKILL)
        self._wait_gone(victim, fault)

    def _a_process(self, command: str, step: Step) -> int:
        pids = sorted(self._cluster.pids_of(command))
        if not pids:
            raise ProcessLookupError(command)
        return pids[int(step.dice * len(pids))]

    def _wait_answer(self, fault: Fault) -> None:
        if not _wait(lambda: self._watch.look() is not None, _GONE_TIMEOUT_S):
            fault.problem = f"it does not answer after {_GONE_TIMEOUT_S} s"

    # --- commands ------------------------------------------------------------------------------

    def _scale(self, step: Step, fault: Fault) -> None:
        tier = "dram" if step.dice < 0.8 else "nvme"
        count = min(step.amount, _SERVERS_MAX) if tier == "dram" else 1 + step.amount % 2
        self._send(fault, "TIER.SCALE", tier, count)

    def _drain(self, step: Step, fault: Fault) -> None:
        victim = self._a_server(step)
        if victim is None:
            return
        self._send(fault, "SERVER.DRAIN", victim["id"])

    def _update(self, step: Step, fault: Fault) -> None:
        job_id = self._job_ids[int(step.dice * len(self._job_ids))]
        hints = ("LAMBDAS", 10 * step.amount) if step.amount % 2 else ("CAPACITY", "24mb")
        self._send(fault, "JOB.UPDATE", job_id, *hints)

    def _come_and_go(self, step: Step, fault: Fault) -> None:
        fault.note, fault.problem = self._churn(step)

    def _send(self, fault: Fault, *request: object) -> None:
        fault.victim = " ".join(map(str, request[:2]))[:40] + " " + " ".join(map(str, request[2:]))
        client = PlainClient(f"redis://127.0.0.1:{self._cluster.port}", _GONE_TIMEOUT_S)
        try:
            client.send(*request)
        finally:
            client.close()

    _ACTIONS: Final[dict[Kind, Callable[[Tormentor, Step, Fault], None]]] = {
        Kind.KILL_SERVER: _kill_server,
        Kind.HANG_SERVER: _hang_server,
        Kind.PAUSE_SERVER: _pause_server,
        Kind.KILL_ROUTER: _kill_router,
        Kind.PAUSE_ROUTER: _pause_router,
        Kind.KILL_CONTROLLER: _kill_controller,
        Kind.PAUSE_CONTROLLER: _pause_controller,
        Kind.KILL_BOTH: _kill_both,
        Kind.SCALE: _scale,
        Kind.DRAIN: _drain,
        Kind.UPDATE: _update,
        Kind.CHURN: _come_and_go,
    }


def _name(server: dict[str, Any]) -> str:
    return f"{server['tier']} {server['id'][:8]} pid {server['pid']}"


def _pause(pid: int, seconds: float, fault: Fault) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    fault.note = f"it stood still for {seconds:.2f} s"


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; whether it came to be in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
