"""CLIENT: the connections of the client's own job, what they are called, pauses and replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine import pauses
from pocketkv.engine.arguments import c_string, canonical_integer, parse_int
from pocketkv.engine.client_list import (
    KillOptions,
    check_type,
    describe,
    visible_sessions,
)
from pocketkv.engine.commands import Handler, command, not_callable
from pocketkv.engine.errors import SYNTAX, CommandError, unknown_subcommand, wrong_subcommand
from pocketkv.engine.handlers.connection import check_client_name
from pocketkv.engine.help_text import help_lines
from pocketkv.resp.replies import NO_REPLY, OK, Reply, Verbatim

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.engine.session import Session

_NO_SUCH_CLIENT: Final = b"ERR No such client"
_INVALID_ID: Final = b"ERR Invalid client ID"
_TIMEOUT_NOT_INTEGER: Final = b"ERR timeout is not an integer or out of range"
_TIMEOUT_NEGATIVE: Final = b"ERR timeout is negative"
_BAD_PAUSE_MODE: Final = b"ERR CLIENT PAUSE mode must be WRITE or ALL"
_BAD_UNBLOCK_REASON: Final = b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"
# A 48-bit time is ten thousand years ahead, which is as good as for ever.
_PAUSE_MAX_MS: Final = 1 << 48

command(
    "CLIENT",
    arity=-2,
    flags="",
    group="connection",
    since="2.4.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about connections.",
)(not_callable)


def client_command(
    name: str,
    arity: int,
    summary: str,
    usage: str = "",
    *,
    since: str,
    flags: str = "noscript loading stale",
    complexity: str = "O(1)",
    tips: str = "",
) -> Callable[[Handler], Handler]:
    """Declare a subcommand; these are what most of them have in common."""
    return command(
        f"CLIENT|{name}",
        arity=arity,
        flags=flags,
        categories="connection",
        group="connection",
        since=since,
        complexity=complexity,
        summary=summary,
        usage=usage,
        tips=tips,
    )


_ADMIN: Final = "admin noscript loading stale"
_PER_CLIENT: Final = "O(N) where N is the number of clients"


@client_command("ID", 2, "The connection's id, which no other has or had.", since="5.0.0")
def client_id(session: Session, request: list[bytes]) -> Reply:
    """Ids go up with each connection."""
    return session.id


@client_command("GETNAME", 2, "The connection's name.", since="2.6.9")
def client_getname(session: Session, request: list[bytes]) -> Reply:
    """Null, if it has none."""
    return session.name or None


@client_command("SETNAME", 3, "Names the connection.", "connection-name", since="2.6.9")
def client_setname(session: Session, request: list[bytes]) -> Reply:
    """The empty name takes the name away."""
    check_client_name(request[2])
    session.name = request[2]
    return OK


@client_command(
    "SETINFO",
    4,
    "Tells which library the client uses.",
    "<LIB-NAME libname | LIB-VER libver>",
    since="7.2.0",
)
def client_setinfo(session: Session, request: list[bytes]) -> Reply:
    """Shown by CLIENT LIST."""
    attribute, value = request[2].lower(), request[3]
    if attribute not in {b"lib-name", b"lib-ver"}:
        raise CommandError(b"ERR Unrecognized option '%b'" % c_string(request[2]))
    if any(c < 33 or c > 126 for c in value):
        raise CommandError(
            b"ERR %b cannot contain spaces, newlines or special characters." % attribute
        )
    if attribute == b"lib-name":
        session.lib_name = value
    else:
        session.lib_version = value
    return OK


@client_command(
    "MAINT_NOTIFICATIONS",
    -3,
    "Has the client told of slots that move to another server, or not any more.",
    "<ON | OFF> [MOVING-ENDPOINT-TYPE type]",
    since="8.4.0",
)
def client_maint_notifications(session: Session, request: list[bytes]) -> Reply:
    """OK, where it will be told: on a server of a cluster, over RESP3."""
    node = session.node
    if node.role != "storage" or not node.clustered or session.protocol != 3:
        # Whoever will not be told must not wait for it.
        raise unknown_subcommand("client", request[1])
    word = request[2].upper()
    if word == b"OFF" and len(request) == 3:
        session.wants_migrations = False
        return OK
    with_type = len(request) == 5 and request[3].upper() == b"MOVING-ENDPOINT-TYPE"
    if word != b"ON" or not (len(request) == 3 or with_type):
        raise CommandError(SYNTAX)
    session.wants_migrations = True
    return OK


# --- who is there ------------------------------------------------------------------------------


@client_command("INFO", 2, "The connection itself.", since="6.2.0", tips="nondeterministic_output")
def client_info(session: Session, request: list[bytes]) -> Reply:
    """One line as in CLIENT LIST."""
    return Verbatim(describe(session, request) + b"\n")


@client_command(
    "LIST",
    -2,
    "The job's connections.",
    "[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
    since="2.4.0",
    flags=_ADMIN,
    complexity=_PER_CLIENT,
    tips="nondeterministic_output",
)
def client_list(session: Session, request: list[bytes]) -> Reply:
    """A line for each; only those of the client's own job on this node."""
    sessions = visible_sessions(session)
    if len(request) > 2:
        option = request[2].upper()
        if option == b"TYPE" and len(request) == 4:
            fits = check_type(request[3])
            sessions = [s for s in sessions if fits(s)]
        elif option == b"ID" and len(request) > 3:
            sessions = _sessions_by_id(sessions, request[3:])
        else:
            raise CommandError(SYNTAX)
    lines = [describe(s, request if s is session else None) for s in sessions]
    return Verbatim(b"".join(line + b"\n" for line in lines))


