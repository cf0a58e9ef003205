"""One request executed inside another: those of a transaction, and those of a script.

Inside another nothing waits, or it would be half executed. What is known beforehand to be needed
is waited for before the first one is executed (`require_ready`); what turns out to be needed later
is read at once, while everybody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv import limits
from pocketkv.engine.cold import Cold, NotResident
from pocketkv.engine.errors import OUT_OF_MEMORY, SLOTS_HELD, CommandError
from pocketkv.engine.fetching import forget
from pocketkv.engine.gate import call_attended, check_slots, check_writable, require_memory
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.monitor import show
from pocketkv.engine.moving import Held
from pocketkv.engine.sinks import charged_bytes, settle
from pocketkv.engine.spilling import NoRoom
from pocketkv.resp.replies import ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.commands import Command
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

# Each attempt reads what the one before asked for; no command asks more often than this.
_ATTEMPTS_MAX = 64


def call(session: Session, command: Command, request: list[bytes]) -> Reply:
    """Execute a request that is part of another one; what it does wrong is an error reply.

    The caller has checked what it has to (`gate`), and serves waiters when all is done.
    """
    node = session.node
    if session.space.incoming_bytes:
        settle(request)
    started_ns = node.stopwatch.now_ns()
    if node.monitors:
        show(session, command, request, b"lua" if session.in_script else b"")
    try:
        if session.user is not None:
            session.user.check(session, command, request)
        reply = _execute(session, command, request)
    except CommandError as error:
        reply = ErrorReply(error.text)
    except NotResident as missing:
        reply = _call_reading(session, command, request, missing)
    except (NoRoom, Held) as reason:
        reply = _cannot_wait(reason)
    node.record_call(session, command, request, node.stopwatch.now_ns() - started_ns, reply)
    return reply


def _execute(session: Session, command: Command, request: list[bytes]) -> Reply:
    if session.attended:
        return call_attended(session, command, request)
    return command.handler(session, request)


def _cannot_wait(reason: NoRoom | Held) -> ErrorReply:
    return ErrorReply(OUT_OF_MEMORY if isinstance(reason, NoRoom) else SLOTS_HELD)


def _call_reading(
    session: Session, command: Command, request: list[bytes], missing: NotResident
) -> Reply:
    """Read what a request needs, however long that takes, and then execute it."""
    at_hand: list[PendingRead] = []
    try:
        for _ in range(_ATTEMPTS_MAX):
            for read in missing.reads:
                _read_now(read)
                at_hand.append(read)
            try:
                return _execute(session, command, request)
            except NotResident as more:
                missing = more
        return ErrorReply(b"IOERR values go as fast as they are read")
    except CommandError as error:
        return ErrorReply(error.text)
    except (NoRoom, Held) as reason:
        return _cannot_wait(reason)
    finally:
        forget(at_hand)


def _read_now(read: PendingRead) -> None:
    """Have something at hand that a command waits for.

    Raises:
        CommandError: IOERR: it cannot be had.
    """
    result: bytes | CommandError
    try:
        result = read.read()
    except CommandError as error:
        result = error
    if not read.keep(result):
        assert isinstance(result, CommandError)
        raise result
    for _ in read.prepare():
        pass


# --- before the first one is executed ----------------------------------------------------------


def require_ready(
    session: Session, commands: list[tuple[Command, list[bytes]]]
) -> list[PendingRead]:
    """Have everything at hand that is known to be needed for several requests.

    Returns:
        What is kept for them, to be forgotten after them (`fetching.forget`).

    Raises:
        CommandError: One of them is not to be executed: not its slot, no room, a failed store.
        Held: Slots are about to go to another server.
        NoRoom: There may be room for all of it soon.
        NotResident: Values have to be read.
    """
    grown_bytes = 0
    denies_oom = False
    for command, request in commands:
        if command.is_local:
            continue
        check_slots(session, command, request)
        if command.is_write:
            check_writable(session)
        if command.denies_oom:
            denies_oom = True
            grown_bytes += sum(map(len, request)) - charged_bytes(request)
    if denies_oom:
        require_memory(session, grown_bytes)
    return _require_resident(session, commands)


def _require_resident(
    session: Session, commands: list[tuple[Command, list[bytes]]]
) -> list[PendingRead]:
    """Have the values at hand that several requests name.

    Raises:
        NotResident: Some are not.
    """
    if session.db.shelf is None:
        return []
    database = session.db
    reads: dict[PendingRead, None] = {}
    at_hand: list[PendingRead] = []
    try:
        for command, request in commands:
            if command.name == "select":
                database = _selected(session, request) or database
            elif command.needs_values:
                keys = [request[position] for position in command.keys.positions(request)]
                reads |= dict.fromkeys(_missing(database, keys, at_hand))
    except CommandError:
        # One cannot be had, which its own command tells.
        reads = {}
    if reads:
        forget(at_hand)
        raise NotResident(list(reads))
    return at_hand


def _selected(session: Session, request: list[bytes]) -> Database | None:
    """The database that SELECT in the middle of a transaction means; ``None``: it will fail."""
    index = request[1]
    if not index.isdigit() or len(index) > 5 or int(index) >= limits.DATABASES:
        return None
    return session.space.database(int(index))


def _missing(
    database: Database, keys: list[bytes], at_hand: list[PendingRead]
) -> list[PendingRead]:
    """What has to be read for some keys of a database."""
    shelf = database.shelf
    found: list[PendingRead] = []
    if shelf is None:
        return found
    for key in keys:
        entry = database.find_stored(key)
        if isinstance(entry, Cold):
            found += shelf.missing(key, entry, at_hand)
        elif isinstance(entry, LargeString):
            found += entry.missing(0, min(len(entry), limits.FETCH_FIRST_BYTES))
    return found
