"""The controller's core: events go to the state in, one at a time; instructions are carried out.

Events that come while something is written wait, and are then taken together: what they changed is
remembered, in one batch, before anybody is told, and members are told in the order of the epochs. A
controller that cannot write its memory, or meets a defect of its own half way, ends: what it would
tell could not be undone, and the next one goes on from what is remembered. Whoever waits for an
update to have arrived (`wait_acknowledged`) does not wait long for a member that lags, and not
again until it has caught up.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from pocketkv.catalog import CatalogError
from pocketkv.controller.backends.base import Backend
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.messages import (
    Event,
    Instruction,
    Left,
    Log,
    Persist,
    ProcessDied,
    Reported,
    SendUpdate,
    ServerWaits,
    StartServer,
    StopServer,
    Tick,
    Update,
    WatchServer,
)
from pocketkv.controller.state import ClusterState
from pocketkv.controller.store import Memory, StoreError
from pocketkv.engine.topology import Topology
from pocketkv.serving.membership import UPDATE_PUSH, apply_update
from pocketkv.serving.shell import StartError

# A member that has not taken an update by then is not waited for. It takes some milliseconds; on a
# machine with far more to do than it has cores it was more than a tenth of a second, and then a
# router called the token wrong of a job that had just been registered.
ACKNOWLEDGE_TIMEOUT_S: Final = 1.0
TICK_INTERVAL_S: Final = 0.25

__all__ = ["UPDATE_PUSH", "Clock", "Core", "Link", "MemberLink"]


class MemberLink(Protocol):
    """The connection of a member."""

    def send_update(self, text: bytes) -> None:
        """Send it an update, as JSON."""
        ...

    def drop(self) -> None:
        """Close it: the member has connected anew."""
        ...


@dataclass(eq=False)
class Link:
    """A member that is connected; `lags` until it has acknowledged what it was last sent."""

    member_id: str
    connection: MemberLink
    acknowledged: int = 0
    lags: bool = False


@dataclass(eq=False)
class _Told:
    """An event that waits, or what came of it."""

    event: Event
    then: Callable[[], None]
    instructions: list[Instruction] | None = None
    error: RefusedError | CatalogError | None = None
    epoch: int = 0
    is_done: bool = False


class Clock:
    """Milliseconds of the Unix epoch that never jump: the system's time may be set, ours not."""

    def __init__(self) -> None:
        self._ahead_ns = time.time_ns() - time.monotonic_ns()

    def now_ms(self) -> int:
        """Return the time."""
        return (time.monotonic_ns() + self._ahead_ns) // 1_000_000


