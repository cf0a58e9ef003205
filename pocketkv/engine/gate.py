"""Refusals, in one ordered place, and the call of the handler.

The order is Redis's ``processCommand``: unknown command, arity, authentication, slot, memory;
then a command may have to wait for the end of a pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from pocketkv.engine.cold import NotResident
from pocketkv.engine.commands import Command, Route, find_command
from pocketkv.engine.errors import (
    CLUSTER_DOWN,
    CROSS_SLOT,
    JOB_ENDED,
    NO_AUTH,
    NO_REPLICAS,
    SLOTS_MOVED,
    SPEAKS_NO_HTTP,
    CommandError,
    discarded_because,
)
from pocketkv.engine.fetching import (
    fetch,
    fetch_string,
    forget,
    missing_string,
    require_resident,
)
from pocketkv.engine.guard import check_allowed
from pocketkv.engine.monitor import show
from pocketkv.engine.moving import Held
from pocketkv.engine.pauses import hold, holds
from pocketkv.engine.sinks import charged_bytes, refuse_failed, settle
from pocketkv.engine.spilling import FULL, ROOM, NoRoom
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import NO_REPLY, PENDING, Deferred, ErrorReply, Reply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

# What a router's connection begins with, beside what goes on in any case.
_GREETING: Final = frozenset(("select", "pocketkv.proxy"))
# First words of the lines of an HTTP request that are no commands; Redis knows the same two.
_HTTP_WORDS: Final = frozenset((b"POST", b"HOST:"))


def admit(session: Session, request: list[bytes]) -> Command:
    """The record of a request that this session may send, wherever it will be served.

    Raises:
        CommandError: Unknown, wrong arity, not authenticated, or not allowed to this client.
    """
    command = find_command(request)
    if not session.authenticated and not command.no_auth:
        raise CommandError(NO_AUTH)
    if session.guarded:
        check_allowed(session, command, request)
    return command


def check_slots(session: Session, command: Command, request: list[bytes]) -> None:
    """Refuse a command whose keys are not served here.

    Raises:
        CommandError: MOVED to the owner of all keys, CROSSSLOT if they have several owners,
            CLUSTERDOWN if nobody is known to own them.
        Held: They are about to go to another server.
        NotResident: It is not known yet which keys there are.
    """
    space = session.space
    if space.owns_all:
        return
    if space.opening is not None:
        raise NotResident([space.opening])
    owned = space.owned
    slots = [key_slot(request[position]) for position in command.keys.positions(request)]
    foreign = [slot for slot in slots if not owned[slot]]
    if foreign:
        _refuse_slots(session, slots, foreign)
    if not slots:
        _check_all_slots(session, command)


def _check_all_slots(session: Session, command: Command) -> None:
    """Let a command wait that speaks for all slots served here, while some of them are held.

    Raises:
        Held: It waits.
        CommandError: TRYAGAIN, to a router that has not heard yet that slots came or went.
    """
    space = session.space
    if space.holds:
        raise Held(space.holds[0])
    if session.proxied and session.flips_seen != space.flips and command.route is Route.ALL:
        raise CommandError(SLOTS_MOVED)


def check_slot(session: Session, slot: int) -> None:
    """Refuse a slot that is not served here, for commands that name slots instead of keys.

    Raises:
        CommandError: MOVED to the owner, CLUSTERDOWN if nobody is known to own it.
        Held: As `check_slots`.
    """
    if not session.space.owned[slot]:
        _refuse_slots(session, [slot], [slot])


def _refuse_slots(session: Session, slots: list[int], foreign: list[int]) -> NoReturn:
    """Say where the slots of a request are, of which some are not served here."""
    if session.space.holds:
        holds = [session.space.held(slot) for slot in foreign]
        if holds[0] is not None and None not in holds:
            raise Held(holds[0])
    if len(foreign) < len(slots):
        raise CommandError(CROSS_SLOT)
    owners = {session.node.topology.owner(session.job_id, slot) for slot in foreign}
    if len(owners) > 1:
        raise CommandError(CROSS_SLOT)
    owner = owners.pop()
    if owner is None or owner.id == session.node.id:
        # Ours by a map whose slots have not been handed over yet.
        raise CommandError(CLUSTER_DOWN)
    host, port = owner.public_address
    raise CommandError(b"MOVED %d %b:%d" % (foreign[0], host.encode(), port))


def check_memory(session: Session, request: list[bytes]) -> None:
    """Refuse a write that does not fit into the job's quota or the server's memory.

    Raises:
        CommandError: OOM.
        NoRoom: It may fit soon.
    """
    grown_bytes = 0
    for argument in request:
        grown_bytes += len(argument)
    if session.space.incoming_bytes:
        grown_bytes -= charged_bytes(request)
    try:
        require_memory(session, grown_bytes)
    except CommandError:
        refuse_failed(request)
        raise


def require_memory(session: Session, grown_bytes: int) -> None:
    """Refuse a write that makes more of its arguments than their size (SETRANGE, COPY).

    Raises:
        CommandError: OOM.
        NoRoom: It may fit soon.
    """
    spilling = session.node.keyspace.spilling
    if spilling is not None:
        verdict = spilling.verdict(session.space, grown_bytes)
        if verdict == FULL:
            session.space.stats.refused_oom += 1
            raise spilling.refusal(session.space, grown_bytes)
        # In a transaction nothing waits; there will be room soon.
        if verdict != ROOM and not (session.denies_blocking and spilling.tolerates(grown_bytes)):
            raise NoRoom(grown_bytes)
    elif session.space.lacks_room(grown_bytes):
        session.space.stats.refused_oom += 1
        raise CommandError(session.space.refusal(grown_bytes))


def check_store(session: Session) -> None:
    """Refuse a write while what was changed before it cannot be written.

    Raises:
        CommandError: IOERR or OOM, with the system's reason.
    """
    error = session.node.retry_commit()
    if error is not None:
        raise CommandError(error.text)


def check_writable(session: Session) -> None:
    """Refuse a write to a job that has ended, or while the store takes none.

    Raises:
        CommandError: ERR, NOREPLICAS, or as `check_store`.
    """
    if session.space.read_only:
        raise CommandError(JOB_ENDED)
    if session.node.lacks_replicas:
        raise CommandError(NO_REPLICAS)
    check_store(session)


def check_served(session: Session, command: Command, request: list[bytes]) -> None:
    """Refuse what is not served here, or not now: slots, writes, memory.

    Raises:
        CommandError, Held, NotResident, NoRoom: As the checks of each.
    """
    check_slots(session, command, request)
    if command.is_write:
        node = session.node
        if node.write_error is not None or node.lacks_replicas or session.space.read_only:
            check_writable(session)
    if command.denies_oom:
        check_memory(session, request)


def run(session: Session, request: list[bytes]) -> Reply:
    """Answer a request here; what the client did wrong becomes an error reply."""
    node = session.node
    started_ns = node.call_started_ns = node.stopwatch.now_ns()
    command = None
    try:
        command = admit(session, request)
        if not command.is_local:
            check_served(session, command, request)
    except CommandError as error:
        return refuse(session, request, command, error)
    except (NoRoom, NotResident, Held) as reason:
        return _wait(session, command, request, reason)
    if node.long_runs or node.pauses or session.transaction is not None:
        aside = _set_aside(session, command, request)
        if aside is not PENDING:
            return aside
    if session.space.incoming_bytes:
        settle(request)
    if node.monitors:
        show(session, command, request)
    session.last_command = command.name
    at_hand = None
    try:
        if command.is_write and session.db.shelf is not None:
            at_hand = require_resident(session, command, request)
        elif command.name == "get" and (reads := missing_string(session.db, request[1])):
            return fetch_string(session, command, request, reads, run)
        if session.attended:
            reply = call_attended(session, command, request)
        else:
            reply = command.handler(session, request)
    except CommandError as error:
        reply = ErrorReply(error.text)
    except (NoRoom, NotResident, Held) as reason:
        return _wait(session, command, request, reason)
    finally:
        if at_hand:
            forget(at_hand)
    session.last_active_ms = node.clock.now_ms
    node.record_call(session, command, request, node.stopwatch.now_ns() - started_ns, reply)
    if node.ready_waiters and not session.denies_blocking:
        node.serve_waiters()
    return without_reply(session, reply) if session.reply_off or session.reply_skip else reply


def _set_aside(session: Session, command: Command, request: list[bytes]) -> Reply:
    """What is answered to a request that is not executed now; `PENDING`: it is."""
    node = session.node
    long_run = node.long_runs.get(session.job_id)
    if long_run is not None and not _goes_on(session, command):
        return long_run.hold(session, command, request, run)
    if node.pauses and holds(session, command, request):
        return hold(session, request, run)
    if session.transaction is not None and session.transaction.keeps(command):
        return enqueue(session, command, request)
    return PENDING


def _goes_on(session: Session, command: Command) -> bool:
    """Whether a command is executed while a script of the job takes long."""
    if "allow_busy" in command.flags:
        return True
    # A router must be able to open a connection, or nobody could end the script through it.
    return command.name in _GREETING or (session.proxied and command.is_local)


def enqueue(session: Session, command: Command, request: list[bytes]) -> Reply:
    """Keep a request of a session in MULTI until EXEC; a refusal fails the transaction."""
    assert session.transaction is not None  # The caller has looked.
    try:
        reply = session.transaction.enqueue(session, command, request)
    except CommandError as error:
        return refuse(session, request, command, error)
    session.last_active_ms = session.node.clock.now_ms
    if session.reply_off or session.reply_skip:
        return without_reply(session, reply)
    return reply


def _wait(
    session: Session,
    command: Command | None,
    request: list[bytes],
    reason: NoRoom | NotResident | Held,
) -> Deferred:
    """Have a request executed when it can be: there is room, or it is at hand what it reads."""
    if isinstance(reason, Held):
        # Its slots have gone then, or stay.
        return reason.hold.keep(session, request, run)
    if isinstance(reason, NoRoom):
        return _hold_for_room(session, request, reason)
    assert command is not None  # Without one, nothing was looked for.
    try:
        return fetch(session, command, request, reason.reads, run)
    except NoRoom as no_room:
        return _hold_for_room(session, request, no_room)


def _hold_for_room(session: Session, request: list[bytes], lack: NoRoom) -> Deferred:
    """Keep a request until there is memory for it."""
    spilling = session.node.keyspace.spilling
    assert spilling is not None  # Nobody else says that there will be room.
    return spilling.hold(session, request, run, lack.size)


def refuse(
    session: Session, request: list[bytes], command: Command | None, error: CommandError
) -> Reply:
    """The reply to a request that is not executed; `command` is its record if it has one."""
    node = session.node
    session.last_active_ms = node.clock.now_ms
    text = error.text
    if session.transaction is not None:
        text = session.transaction.refused(session, request[0], text)
    elif command is None and request[0].upper() == b"EXEC":
        # What is wrong with EXEC ends what it would have ended.
        session.unwatch()
        text = discarded_because(text)
    reply = ErrorReply(text)
    if command is None and request[0].upper() in _HTTP_WORDS:
        # A browser must not be able to have commands executed out of a request's body.
        session.transport.close_when_sent()
        reply = ErrorReply(SPEAKS_NO_HTTP)
    node.record_refusal(reply, command)
    if session.reply_off or session.reply_skip:
        return without_reply(session, reply)
    return reply


def without_reply(session: Session, reply: Reply) -> Reply:
    """CLIENT REPLY OFF and SKIP: SKIP counts itself, and one more command."""
    if session.reply_skip:
        session.reply_skip -= 1
    if not isinstance(reply, Deferred):
        return NO_REPLY
    # What comes after this command still has to wait for it.
    silent = Deferred(exclusive=reply.exclusive, on_abandon=reply.abandon)
    reply.listen(lambda: silent.complete(NO_REPLY))
    return silent


def call_attended(session: Session, command: Command, request: list[bytes]) -> Reply:
    """Execute a command of a client whose use of keys is minded in some way."""
    if session.no_touch:
        return _call_without_touching(session, command, request)
    return _call(session, command, request)


def _call(session: Session, command: Command, request: list[bytes]) -> Reply:
    if session.tracking is not None:
        return session.tracking.call(command, request)
    return command.handler(session, request)


def _call_without_touching(session: Session, command: Command, request: list[bytes]) -> Reply:
    """CLIENT NO-TOUCH: keys are as long unused after a command as before, but for TOUCH."""
    if command.name == "touch":
        return _call(session, command, request)
    accessed_s = session.db.accessed_s
    slots = [key_slot(request[position]) for position in command.keys.positions(request)]
    before = [(slot, accessed_s[slot]) for slot in slots if accessed_s[slot]]
    try:
        return _call(session, command, request)
    finally:
        for slot, time_s in before:
            accessed_s[slot] = time_s


class GateHandler(RequestHandler):
    """Serves every request of a session here, by the engine."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request."""
        return run(self.session, request)

    def on_close(self) -> None:
        """The connection is gone."""
        self.session.node.close_session(self.session)
