"""Keys that outlive their job: marking them, and taking them over from the server that had them.

`JOB.RETAIN` marks keys where they are. Before the first key of a job is marked on a server, the
controller has to know that the job retains something, since it decides what becomes of the job
when it ends; so a mark that was acknowledged is never forgotten.

When the job has ended, each of its servers sends its marked keys to one server of a file tier with
``POCKETKV.ADOPT``, in pieces (see `pocketkv.engine.transfer`); whoever was interrupted begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv.engine.errors import BUSY, JOB_ENDED, CommandError, no_permission, wrong_arity
from pocketkv.engine.gate import check_memory, check_store, run
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.pauses import complete_with
from pocketkv.engine.transfer import FIELDS, receive
from pocketkv.resp.replies import Deferred, ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

# Has the controller know that a job retains keys, and is told when it does, or why it does not.
Retaining: TypeAlias = "Callable[[str, Callable[[CommandError | None], None]], None]"

_DEFAULT_STAYS: Final = b"ERR the job 'default' never ends, so its keys are retained anyway"
_NO_CONTROLLER: Final = b"ERR keys cannot be retained: this server is in no cluster"


# --- marking -----------------------------------------------------------------------------------


def retain(session: Session, request: list[bytes]) -> Reply:
    """JOB.RETAIN: mark keys of a session's job; how many of them exist.

    Raises:
        CommandError: There is nothing that could outlive the job, or it never ends.
    """
    if session.job_id == DEFAULT_JOB:
        raise CommandError(_DEFAULT_STAYS)
    if session.space.retains:
        return _mark(session.db, request[1:])
    retaining = session.node.retaining
    if retaining is None:
        raise CommandError(_NO_CONTROLLER)
    asking = _Asking(session, request)
    retaining(session.job_id, asking.on_answer)
    return asking.deferred


def _mark(db: Database, keys: list[bytes]) -> int:
    marked = 0
    for key in keys:
        if db.mark(key):
            marked += 1
    return marked


class _Asking:
    """A request that waits for the controller to know of it."""

    __slots__ = ("_request", "_session", "_space", "deferred")

    def __init__(self, session: Session, request: list[bytes]) -> None:
        self._session = session
        self._space = session.space
        self._request = request
        self.deferred = Deferred(exclusive=True)

    def on_answer(self, error: CommandError | None) -> None:
        """The controller knows, or refuses."""
        if error is None and self._space.read_only:
            error = CommandError(JOB_ENDED)
        if error is not None:
            self.deferred.complete(ErrorReply(error.text))
            return
        self._space.retains = True
        # By now the keys may be another server's.
        reply = run(self._session, self._request)
        failure = self._session.node.commit()
        complete_with(self.deferred, reply if failure is None else failure)


# --- taking over -------------------------------------------------------------------------------


def adopt(session: Session, request: list[bytes]) -> Reply:
    """Take pieces of values (see `transfer`); how many there were.

    Raises:
        CommandError: The connection is not that of a server of ours, this is not the server that
            is to keep what the job left, or there is no room.
    """
    node = session.node
    placement = node.topology.placements.get(session.job_id)
    if not session.proxied or placement is None or placement.retire_to != node.id:
        raise no_permission("pocketkv.adopt")
    pieces, rest = divmod(len(request) - 1, FIELDS)
    if rest:
        raise wrong_arity("pocketkv.adopt")
    if session.space.unclean:
        # What is taken now would be removed with what is left of slots that had gone.
        raise CommandError(BUSY)
    check_store(session)
    check_memory(session, request)
    for start in range(1, len(request), FIELDS):
        _adopt_piece(session, request[start : start + FIELDS])
    return pieces


def _adopt_piece(session: Session, fields: list[bytes]) -> None:
    found = receive(session.space, fields)
    if found is not None:
        db, key = found
        db.mark(key)