class Core:
    """State, store and backend, and the members that are connected.

    Args:
        state: What is known.
        store: What is remembered.
        backend: What runs storage servers; None: they are started by others.
        topology: The controller's own view, kept like a member's.
        now_ms: The time.
        log: The process's log.

    Attributes:
        links: Connected members, by id.
    """

    def __init__(
        self,
        *,
        state: ClusterState,
        store: Memory,
        backend: Backend | None,
        topology: Topology,
        now_ms: Callable[[], int],
        log: logging.Logger,
    ) -> None:
        self.state = state
        self.backend = backend
        self.topology = topology
        self.now_ms = now_ms
        self.log = log
        self.links: dict[str, Link] = {}
        self._store = store
        self._lock = trio.Lock()
        self._waiting: list[_Told] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    # --- running -------------------------------------------------------------------------------

    async def run(
        self,
        controller: tuple[str, int],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until cancelled; `controller` is where storage servers find this process.

        Raises:
            StartError: The memory cannot be written any more.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._tell_topology(self.state.full_update())
                if self.backend is not None:
                    await nursery.start(self.backend.run, controller, self.tell_soon)
                    self._carry_out(self.state.watched())
                task_status.started()
                while True:
                    await self.tell(Tick())
                    await trio.sleep(TICK_INTERVAL_S)
            finally:
                self._nursery = None

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> bool:
        """Run a task in the background; false if the core does not run (any more)."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(task)
        return True

    def tell_soon(self, event: ProcessDied | ServerWaits | Left) -> None:
        """Take an event that nobody waits for, and that is never refused."""
        if self._nursery is not None:
            self._nursery.start_soon(self.tell, event)

    # --- events --------------------------------------------------------------------------------

    async def tell(self, event: Event, then: Callable[[], None] = lambda: None) -> int:
        """Take an event and carry out what follows from it; returns the epoch of all that.

        `then` is called when that is done and before anything else is.

        Raises:
            RefusedError: It cannot be.
            CatalogError: The catalog lacks a tier that it needs.
            StartError: The controller must end; see the module.
        """
        told = _Told(event, then)
        self._waiting.append(told)
        try:
            async with self._lock:
                if told in self._waiting:
                    await self._take_waiting()
        finally:
            if told in self._waiting:
                self._waiting.remove(told)
        if told.error is not None:
            raise told.error
        if not told.is_done:
            raise StartError("the controller ends: what this event changed was not written")
        return told.epoch

    async def _take_waiting(self) -> None:
        """Take all events that wait, and carry out what follows from them."""
        taken, self._waiting = self._waiting, []
        batch: Persist | None = None
        update: Update | None = None
        for told in taken:
            try:
                told.instructions = self._handle(told.event)
            except (RefusedError, CatalogError) as error:
                told.error = error
                continue
            told.epoch = self.state.epoch
            for instruction in told.instructions:
                match instruction:
                    case Persist():
                        batch = instruction if batch is None else batch.followed_by(instruction)
                    case SendUpdate(found):
                        update = found if update is None else update.followed_by(found)
        if batch is not None:
            await self._persist(batch)
        if update is not None:
            self._send(update)
        for told in taken:
            if told.instructions is not None:
                self._carry_out(told.instructions)
        for told in taken:
            if told.instructions is not None:
                # Whoever joins is told the state as it is after all of them.
                told.then()
                told.is_done = True
        self._changed.unpark_all()

    def _handle(self, event: Event) -> list[Instruction]:
        try:
            return self.state.handle(event, self.now_ms())
        except (RefusedError, CatalogError):
            raise
        except Exception as error:
            # The state may be half changed. What is remembered is not, and the next one reads it.
            self.log.exception("defect: an event was not handled")
            raise StartError(f"the controller ends: {type(event).__name__}: {error!r}") from error

    def report(self, event: Reported) -> None:
        """Take a report: it changes nothing that is remembered or told."""
        for instruction in self._handle(event):
            assert isinstance(instruction, Log), "nothing else comes of a report"
            self.log.log(instruction.level, instruction.event, extra=dict(instruction.fields))

    def _carry_out(self, instructions: Iterable[Instruction]) -> None:
        """Carry out instructions, after what is to be remembered was, and members were told."""
        for instruction in instructions:
            match instruction:
                case Log(level, event, fields):
                    self.log.log(level, event, extra=dict(fields))
                case StartServer(server_id, tier) if self.backend is not None:
                    self.backend.start(server_id, tier)
                case WatchServer(server_id, pid) if self.backend is not None:
                    self.backend.watch(server_id, pid)
                case StopServer(server_id, force, returns) if self.backend is not None:
                    self.backend.stop(server_id, force=force, returns=returns)

    async def _persist(self, batch: Persist) -> None:
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store.write, batch)
        except StoreError as error:
            raise StartError(f"the controller ends: {error}") from error

    def _send(self, update: Update) -> None:
        text = self._tell_topology(update)
        for link in self.links.values():
            link.connection.send_update(text)

    def _tell_topology(self, update: Update) -> bytes:
        text = json.dumps(update.as_json()).encode()
        apply_update(self.topology, text)
        return text

    # --- members -------------------------------------------------------------------------------

    def connect(self, link: Link) -> bytes:
        """Take a member that has just joined; returns the full update that it is to be sent."""
        known = self.links.get(link.member_id)
        self.links[link.member_id] = link
        if known is not None:
            known.connection.drop()
        return json.dumps(self.state.full_update().as_json()).encode()

    def disconnect(self, link: Link) -> None:
        """A member's connection is gone."""
        if self.links.get(link.member_id) is link:
            del self.links[link.member_id]
            self.tell_soon(Left(link.member_id))
            self._changed.unpark_all()

    def acknowledge(self, link: Link, epoch: int) -> None:
        """A member has taken everything up to `epoch`."""
        link.acknowledged = max(link.acknowledged, epoch)
        if link.acknowledged >= self.state.epoch:
            link.lags = False
        self._changed.unpark_all()

    def behind(self, epoch: int) -> list[Link]:
        """Return the members that have not acknowledged `epoch` and are expected to, soon."""
        return [k for k in self.links.values() if k.acknowledged < epoch and not k.lags]

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at after each event and acknowledgement."""
        while not condition():
            await self._changed.park()

    async def wait_acknowledged(self, epoch: int) -> None:
        """Wait until the members know of `epoch`, but not long for one that lags."""
        with trio.move_on_after(ACKNOWLEDGE_TIMEOUT_S):
            await self.wait_until(lambda: not self.behind(epoch))
        for link in self.behind(epoch):
            link.lags = True
            self.log.warning("member lags", extra={"member": link.member_id, "epoch": epoch})
