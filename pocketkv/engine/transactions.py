"""MULTI: requests that are kept until EXEC executes all of them, with nothing in between.

A session has a `Transaction` from MULTI to EXEC, DISCARD or RESET. Meanwhile the gate refuses what
it always refuses, and leaves the rest to the transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.calling import call, require_ready
from pocketkv.engine.errors import CommandError, discarded_because
from pocketkv.engine.fetching import forget
from pocketkv.engine.long_runs import BUSY_SCRIPT, LongRun, run_sliced
from pocketkv.engine.sinks import charged_bytes
from pocketkv.lua.slices import Work
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import (
    NULL_ARRAY,
    QUEUED,
    Deferred,
    Encoded,
    ErrorReply,
    FileBulk,
    Marker,
    Reply,
    Simple,
)

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.commands import Command
    from pocketkv.engine.session import Session

_ABORTED: Final = b"EXECABORT Transaction discarded because of previous errors."
_NOT_ALLOWED: Final = b"ERR Command not allowed inside a transaction"
_QUEUE_FULL: Final = b"OOM the transaction takes more memory than one may"
# What is executed at once, in a transaction too.
_NOT_QUEUED: Final = frozenset(("multi", "exec", "discard", "watch", "quit", "reset"))
# Replies of these types are as they are, whatever happens before they are sent.
_FIRM: Final = (bytes, int, Simple, ErrorReply, FileBulk, Encoded, Marker, type(None))
# What Redis keeps of each command beside its arguments.
_COMMAND_BYTES: Final = 24

Queue = list[tuple["Command", list[bytes]]]


class Transaction:
    """The requests since MULTI.

    Attributes:
        queue: The requests with their records, in order.
        size_bytes: Of their arguments.
        failed: Whether one was refused, so that none will be executed.
    """

    __slots__ = ("failed", "queue", "size_bytes")

    def __init__(self) -> None:
        self.queue: Queue = []
        self.size_bytes = 0
        self.failed = False

    def __len__(self) -> int:
        return len(self.queue)

    def keeps(self, command: Command) -> bool:
        """Whether a command waits for EXEC."""
        return command.name not in _NOT_QUEUED

    def enqueue(self, session: Session, command: Command, request: list[bytes]) -> Reply:
        """Keep a request until EXEC.

        Raises:
            CommandError: It is not allowed in a transaction, or there are too many.
        """
        if "no_multi" in command.flags:
            raise CommandError(_NOT_ALLOWED)
        watch = session.watch
        if self.failed or (watch is not None and watch.is_broken):
            # None will be executed.
            return QUEUED
        # Large strings are charged to the job.
        size_bytes = sum(map(len, request)) - charged_bytes(request)
        self.size_bytes += size_bytes + _COMMAND_BYTES
        if self.size_bytes > limits.TRANSACTION_BYTES_MAX:
            raise CommandError(_QUEUE_FULL)
        self.queue.append((command, request))
        return QUEUED

    def refused(self, session: Session, name: bytes, text: bytes) -> bytes:
        """What a request is told that was refused; the transaction fails by it."""
        self.failed = True
        self.queue.clear()
        if name.upper() != b"EXEC":
            return text
        discard(session)
        return discarded_because(text)


def discard(session: Session) -> None:
    """Forget a transaction, and what is watched for it."""
    session.transaction = None
    session.unwatch()


def execute(session: Session) -> Reply:
    """EXEC.

    Raises:
        CommandError: Nothing was executed, and the transaction is over.
        Held, NoRoom, NotResident: Nothing was executed yet; it waits.
    """
    transaction = session.transaction
    assert transaction is not None  # The caller has looked.
    if transaction.failed:
        discard(session)
        raise CommandError(_ABORTED)
    try:
        reply = execute_all(session, transaction.queue)
    except CommandError as error:
        raise CommandError(transaction.refused(session, b"EXEC", error.text)) from None
    discard(session)
    return reply


def execute_all(session: Session, queue: Queue) -> Reply:
    """Execute requests with nothing in between, unless a watched key has changed.

    Whatever they are known to need is waited for before the first one is executed.

    Returns:
        The replies, as an array; the null array if a watched key has changed.

    Raises:
        CommandError: One of them cannot be executed; none was.
        Held, NoRoom, NotResident: None was executed yet; the caller waits and calls again.
    """
    watch = session.watch
    if watch is not None and watch.is_broken_now():
        session.unwatch()
        return NULL_ARRAY
    at_hand = require_ready(session, queue)
    session.unwatch()
    if any(command.group == "scripting" for command, _ in queue):
        # They may take long, and nothing of the job may come in between.
        session.long_run = LongRun(session.node)
        execution = _Execution(session, queue, at_hand)
        return run_sliced(session.long_run, execution, session, [b"EXEC"], BUSY_SCRIPT)
    return _execute_queue(session, queue, at_hand)


class _Execution(Work):
    """The execution of a transaction, as work that may take long."""

    __slots__ = ("_at_hand", "_queue", "_session")

    def __init__(self, session: Session, queue: Queue, at_hand: list[PendingRead]) -> None:
        self._session = session
        self._queue = queue
        self._at_hand = at_hand

    def do(self) -> object:
        """The replies."""
        return _execute_queue(self._session, self._queue, self._at_hand)


def _execute_queue(session: Session, queue: Queue, at_hand: list[PendingRead]) -> Reply:
    """Execute requests for which everything is at hand."""
    session.denies_blocking = True
    session.in_exec = True
    replies: list[Reply] = []
    protocol = session.protocol
    try:
        for command, request in queue:
            replies.append(_firm(call(session, command, request), session.protocol))
            if session.protocol != protocol:
                # HELLO in the middle concerns what comes after it.
                replies[:-1] = [_encoded(reply, protocol) for reply in replies[:-1]]
                protocol = session.protocol
    finally:
        session.denies_blocking = False
        session.in_exec = False
        session.long_run = None
        forget(at_hand)
    if any(isinstance(reply, Deferred) for reply in replies):
        return _when_known(replies)
    return replies


def _firm(reply: Reply, protocol: int) -> Reply:
    """A reply that what is executed after it does not change."""
    return reply if isinstance(reply, (*_FIRM, Deferred)) else _encoded(reply, protocol)


def _encoded(reply: Reply, protocol: int) -> Reply:
    if isinstance(reply, FileBulk | Deferred | Encoded):
        return reply
    return Encoded(encode_reply(reply, protocol))


def _when_known(replies: list[Reply]) -> Deferred:
    """The array of replies of which some are still to come."""
    waits_for = [reply for reply in replies if isinstance(reply, Deferred)]

    def abandon() -> None:
        for deferred in waits_for:
            deferred.abandon()

    def on_known() -> None:
        if all(deferred.done for deferred in waits_for):
            whole.complete([r.reply if isinstance(r, Deferred) else r for r in replies])

    whole = Deferred(exclusive=True, on_abandon=abandon)
    for deferred in waits_for:
        deferred.listen(on_known)
    return whole
