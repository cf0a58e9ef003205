"""Carries one move out at its source: copies, holds, and has the target take the slots.

Until the target was asked to take them, whatever fails leaves the source as it was. Once it was
asked, only the target knows what became of it: while it does not answer, commands on the slots are
held, for a while, and then refused, until it does, or the map says whose the slots are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from pocketkv import limits
from pocketkv.engine.arrivals import FAILED, NO_MOVE, REFUSED, TAKEN
from pocketkv.engine.emptying import empty_range
from pocketkv.engine.errors import BUSY
from pocketkv.engine.keyspace import CLEARED
from pocketkv.engine.moving import Hold, Outgoing
from pocketkv.engine.node import Node
from pocketkv.engine.script_transfer import loaded, version_of
from pocketkv.placement import SlotMove
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.tiers.copying import Sender
from pocketkv.tiers.line import Line, Waiter
from pocketkv.tiers.move_metrics import HoldTimes
from pocketkv.tiers.resting import Rests

# The last round may take about so much: with the way there and back, some milliseconds.
_LAST_BYTES: Final = 128 * limits.KIB
# So many rounds may each leave no less than the one before; then writers are held back.
_ROUNDS_MAX: Final = 6
# For how long they are held at a time, and what they have in between, less each time.
_BRAKE_S: Final = 0.003
_BRAKE_PAUSE_S: Final = 0.02
_RETRY_PAUSE_S: Final = 0.02
# One attempt to ask a target whether it has taken slots.
_ASK_TIMEOUT_S: Final = 1.0
# For so long a target may not know the move, or be busy with what the slots held before.
_BEGIN_TIMEOUT_S: Final = 30.0
# How long commands wait for a target that does not say whether it has the slots.
HELD_MAX_S: Final = 3.0
_NO_ANSWER: Final = b"CLUSTERDOWN The server that these slots are moved to does not answer"


def _code(text: bytes) -> str:
    return text.split(b" ", 1)[0].decode()


_LATER: Final = frozenset({_code(NO_MOVE), _code(BUSY)})
_CLEARED: Final = _code(CLEARED)
_TAKEN: Final = _code(TAKEN)
_REFUSED: Final = _code(REFUSED)
_FAILED: Final = _code(FAILED)
# What an answer becomes when the medium fails after the request was executed.
_UNCERTAIN: Final = frozenset({"IOERR", "OOM"})


class Failed(Exception):  # noqa: N818 - what becomes of a move, not a defect
    """A move was given up; nothing has changed.

    Attributes:
        code: One word, by which the controller decides.
        reason: The same for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Carrier:
    """One move under way.

    Args:
        node: The source.
        job_id, move: What is ordered.
        open_line: Connects to the target.
        is_ordered: Whether the map still orders the move.
        target_is_known: Whether the list of servers still has the target.
        holds: Where the times of holds are counted.
        rests: How long to rest after a step.
        on_flip: Called at the moment when the slots have gone, with their keys and bytes.
        log: The server's log.

    Attributes:
        is_flipped: Whether the slots have gone.
    """

    def __init__(
        self,
        node: Node,
        job_id: str,
        move: SlotMove,
        *,
        open_line: Callable[[], Any],
        is_ordered: Callable[[], bool],
        target_is_known: Callable[[], bool],
        holds: HoldTimes,
        rests: Rests,
        on_flip: Callable[[int, int], None],
        log: logging.Logger,
    ) -> None:
        self._node = node
        self._job_id = job_id
        self._space = node.keyspace.open(job_id)
        self._move = move
        self._open_line = open_line
        self._is_ordered = is_ordered
        self._target_is_known = target_is_known
        self._holds = holds
        self._rests = rests
        self._on_flip = on_flip
        self._log = log
        self._hold: Hold | None = None
        self._hold_began_s = 0.0
        self._outgoing: Outgoing | None = None
        self._sender: Sender | None = None
        self._bytes_total = 0
        # What the target knows of the job's scripts.
        self._scripts_sent = (0, 0)
        self.is_flipped = False

    def progress(self) -> tuple[int, int]:
        """How many bytes went to the target, and about how many there are."""
        done = 0 if self._sender is None else self._sender.sent_bytes
        return min(done, self._bytes_total), self._bytes_total

    async def run(self, line: Line) -> None:
        """Carry it out over a line.

        Raises:
            Failed: It cannot be.
            PeerError: The target is away; nothing has changed.
        """
        self._bytes_total = self._estimate()
        self._outgoing = outgoing = Outgoing(self._space, self._move)
        try:
            while not self._is_over():
                outgoing.begin()
                await self._begin(line)
                if self._is_over():
                    break
                self._sender = Sender(line, outgoing, self._rests)
                try:
                    await self._copy_and_take(line, self._sender)
                except RemoteError as error:
                    if error.code != _CLEARED:
                        raise _given_up(error) from error
        finally:
            # Whatever ends it, nobody is left waiting.
            self._end_hold()
            outgoing.close()

    async def _send_scripts(self, line: Line) -> None:
        """Have the target know the job's scripts and functions as they are now."""
        version = version_of(self._space)
        if version != self._scripts_sent:
            # Nothing else is asked meanwhile.
            await line.call("POCKETKV.SCRIPTS", *loaded(self._space))
            self._scripts_sent = version

    def _is_over(self) -> bool:
        """Whether there is nothing more to do: the slots have gone, or are not to go any more."""
        return self.is_flipped or not self._is_ordered()

    def _is_void(self, outgoing: Outgoing) -> bool:
        """Whether what was copied is of no use."""
        return outgoing.was_cleared or not self._is_ordered()

    def _estimate(self) -> int:
        """About what the job has in the slots."""
        space = self._space
        keys = sum(db.size for db in space.databases.values())
        moved = space.keys_between(self._move.start, self._move.end)
        return space.used_bytes * moved // max(1, keys)

    async def _begin(self, line: Line) -> None:
        """Have the target expect what comes."""
        deadline_s = time.monotonic() + _BEGIN_TIMEOUT_S
        while self._is_ordered():
            speaking = Waiter()
            beginning = Waiter()
            try:
                if line.job_id != self._job_id:
                    line.speak_for(self._job_id, self._node.secret, speaking)
                    line.post(["POCKETKV.MOVE", self._move.id], beginning)
                    await speaking.result()
                else:
                    line.post(["POCKETKV.MOVE", self._move.id], beginning)
                await beginning.result()
            except RemoteError as error:
                if error.code == _TAKEN:
                    self._flip()
                    return
                # A target that has not heard of the job refuses its token.
                is_late = error.code in _LATER or error.code == "WRONGPASS"
                if error.code == "WRONGPASS":
                    line.job_id = ""
                if not is_late or time.monotonic() > deadline_s:
                    raise _given_up(error) from error
                await trio.sleep(_RETRY_PAUSE_S)
            else:
                return

    async def _copy_and_take(self, line: Line, sender: Sender) -> None:
        outgoing = sender.outgoing
        await self._send_scripts(line)
        await sender.copy()
        try:
            await self._converge(sender)
            if self._is_void(outgoing):
                return
            if self._hold is None:
                await self._begin_hold()
            outgoing.is_held = True
            await self._send_scripts(line)
            await sender.send_held()
            if self._is_void(outgoing):
                return
            answer = Waiter()
            line.post(["POCKETKV.TAKE", self._move.id], self._on_taken(answer))
            # Everybody waits: not a turn of the reactor from now.
            line.send_now()
            await self._taken(answer, sender)
        finally:
            outgoing.is_held = False
            self._end_hold()

    async def _converge(self, sender: Sender) -> None:
        """Send what changes until little is left."""
        outgoing = sender.outgoing
        rounds = 0
        pause_s = _BRAKE_PAUSE_S
        while outgoing.dirty_bytes(_LAST_BYTES) > _LAST_BYTES:
            if self._is_void(outgoing):
                return
            rounds += 1
            if rounds <= _ROUNDS_MAX:
                await sender.send_dirty()
                continue
            # Clients change it as fast as it is sent: they get less time, and less.
            await self._begin_hold()
            outgoing.is_held = True
            await sender.send_some_held(_BRAKE_S)
            if outgoing.dirty_bytes(_LAST_BYTES) <= _LAST_BYTES:
                # What is held now stays so until the end.
                return
            outgoing.is_held = False
            self._end_hold()
            await trio.sleep(pause_s)
            pause_s /= 2

    # --- the last step -------------------------------------------------------------------------

    def _on_taken(self, answer: Waiter) -> Callable[[Any], None]:
        """What is called with the reply to TAKE, in the reactor's own turn: nobody waits longer."""

        def on_reply(reply: Any) -> None:
            if not isinstance(reply, PeerError):
                self._flip()
            answer(reply)

        return on_reply

    async def _taken(self, answer: Waiter, sender: Sender) -> None:
        """See to it that it is known whether the target has the slots.

        Raises:
            PeerError: It has not, or something of the last round was refused.
        """
        refusal: RemoteError | None = None
        with trio.move_on_after(HELD_MAX_S):
            try:
                await answer.result()
            except RemoteError as error:
                refusal = error
            except PeerError as error:
                self._log.warning(
                    "it is not known whether slots were taken",
                    extra={"job": self._job_id, "move": self._move.id, "error": str(error)},
                )
            else:
                return
        if self._is_over():
            return
        # Something of the last round was refused, and so was this.
        sender.raise_failure()
        if refusal is not None and refusal.code not in _UNCERTAIN:
            raise refusal
        await self._ask()

    async def _ask(self) -> None:
        """Ask whether the slots were taken until somebody knows.

        Raises:
            Failed: They were not, and will not be.
        """
        while self._is_ordered() and self._target_is_known():
            if time.perf_counter() - self._hold_began_s > HELD_MAX_S and self._hold is not None:
                self._hold.refuse(_NO_ANSWER)
            try:
                with trio.fail_after(_ASK_TIMEOUT_S):
                    line = await self._open_line()
                    try:
                        answer = await line.call("POCKETKV.TAKEN", self._move.id)
                    finally:
                        line.close()
            except (PeerError, trio.TooSlowError):
                await trio.sleep(5 * _RETRY_PAUSE_S)
                continue
            if answer == 1:
                self._flip()
                return
            break
        raise Failed("ABORTED", "the target did not answer in time, and has not taken the slots")

    # --- held ----------------------------------------------------------------------------------

    async def _begin_hold(self) -> None:
        # A script that has begun here ends here.
        while self._job_id in self._node.long_runs and self._is_ordered():  # noqa: ASYNC110
            await trio.sleep(_RETRY_PAUSE_S)
        self._hold_began_s = time.perf_counter()
        self._hold = Hold(self._space, self._move.start, self._move.end)

    def _end_hold(self) -> None:
        hold, self._hold = self._hold, None
        if hold is not None:
            # Before what was held is executed: that is service, not waiting.
            self._holds.add(time.perf_counter() - self._hold_began_s)
            hold.release()

    def _flip(self) -> None:
        """The slots have gone."""
        if self.is_flipped:
            return
        self.is_flipped = True
        move = self._move
        space = self._space
        moved_bytes = self._estimate()
        keys = space.give(move.start, move.end, given=False)
        self._node.topology.flip(self._job_id, [move.id])
        space.foreign_bytes += moved_bytes
        self._on_flip(keys, moved_bytes)
        self._end_hold()
        if space.observer is not None:
            # Who waits for something there is not held any more when it asks again.
            space.observer.left(space, move.start, move.end)
            self._node.settle_waiters()
        if space.pubsub is not None:
            space.pubsub.drop_foreign()
        empty_range(space, move.start, move.end)


def _given_up(error: RemoteError) -> Exception:
    """What an answer means for the move."""
    code, _, reason = str(error).partition(" ")
    if code == _FAILED:
        code, _, reason = reason.partition(" ")
    return Failed(code, reason or code)
