"""Sends the keys of slots that are moved, as `pocketkv.engine.moving.Outgoing` says.

It works in short steps: between two of them the reactor serves clients, and the more they keep it
busy, the longer the next step may be beside them; where they lack the processor, it rests as well.
Small values go many in a request; large strings are sent by the system from where they stand, and
read from a device by whoever may wait.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

import trio

from pocketkv import limits
from pocketkv.engine.cold import CHANGE, DELETE, EXPIRE, Cold
from pocketkv.engine.database import Database
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.moving import Outgoing
from pocketkv.engine.packing import pack
from pocketkv.engine.transfer import MARK, PIECE_BYTES, pieces_of
from pocketkv.engine.values import Collection, Entry, Value
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.slots import key_slot
from pocketkv.tiers.line import Argument, Line
from pocketkv.tiers.resting import Rests
from pocketkv.tiers.sending import loaded

# A request is sent when it has so many bytes, or pieces.
_REQUEST_BYTES: Final = limits.MIB // 4
_REQUEST_PIECES: Final = 256
# Of a large string, so much is one request.
_PART_BYTES: Final = 16 * limits.MIB
# How long the answers to what was sent while commands are held are waited for.
_HELD_ANSWER_S: Final = 0.02
# What may be on its way and not answered, so that the target always has something to do.
_WINDOW_BYTES: Final = 2 * limits.MIB
# Both while clients need the processor: after each, everybody rests.
_RESTING_BYTES: Final = limits.MIB // 2
# How long a step takes at least, and at most; and how much of the time that clients took since the
# last one.
_STEP_MIN_S: Final = 0.00015
_STEP_MAX_S: Final = 0.001
_STEP_SHARE: Final = 0.5


class Sender:
    """Sends what one move has to send.

    Args:
        line: To the target, in the job.
        outgoing: What there is to send.
        rests: How long to rest after a step.

    Attributes:
        sent_bytes, sent_keys: What was sent so far, with what was sent again.
        unreadable: Keys whose values cannot be read, and so go nowhere.
    """

    def __init__(self, line: Line, outgoing: Outgoing, rests: Rests) -> None:
        self.line = line
        self.outgoing = outgoing
        self._rests = rests
        self.sent_bytes = 0
        self.sent_keys = 0
        self.unreadable = 0
        self._move_id = outgoing.move.id
        self._fields: list[Argument] = []
        self._size_bytes = 0
        self._pieces = 0
        self._unanswered = 0
        self._failure: PeerError | None = None
        self._answered = trio.Event()
        self._step_s = _STEP_MIN_S
        self._step_began_s = time.perf_counter()

    # --- what goes where -----------------------------------------------------------------------

    async def copy(self) -> None:
        """Send every key once.

        Raises:
            PeerError: The target refuses, or is not there.
        """
        outgoing = self.outgoing
        while not outgoing.was_cleared:
            found = outgoing.next_copied()
            if found is None:
                break
            await self._send_value(*found)
            await self._step()
        self.flush()
        await self.answered()

    async def send_dirty(self) -> None:
        """Send once more what has changed by now.

        Raises:
            PeerError: As `copy`.
        """
        left = deque(self.outgoing.take_dirty())
        while left and not self.outgoing.was_cleared:
            db, key, is_value = left.popleft()
            await self._send_changed(db, key, is_value=is_value)
            await self._step()
        self.flush()
        await self.answered()

    async def send_held(self) -> None:
        """Send all that has changed, while nothing more does; nobody is let in between.

        Raises:
            PeerError: As `copy`.
        """
        for db, key, is_value in self.outgoing.take_dirty():
            await self._send_changed(db, key, is_value=is_value)
        self.flush()

    async def send_some_held(self, time_s: float) -> None:
        """The same for so long; then what was sent is waited for, if it takes no longer."""
        left = self.outgoing.take_dirty()
        began_s = time.perf_counter()
        while left and time.perf_counter() - began_s < time_s:
            db, key, is_value = left.pop()
            await self._send_changed(db, key, is_value=is_value)
        self.outgoing.put_back(left)
        self.flush()
        with trio.move_on_after(_HELD_ANSWER_S):
            await self.answered()

    async def _send_changed(self, db: Database, key: bytes, *, is_value: bool) -> None:
        if is_value:
            await self._send_value(db, key)
        elif db.find_stored(key) is None:
            self._add(db, key, DELETE)
        else:
            self._add(db, key, EXPIRE)

    async def _send_value(self, db: Database, key: bytes) -> None:
        entry = db.find_stored(key)
        if entry is None or not db.live(key, key_slot(key)):
            self._add(db, key, DELETE)
            return
        self.sent_keys += 1
        try:
            await self._send_entry(db, key, entry)
        except CommandError:
            # The source has lost it as well: it must not be found at the target as it was before.
            if db.find_stored(key) is entry:
                self.unreadable += 1
            self._add(db, key, DELETE)
            return
        if db.marks is not None and key in db.marks:
            self._add(db, key, MARK)

    async def _send_entry(self, db: Database, key: bytes, entry: Entry) -> None:
        value = await loaded(db, key, entry) if isinstance(entry, Cold) else entry
        if isinstance(value, LargeString):
            await self._send_large(db, key, value)
        elif isinstance(value, Collection):
            await self._send_collection(db, key, value)
        else:
            self._send_pieces(db, key, value)

    def _send_pieces(self, db: Database, key: bytes, value: Value) -> None:
        for kind, total, offset, piece in pieces_of(value):
            self._add(db, key, kind, total, offset, piece)

    async def _send_collection(self, db: Database, key: bytes, value: Collection) -> None:
        changes = self.outgoing.changes_of(db, key, value)
        if changes is not None:
            # It may have to be read at the target, so it stands alone.
            self.flush()
            self._add(db, key, CHANGE, 0, 0, pack(changes))
            self.flush()
            return
        if value.size_bytes <= PIECE_BYTES:
            self._send_pieces(db, key, value)
            return
        self.outgoing.track(db, key, value)
        for kind, total, offset, piece in pieces_of(value):
            self._add(db, key, kind, total, offset, piece)
            if not self.outgoing.is_held:
                await self._step()

    async def _send_large(self, db: Database, key: bytes, value: LargeString) -> None:
        """Send a large string, or what was written of it since it was sent."""
        start = self.outgoing.written_from(db, key, value)
        self.outgoing.track(db, key, value)
        self.flush()
        total = len(value)
        due_ms = db.expiry_ms(key) or 0
        while True:
            part_bytes = _RESTING_BYTES if self._rests.are_taken else _PART_BYTES
            stop = min(start + part_bytes, total)
            if start == stop:
                # Nothing of it was written: only when it expires may be another.
                self._add(db, key, EXPIRE)
                return
            part = value.reference_bulk(start, stop)
            head: list[Argument] = ["POCKETKV.COPYLARGE", self._move_id, db.index, key, due_ms]
            self._post([*head, total, start, part], stop - start)
            start = stop
            if start == total:
                return
            if not self.outgoing.is_held:
                await self._step(part_bytes)

    # --- requests ------------------------------------------------------------------------------

    def _add(
        self,
        db: Database,
        key: bytes,
        kind: int,
        total: int = 0,
        offset: int = 0,
        piece: bytes = b"",
    ) -> None:
        due_ms = db.expiry_ms(key) or 0
        self._fields += [db.index, key, kind, due_ms, total, offset, piece]
        self._size_bytes += len(key) + len(piece)
        self._pieces += 1
        if self._size_bytes >= _REQUEST_BYTES or self._pieces >= _REQUEST_PIECES:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if self._pieces:
            fields, size = self._fields, self._size_bytes
            self._fields, self._size_bytes, self._pieces = [], 0, 0
            self._post(["POCKETKV.COPY", self._move_id, *fields], size)

    def _post(self, arguments: list[Argument], size: int) -> None:
        self.sent_bytes += size
        self._unanswered += 1
        self.line.post(arguments, self._on_reply)

    def _on_reply(self, reply: Any) -> None:
        self._unanswered -= 1
        if isinstance(reply, PeerError) and self._failure is None:
            self._failure = reply
        self._answered.set()

    # --- taking turns --------------------------------------------------------------------------

    async def _step(self, window_bytes: int = _WINDOW_BYTES) -> None:
        """Let others have their turn, if it is time; no more than this may be unanswered then."""
        now_s = time.perf_counter()
        is_full = self.line.outstanding_bytes > window_bytes
        if now_s - self._step_began_s < self._step_s and not is_full and self._failure is None:
            return
        self.flush()
        # Clients have their turn, but nobody waits for more of them.
        self.line.reactor.let_tasks_run()
        await trio.lowlevel.checkpoint()
        # How long the reactor had the thread tells how much there is to do for clients.
        busy_s = time.perf_counter() - now_s
        self._step_s = min(max(_STEP_SHARE * busy_s, _STEP_MIN_S), _STEP_MAX_S)
        self.raise_failure()
        if self._rests.are_taken:
            window_bytes = min(window_bytes, _RESTING_BYTES)
        while self.line.outstanding_bytes > window_bytes:
            await self._wait_answer()
            self.raise_failure()
        rest_s = self._rests.after_s(time.perf_counter() - self._step_began_s)
        if rest_s > 0:
            await trio.sleep(rest_s)
        self._step_began_s = time.perf_counter()

    async def answered(self) -> None:
        """Wait until everything that was sent was taken.

        Raises:
            PeerError: Something was not.
        """
        await trio.lowlevel.checkpoint()
        while self._unanswered and self._failure is None:
            await self._wait_answer()
        self.raise_failure()

    async def _wait_answer(self) -> None:
        if self._unanswered and self._failure is None:
            self._answered = trio.Event()
            await self._answered.wait()

    def raise_failure(self) -> None:
        """Tell what was refused.

        Raises:
            PeerError: Why.
        """
        failure = self._failure
        if isinstance(failure, RemoteError):
            raise RemoteError(str(failure))
        if failure is not None:
            raise PeerError(str(failure))
