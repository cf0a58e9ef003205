"""Keys that outlive their job: marking them, and taking them over from the server that had them.

`JOB.RETAIN` marks keys where they are. Before the first key of a job is marked on a server, the
controller has to know that the job retains something, since it decides what becomes of the job
when it ends; so a mark that was acknowledged is never forgotten.

When the job has ended, each of its servers sends its marked keys to one server of a file tier with
``POCKETKV.ADOPT``: small values whole and many at a time, others in pieces. A value that is sent
again replaces what came of it before, so whoever was interrupted begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv import limits
from pocketkv.engine.arguments import parse_int
from pocketkv.engine.cold import CHANGED_STRING, LARGE, STRING
from pocketkv.engine.errors import JOB_ENDED, CommandError, no_permission, wrong_arity
from pocketkv.engine.gate import check_memory, check_store
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.packing import PayloadError
from pocketkv.engine.payloads import collection
from pocketkv.resp.replies import Deferred, ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session
    from pocketkv.engine.values import Value

# Has the controller know that a job retains keys, and is told when it does, or why it does not.
Retaining: TypeAlias = "Callable[[str, Callable[[CommandError | None], None]], None]"

# What tells of one piece: database, key, kind, due time, total size, offset, bytes.
ADOPT_FIELDS: Final = 7
_STRINGS: Final = frozenset({STRING, CHANGED_STRING, LARGE})

_DEFAULT_STAYS: Final = b"ERR the job 'default' never ends, so its keys are retained anyway"
_NO_CONTROLLER: Final = b"ERR keys cannot be retained: this server is in no cluster"
_OUT_OF_ORDER: Final = b"ERR a piece does not follow the one before it"
_NOT_A_VALUE: Final = b"ERR the pieces make no value"


# --- marking -----------------------------------------------------------------------------------


def retain(session: Session, keys: list[bytes]) -> Reply:
    """Mark keys of a session's job; how many of them exist.

    Raises:
        CommandError: There is nothing that could outlive the job, or it never ends.
    """
    if session.job_id == DEFAULT_JOB:
        raise CommandError(_DEFAULT_STAYS)
    if session.space.retains:
        return _mark(session.db, keys)
    retaining = session.node.retaining
    if retaining is None:
        raise CommandError(_NO_CONTROLLER)
    asking = _Asking(session, keys)
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

    __slots__ = ("_db", "_keys", "_session", "_space", "deferred")

    def __init__(self, session: Session, keys: list[bytes]) -> None:
        self._session = session
        self._space = session.space
        self._db = session.db
        self._keys = keys
        self.deferred = Deferred(exclusive=True)

    def on_answer(self, error: CommandError | None) -> None:
        """The controller knows, or refuses."""
        if error is None and self._space.read_only:
            error = CommandError(JOB_ENDED)
        if error is not None:
            self.deferred.complete(ErrorReply(error.text))
            return
        self._space.retains = True
        reply: Reply = _mark(self._db, self._keys)
        failure = self._session.node.commit()
        self.deferred.complete(reply if failure is None else failure)


# --- taking over -------------------------------------------------------------------------------


def adopt(session: Session, request: list[bytes]) -> Reply:
    """Take pieces of values, as `ADOPT_FIELDS` says; how many there were.

    Raises:
        CommandError: The connection is not that of a server of ours, this is not the server that
            is to keep what the job left, or there is no room.
    """
    node = session.node
    placement = node.topology.placements.get(session.job_id)
    if not session.proxied or placement is None or placement.retire_to != node.id:
        raise no_permission("pocketkv.adopt")
    pieces, rest = divmod(len(request) - 1, ADOPT_FIELDS)
    if rest:
        raise wrong_arity("pocketkv.adopt")
    check_store(session)
    check_memory(session, request)
    for start in range(1, len(request), ADOPT_FIELDS):
        _adopt_piece(session, request[start : start + ADOPT_FIELDS])
    return pieces


def _adopt_piece(session: Session, fields: list[bytes]) -> None:
    key, piece = fields[1], fields[6]
    kind, due_ms, total, offset = [parse_int(field) for field in fields[2:6]]
    db = session.space.database(parse_int(fields[0]))
    if 0 < due_ms <= db.clock.now_ms:
        # Its time has come on the way.
        db.remove(key)
        return
    keyspace = session.node.keyspace
    if kind in _STRINGS and total >= limits.EXTENT_BYTES_MIN and keyspace.keeps_large:
        _adopt_large(session, db, key, offset, piece)
        if offset == 0:
            _settle(db, key, due_ms)
        return
    if offset or len(piece) < total:
        whole = _assembled(session, (db.index, key), total, offset, piece)
        if whole is None:
            return
        piece = whole
    db.put(key, _value(kind, piece))
    _settle(db, key, due_ms)


def _settle(db: Database, key: bytes, due_ms: int) -> None:
    """What comes with a value that was put."""
    if due_ms:
        db.set_expiry(key, due_ms)
    db.mark(key)


def _adopt_large(session: Session, db: Database, key: bytes, offset: int, piece: bytes) -> None:
    """Write a piece of a large string where it is to stay."""
    if offset == 0:
        string = session.node.keyspace.new_string(session.job_id)
        assert string is not None  # The caller has looked.
        string.write(0, piece)
        db.put(key, string)
        return
    value = db.find_stored(key)
    if not isinstance(value, LargeString) or len(value) != offset:
        raise CommandError(_OUT_OF_ORDER)
    cost_bytes = value.size_bytes
    try:
        value.write(offset, piece)
    finally:
        db.modified(key, value.size_bytes - cost_bytes)


def _assembled(
    session: Session, place: tuple[int, bytes], total: int, offset: int, piece: bytes
) -> bytes | None:
    """What pieces of a value that is held in memory make, once all are there."""
    adopting = session.space.adopting
    if offset == 0:
        adopting[place] = bytearray()
    held = adopting.get(place)
    if held is None or len(held) != offset or offset + len(piece) > total:
        raise CommandError(_OUT_OF_ORDER)
    held += piece
    if len(held) < total:
        return None
    del adopting[place]
    return bytes(held)


def _value(kind: int, payload: bytes) -> Value:
    if kind in _STRINGS:
        return payload if kind == STRING else bytearray(payload)
    try:
        return collection(kind, payload)
    except PayloadError as error:
        raise CommandError(_NOT_A_VALUE) from error
