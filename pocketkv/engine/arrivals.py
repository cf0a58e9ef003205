"""Slots that come from another server: the target's side of a move (see `moving`).

The source speaks on a connection that has proved to be one of the cluster's, in the job:

    POCKETKV.MOVE move                          begin, or begin anew
    POCKETKV.COPY move piece ...                take pieces (see `transfer`)
    POCKETKV.COPYLARGE move database key due-ms total offset bytes
                                                take a part of a large string where it stays
    POCKETKV.TAKE move                          serve the slots from now on
    POCKETKV.TAKEN move                         1 if that was done; 0: it never will be

Which slots a move has, and from where to where, says this server's own map and nobody else. After
anything of a move has failed, it cannot be taken: the source begins it anew, or gives it up.
Errors begin with a code of their own, by which the source decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.emptying import empty_foreign, is_clean
from pocketkv.engine.errors import BUSY, OUT_OF_MEMORY, CommandError, no_permission, wrong_arity
from pocketkv.engine.gate import check_store
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.moving import Incoming
from pocketkv.engine.sinks import RefusedString
from pocketkv.engine.spilling import NoRoom
from pocketkv.engine.transfer import FIELDS, receive, receive_large
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.session import Session

NO_MOVE: Final = b"NOMOVE the map that is known here does not order this move"
TAKEN: Final = b"TAKEN the move was carried out"
REFUSED: Final = b"REFUSED the move was given up"
FAILED: Final = b"FAILED "


def begin(session: Session, request: list[bytes]) -> Reply:
    """POCKETKV.MOVE.

    Raises:
        CommandError: NOMOVE, BUSY: not yet; TAKEN, REFUSED: not any more.
    """
    space, move_id = _named(session, request)
    placement = session.node.topology.placements.get(session.job_id)
    if placement is None:
        raise CommandError(NO_MOVE)
    if move_id in placement.flips:
        raise CommandError(TAKEN)
    if move_id in space.refused_moves:
        raise CommandError(REFUSED)
    move = placement.move(move_id)
    if move is None or move.target != session.node.id:
        raise CommandError(NO_MOVE)
    known = space.incoming.get(move_id)
    if known is not None:
        known.drop()
    else:
        # What a process that is no more, or an earlier move, has left here.
        empty_foreign(space)
    if not is_clean(space, move.start, move.end):
        raise CommandError(BUSY)
    check_store(session)
    Incoming(space, move)
    return OK


def copy(session: Session, request: list[bytes]) -> Reply:
    """POCKETKV.COPY: how many pieces were taken.

    Raises:
        CommandError: The move failed; the reason's code is its own (OOM: there is no room).
        NoRoom: There may be soon.
        NotResident: Something is read first.
    """
    incoming = _incoming(session, request)
    pieces, rest = divmod(len(request) - 2, FIELDS)
    if rest:
        raise wrong_arity("pocketkv.copy")
    _check_room(session, incoming, sum(map(len, request)))
    used_bytes = incoming.space.used_bytes
    try:
        for start in range(2, len(request), FIELDS):
            receive(incoming.space, request[start : start + FIELDS])
    except CommandError as error:
        incoming.failure = FAILED + error.text
        raise
    finally:
        incoming.received(incoming.space.used_bytes - used_bytes)
    return pieces


def copy_large(session: Session, request: list[bytes]) -> Reply:
    """POCKETKV.COPYLARGE: how long the string is now.

    Raises:
        CommandError, NoRoom, NotResident: As `copy`.
    """
    incoming = _incoming(session, request)
    space = incoming.space
    key = request[3]
    # What the sink has made of it.
    data: Any = request[7]
    due_ms, _, offset = [parse_int(field) for field in request[4:7]]
    if isinstance(data, RefusedString):
        incoming.failure = data.text or OUT_OF_MEMORY
        raise CommandError(incoming.failure)
    _check_room(session, incoming, len(data), is_large=isinstance(data, LargeString))
    db = space.database(parse_int(request[2]))
    used_bytes = space.used_bytes
    try:
        receive_large(db, key, offset, data)
        _expire(db, key, due_ms)
    except CommandError as error:
        incoming.failure = FAILED + error.text
        raise
    finally:
        incoming.received(space.used_bytes - used_bytes)
    value = db.find_stored(key)
    return len(value) if isinstance(value, LargeString) else 0


def _expire(db: Database, key: bytes, due_ms: int) -> None:
    if due_ms:
        db.set_expiry(key, due_ms)
    else:
        db.persist(key)


def take(session: Session, request: list[bytes]) -> Reply:
    """POCKETKV.TAKE: from the moment of the reply the slots are this server's.

    Raises:
        CommandError: They are not: nothing was taken.
    """
    _, move_id = _named(session, request)
    node = session.node
    placement = node.topology.placements.get(session.job_id)
    if placement is not None and move_id in placement.flips:
        return OK
    incoming = _incoming(session, request)
    # What is said to be here must be on the medium before anybody relies on it.
    check_store(session)
    held_bytes = incoming.bytes_held
    keys = incoming.take()
    node.topology.flip(session.job_id, [move_id])
    if node.moves is not None:
        node.moves.taken(session.job_id, incoming.move, keys, held_bytes)
    return OK


def taken(session: Session, request: list[bytes]) -> Reply:
    """POCKETKV.TAKEN: a move that was not taken will not be.

    Raises:
        CommandError: NOMOVE: the map has changed, and says whose the slots are.
    """
    space, move_id = _named(session, request)
    placement = session.node.topology.placements.get(session.job_id)
    if placement is None:
        raise CommandError(NO_MOVE)
    if move_id in placement.flips:
        return 1
    space.refused_moves.add(move_id)
    incoming = space.incoming.get(move_id)
    if incoming is not None:
        incoming.drop()
    elif placement.move(move_id) is None:
        raise CommandError(NO_MOVE)
    return 0


def _named(session: Session, request: list[bytes]) -> tuple[JobSpace, str]:
    if not session.proxied:
        raise no_permission(request[0].decode("latin-1").lower())
    return session.space, request[1].decode("utf-8", "replace")


def _incoming(session: Session, request: list[bytes]) -> Incoming:
    space, move_id = _named(session, request)
    incoming = space.incoming.get(move_id)
    if incoming is None:
        raise CommandError(NO_MOVE)
    if incoming.failure:
        raise CommandError(incoming.failure)
    return incoming


def _check_room(session: Session, incoming: Incoming, size: int, *, is_large: bool = False) -> None:
    """See to it that so much finds room; the job's quota has nothing to say about it.

    Raises:
        CommandError: OOM.
        NoRoom: There may be room soon.
    """
    space = incoming.space
    keyspace = space.keyspace
    # Of large strings nothing is in memory, where there is a medium.
    refuses = keyspace.refuses_large if is_large else keyspace.refuses_copy
    if not refuses(space.job_id, size):
        return
    spilling = keyspace.spilling
    if spilling is not None and None not in spilling.stuck:
        spilling.on_pressed(True)
        raise NoRoom(size)
    incoming.failure = space.refusal(size)
    raise CommandError(incoming.failure)
