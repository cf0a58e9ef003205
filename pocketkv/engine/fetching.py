"""Commands that need values which are not in memory: only their client waits.

The values are read by whoever may wait (`Node.fetcher`), and then the command is executed again.
It must not have changed anything before: a write that names several keys is looked at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from pocketkv import limits
from pocketkv.engine.cold import CHANGED_STRING, NO_STEPS, STRING, Cold, NotResident
from pocketkv.engine.errors import CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.pauses import complete_with
from pocketkv.engine.shelf import StoredRead
from pocketkv.resp.replies import Deferred, ErrorReply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.commands import Command
    from pocketkv.engine.database import Database
    from pocketkv.engine.pauses import Resume
    from pocketkv.engine.session import Session

# Has things read where that may take long, and is told what was read, or why not.
Done: TypeAlias = "Callable[[list[bytes | CommandError]], None]"
# Goes through steps between others' commands, and then calls something.
Stepper: TypeAlias = "Callable[[Iterator[None], Callable[[], None]], None]"
Fetcher: TypeAlias = "Callable[[list[PendingRead], Done], None]"


def require_resident(session: Session, command: Command, request: list[bytes]) -> list[PendingRead]:
    """Have every value that a command names at hand, where it could be changed half way.

    Returns:
        What is kept for the command, to be forgotten after it (`forget`).

    Raises:
        NotResident: Some are not.
        CommandError: IOERR: one cannot be had.
    """
    at_hand: list[PendingRead] = []
    if command.needs_values and not command.single_key and len(command.keys.positions(request)) > 1:
        try:
            missing = _missing(session, command, request, at_hand)
        except CommandError:
            forget(at_hand)
            raise
        if missing:
            forget(at_hand)
            raise NotResident(missing)
    return at_hand


def forget(reads: list[PendingRead]) -> None:
    """What was kept for a command is not needed any more."""
    for read in reads:
        read.forget()


def missing_string(db: Database, key: bytes) -> list[PendingRead]:
    """What has to be read before a string can be had, if the last one had to be read as well.

    To be told so costs less than a command that is left (`NotResident`); but where strings are in
    memory, it would be one look more.

    Raises:
        CommandError: IOERR: it cannot be had.
    """
    shelf = db.shelf
    if shelf is None or not shelf.is_cold or shelf.fetched:
        return []
    entry = db.find_stored(key)
    if not isinstance(entry, Cold) or (entry.kind != STRING and entry.kind != CHANGED_STRING):
        return []
    cold = entry
    shelf.is_cold = shelf.journal.read_now(cold) is None
    return [StoredRead(shelf, cold)] if shelf.is_cold else []


def _missing(
    session: Session, command: Command, request: list[bytes], at_hand: list[PendingRead]
) -> list[PendingRead]:
    """What has to be read for the keys that a command names; `at_hand` gets what need not be."""
    db = session.db
    shelf = db.shelf
    assert shelf is not None  # The callers have looked.
    found: list[PendingRead] = []
    for position in command.keys.positions(request):
        key = request[position]
        entry = db.find_stored(key)
        if isinstance(entry, Cold):
            found += shelf.missing(key, entry, at_hand)
        elif isinstance(entry, LargeString):
            found += entry.missing(0, min(len(entry), limits.FETCH_FIRST_BYTES))
    return found


def fetch(
    session: Session,
    command: Command,
    request: list[bytes],
    reads: list[PendingRead],
    resume: Resume,
) -> Deferred:
    """Have values read and the command executed then; its reply, which is still to come."""
    waiting = Waiting(session, request, resume)
    if (
        session.db.shelf is not None
        and not command.single_key
        and len(command.keys.positions(request)) > 1
    ):
        # What else it will ask for is read at the same time.
        at_hand: list[PendingRead] = []
        try:
            reads = list(dict.fromkeys([*reads, *_missing(session, command, request, at_hand)]))
        finally:
            # It is looked for again when the command is executed.
            forget(at_hand)
    waiting.begin(reads)
    return waiting


def fetch_string(
    session: Session,
    command: Command,
    request: list[bytes],
    reads: list[PendingRead],
    resume: Resume,
) -> Deferred:
    """`fetch`, for a GET of what `missing_string` has found to be missing."""
    waiting = WaitingString(session, command, request, resume)
    waiting.begin(reads)
    return waiting


class Waiting(Deferred):
    """The reply to a command that waits for values; made by `fetch`."""

    __slots__ = ("_gone", "_reads", "_request", "_resume", "_session")

    def __init__(self, session: Session, request: list[bytes], resume: Resume) -> None:
        self._wait(session, request, resume)

    def _wait(self, session: Session, request: list[bytes], resume: Resume) -> None:
        """What `__init__` does, for less."""
        self._begin(True, None)
        self._session = session
        self._request = request
        self._resume = resume
        self._reads: list[PendingRead] = []
        self._gone = False

    def begin(self, reads: list[PendingRead]) -> None:
        """Have these values read, and then the command executed."""
        self._reads = reads
        node = self._session.node
        fetcher = node.fetcher
        assert fetcher is not None  # A node with a store has one.
        fetcher(reads, self._on_read)

    def abandon(self) -> None:
        """The client is gone: what is being read is of no use."""
        super().abandon()
        self._gone = True

    def _on_read(self, results: list[bytes | CommandError]) -> None:
        if self._gone:
            self._forget()
            return
        for index, pending in enumerate(self._reads):
            result = results[index]
            if not pending.keep(result):
                assert isinstance(result, CommandError)
                self._forget()
                self.complete(ErrorReply(result.text))
                return
        # What takes many steps is done between others' commands.
        steps = [made for read in self._reads if (made := read.prepare()) is not NO_STEPS]
        if steps:
            self._take(chain.from_iterable(steps))
        else:
            self._execute()

    def _take(self, steps: Iterator[None]) -> None:
        """Go through steps, then execute the command."""
        stepper = self._session.node.stepper
        if stepper is not None:
            stepper(steps, self._execute)
            return
        for _ in steps:
            pass
        self._execute()

    def _execute(self) -> None:
        if self._gone:
            self._forget()
            return
        reply = self._resume(self._session, self._request)
        error = self._session.node.commit()
        if error is not None:
            reply = error
        if isinstance(reply, Deferred):
            # It needs more than was known, and then all of it.
            reply.listen(self._forget)
            complete_with(self, reply)
        else:
            self._forget()
            self.complete(reply)

    def _forget(self) -> None:
        """What was read is in memory now, or not needed any more."""
        # Whoever reads may refer to this object for long, and what was read may keep a file open.
        reads, self._reads = self._reads, []
        forget(reads)


class WaitingString(Waiting):
    """The reply to a GET that waits for one string; made by `fetch_string`.

    As a rule it is what was read, and there is nothing to do but to count the call.
    """

    __slots__ = ("_command",)

    def __init__(
        self, session: Session, command: Command, request: list[bytes], resume: Resume
    ) -> None:
        self._wait(session, request, resume)
        self._command = command

    def _on_read(self, results: list[bytes | CommandError]) -> None:
        payload = results[0]
        if self._gone or type(payload) is not bytes or not self._is_simple():
            Waiting._on_read(self, results)
            return
        session = self._session
        node = session.node
        started_ns = node.stopwatch.now_ns()
        stored = self._reads[0]
        assert isinstance(stored, StoredRead)  # It was made so.
        cold = stored.cold
        # It may have been changed, moved to another server, or expire now.
        if cold.kind != STRING or stored.shelf.db.find(self._request[1]) is not cold:
            Waiting._on_read(self, results)
            return
        session.space.stats.hits += 1
        session.last_active_ms = node.clock.now_ms
        duration_ns = node.stopwatch.now_ns() - started_ns
        node.record_call(session, self._command, self._request, duration_ns, payload)
        self._reads = []
        self.complete(payload)

    def _is_simple(self) -> bool:
        """Whether nothing has to be minded but the key."""
        session = self._session
        node = session.node
        space = session.space
        return not (
            session.attended
            or session.guarded
            or session.reply_off
            or session.reply_skip
            or session.transaction is not None
            or node.long_runs
            or node.pauses
        ) and (space.owns_all or space.owned[key_slot(self._request[1])] > 0)