def _sessions_by_id(sessions: list[Session], ids: list[bytes]) -> list[Session]:
    by_id = {s.id: s for s in sessions}
    found = []
    for text in ids:
        number = canonical_integer(text)
        if number is None:
            raise CommandError(_INVALID_ID)
        if number in by_id:
            found.append(by_id[number])
    return found


@client_command(
    "KILL",
    -3,
    "Closes connections of the job.",
    "<ip:port | <[ID client-id] | [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] |"
    " [USER username] | [ADDR ip:port] | [LADDR ip:port] | [SKIPME <YES | NO>]> ...>",
    since="2.4.0",
    flags=_ADMIN,
    complexity=_PER_CLIENT,
)
def client_kill(session: Session, request: list[bytes]) -> Reply:
    """By address: OK or an error; by options: how many were closed."""
    sessions = visible_sessions(session)
    if len(request) == 3:
        victims = [s for s in sessions if s.address.encode() == request[2]]
        if not victims:
            raise CommandError(_NO_SUCH_CLIENT)
        _close(session, victims[:1])
        return OK
    options = KillOptions(session, request)
    victims = [s for s in sessions if options.matches(s)]
    if options.skip_me:
        victims = [s for s in victims if s is not session]
    _close(session, victims)
    return len(victims)


def _close(session: Session, victims: list[Session]) -> None:
    for victim in victims:
        if victim is session:
            # It still gets the reply.
            victim.transport.close_when_sent()
        else:
            victim.transport.close()


@client_command(
    "UNBLOCK",
    -3,
    "Ends a blocking command of another connection of the job.",
    "client-id [TIMEOUT | ERROR]",
    since="5.0.0",
    flags=_ADMIN,
    complexity="O(log N) where N is the number of blocked clients",
)
def client_unblock(session: Session, request: list[bytes]) -> Reply:
    """Whether it was blocked; what a pause holds does not count."""
    with_error = False
    if len(request) > 4:
        raise wrong_subcommand("client", request[1])
    if len(request) == 4:
        reason = request[3].upper()
        if reason not in {b"TIMEOUT", b"ERROR"}:
            raise CommandError(_BAD_UNBLOCK_REASON)
        with_error = reason == b"ERROR"
    number = parse_int(request[2])
    for other in visible_sessions(session):
        if other.id == number and other.blocked is not None:
            other.blocked.unblock(with_error=with_error)
            return 1
    return 0


# --- pauses ------------------------------------------------------------------------------------


@client_command(
    "PAUSE",
    -3,
    "Holds the commands of the job's clients on this node for a time.",
    "timeout [WRITE | ALL]",
    since="2.9.50",
    flags=_ADMIN,
)
def client_pause(session: Session, request: list[bytes]) -> Reply:
    """The time is in milliseconds; WRITE lets commands go on that change nothing."""
    writes_only = False
    if len(request) == 4:
        mode = request[3].upper()
        if mode not in {b"WRITE", b"ALL"}:
            raise CommandError(_BAD_PAUSE_MODE)
        writes_only = mode == b"WRITE"
    elif len(request) > 4:
        raise wrong_subcommand("client", request[1])
    until_ms = parse_timeout_ms(request[2]) + session.node.clock.now_ms
    pauses.pause(session.node, session.job_id, until_ms, writes_only=writes_only)
    return OK


def parse_timeout_ms(text: bytes) -> int:
    """A time-out in milliseconds, from 0 on.

    Raises:
        CommandError: It is none.
    """
    timeout_ms = parse_int(text, _TIMEOUT_NOT_INTEGER)
    if timeout_ms < 0:
        raise CommandError(_TIMEOUT_NEGATIVE)
    return min(timeout_ms, _PAUSE_MAX_MS)


@client_command("UNPAUSE", 2, "Ends CLIENT PAUSE.", since="6.2.0", flags=_ADMIN)
def client_unpause(session: Session, request: list[bytes]) -> Reply:
    """Commands that were held are executed first."""
    pauses.unpause(session.node, session.job_id)
    return OK


# --- how this connection is served -------------------------------------------------------------


@client_command(
    "REPLY", 3, "Whether the connection gets replies.", "<ON | OFF | SKIP>", since="3.2.0"
)
def client_reply(session: Session, request: list[bytes]) -> Reply:
    """OFF and SKIP are not answered themselves."""
    mode = request[2].upper()
    if mode == b"ON":
        session.reply_off = False
        session.reply_skip = 0
        return OK
    if mode == b"OFF":
        session.reply_off = True
        session.reply_skip = 0
    elif mode != b"SKIP":
        raise CommandError(SYNTAX)
    elif not session.reply_off:
        # This command and the next.
        session.reply_skip = 2
    return NO_REPLY


def _on_or_off(text: bytes) -> bool:
    mode = text.upper()
    if mode not in {b"ON", b"OFF"}:
        raise CommandError(SYNTAX)
    return mode == b"ON"


@client_command(
    "NO-EVICT",
    3,
    "Marks the connection as one that is not to be evicted; none is.",
    "<ON | OFF>",
    since="7.0.0",
    flags=_ADMIN,
)
def client_no_evict(session: Session, request: list[bytes]) -> Reply:
    """Shown by CLIENT LIST."""
    session.no_evict = _on_or_off(request[2])
    return OK


@client_command(
    "NO-TOUCH",
    3,
    "Whether this connection's commands count as use of the keys.",
    "<ON | OFF>",
    since="7.2.0",
)
def client_no_touch(session: Session, request: list[bytes]) -> Reply:
    """With ON, OBJECT IDLETIME goes on as if they had not been."""
    session.no_touch = _on_or_off(request[2])
    session.update_guard()
    return OK


@client_command("HELP", 2, "What subcommands there are.", since="5.0.0", flags="loading stale")
def client_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"client")
