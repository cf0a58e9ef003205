"""Commands between the cluster's own servers, which a client has no use for.

A router that opens a connection to a storage server proves that it is one of the cluster. From
then on it gets ``-MOVED`` instead of help for clients, SCAN cursors that tell where the server's
slots end, and a fence (`pocketkv.engine.fence`) that keeps its requests in order.
The proof is worth nothing on another connection, since every connection has its own challenge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketkv.engine import arrivals, retention, script_transfer
from pocketkv.engine.acl import acl_of
from pocketkv.engine.arguments import parse_int
from pocketkv.engine.commands import Command, Handler, Route, command, find_command
from pocketkv.engine.errors import (
    SLOTS_MOVED,
    SYNTAX,
    CommandError,
    unknown_command,
    wrong_arity,
)
from pocketkv.engine.fence import FencedHandler
from pocketkv.engine.handlers.functions import libraries_of
from pocketkv.engine.scripts import scripts_of
from pocketkv.engine.session import Session
from pocketkv.engine.transactions import execute_all
from pocketkv.resp.replies import OK, Reply
from pocketkv.tokens import verify_member_proof

_NO_SECRET: Final = b"ERR this server is in no cluster that has a secret"
_NO_USER: Final = b"ERR there is no such user here"
_NOT_PROVEN: Final = b"NOPERM the proof is not one of this cluster"
_CHALLENGE_ARGUMENTS: Final = 1
_PROOF_ARGUMENTS: Final = 3


@command(
    "POCKETKV.PROXY",
    arity=-1,
    flags="admin noscript loading stale",
    group="pocketkv",
    since="0.1.0",
    complexity="O(1)",
    summary="Proves that the connection is a router's. Without arguments: the challenge.",
    usage="[router-id proof]",
)
def proxy(session: Session, request: list[bytes]) -> Reply:
    """The challenge, then the proof of having the secret."""
    secret = session.node.secret
    if not secret:
        raise CommandError(_NO_SECRET)
    if len(request) == _CHALLENGE_ARGUMENTS:
        return challenge(session)
    if len(request) != _PROOF_ARGUMENTS:
        raise wrong_arity("pocketkv.proxy")
    if not verify_member_proof(secret, request[1], challenge(session), request[2]):
        raise CommandError(_NOT_PROVEN)
    session.proxied = True
    # What its clients may do, the router has looked itself.
    session.authenticated = True
    session.become(None)
    session.transport.hand_over(FencedHandler(session))
    return OK


@command(
    "POCKETKV.USER",
    arity=2,
    flags="admin noscript loading stale",
    group="pocketkv",
    since="0.1.0",
    complexity="O(1)",
    summary="Tells as which user a router's client calls commands in scripts; empty: any.",
    usage="name",
)
def be_user(session: Session, request: list[bytes]) -> Reply:
    """OK; an error as long as the user is not known here."""
    if not session.proxied:
        raise unknown_command(request)
    name = request[1].decode("utf-8", "surrogateescape")
    user = acl_of(session).users.get(name) if name else None
    if name and user is None:
        raise CommandError(_NO_USER)
    session.user = user
    return OK


@command(
    "POCKETKV.EXEC",
    arity=-1,
    flags="admin noscript",
    group="pocketkv",
    since="0.1.0",
    complexity="Depends on the commands",
    summary="Executes a transaction that was queued by a router.",
    usage="number-of-arguments argument [argument ...]",
)
def execute_queued(session: Session, request: list[bytes]) -> Reply:
    """As EXEC. An error is for all of it, and nothing was executed."""
    if not session.proxied:
        raise unknown_command(request)
    queue = _queued(request)
    if session.flips_seen != session.space.flips and any(
        command.route is Route.ALL for command, _ in queue
    ):
        raise CommandError(SLOTS_MOVED)
    try:
        return execute_all(session, queue)
    except CommandError:
        session.unwatch()
        raise


def _queued(request: list[bytes]) -> list[tuple[Command, list[bytes]]]:
    """The commands of a transaction, which the router has looked at already.

    Raises:
        CommandError: It has not.
    """
    queue = []
    position = 1
    while position < len(request):
        count = parse_int(request[position])
        part = request[position + 1 : position + 1 + count]
        if count < 1 or len(part) < count:
            raise CommandError(SYNTAX)
        queue.append((find_command(part), part))
        position += 1 + count
    return queue


@command(
    "POCKETKV.SCRIPT",
    arity=-1,
    flags="admin noscript",
    group="pocketkv",
    since="0.3.0",
    complexity="O(N) where N is the number of libraries",
    summary="Gives a router a script, or all libraries of functions, for a server that lacks them.",
    usage="[sha1]",
)
def script_code(session: Session, request: list[bytes]) -> Reply:
    """A script's text, or null; without an argument, those of all libraries."""
    if not session.proxied:
        raise unknown_command(request)
    if len(request) == 1:
        return [library.code for library in libraries_of(session).matching(None)]
    script = scripts_of(session).known.get(request[1].lower())
    return None if script is None else script.code


@command(
    "POCKETKV.ADOPT",
    arity=-8,
    flags="admin noscript stale",
    group="pocketkv",
    since="0.1.0",
    complexity="O(N) where N is the number of bytes",
    summary="Takes keys of a job that has ended from the server that had them, whole or in pieces.",
    usage="database key kind due-ms total offset piece"
    " [database key kind due-ms total offset piece ...]",
)
def adopt(session: Session, request: list[bytes]) -> Reply:
    """How many pieces were taken."""
    return retention.adopt(session, request)


@command(
    "POCKETKV.SCRIPTS",
    arity=-2,
    flags="admin noscript stale",
    group="pocketkv",
    since="0.1.0",
    complexity="O(N) where N is the number of bytes",
    summary="Takes a job's libraries and scripts, on a server that has no slots of the job yet.",
    usage="number-of-libraries [code [code ...]]",
)
def take_scripts(session: Session, request: list[bytes]) -> Reply:
    """OK: they are loaded, and no others."""
    if not session.proxied:
        raise unknown_command(request)
    script_transfer.take(scripts_of(session), request[1:])
    return OK


def _move_command(
    name: str, arity: int, summary: str, usage: str, complexity: str = "O(1)", value_at: int = 0
) -> Callable[[Handler], Handler]:
    """Declare a command by which slots are moved to this server."""
    return command(
        f"POCKETKV.{name}",
        arity=arity,
        flags="admin noscript stale",
        group="pocketkv",
        since="0.1.0",
        complexity=complexity,
        summary=summary,
        usage=usage,
        value_at=value_at,
    )


_PER_BYTE: Final = "O(N) where N is the number of bytes"


@_move_command("MOVE", 2, "Begins to take over slots of a job from the server that has them.", "id")
def move(session: Session, request: list[bytes]) -> Reply:
    """OK: nothing of it is here yet."""
    return arrivals.begin(session, request)


@_move_command(
    "COPY",
    -9,
    "Takes keys of slots that are moved here, whole or in pieces.",
    "id database key kind due-ms total offset piece"
    " [database key kind due-ms total offset piece ...]",
    _PER_BYTE,
)
def copy(session: Session, request: list[bytes]) -> Reply:
    """How many pieces were taken."""
    return arrivals.copy(session, request)


@_move_command(
    "COPYLARGE",
    8,
    "Takes a part of a large string of slots that are moved here.",
    "id database key due-ms total offset part",
    _PER_BYTE,
    value_at=7,
)
def copy_large(session: Session, request: list[bytes]) -> Reply:
    """The string's length."""
    return arrivals.copy_large(session, request)


@_move_command("TAKE", 2, "Serves slots from now on that were copied here.", "id")
def take(session: Session, request: list[bytes]) -> Reply:
    """OK: they are this server's."""
    return arrivals.take(session, request)


@_move_command("TAKEN", 2, "Tells whether slots were taken over, and else refuses them.", "id")
def taken(session: Session, request: list[bytes]) -> Reply:
    """1 or 0."""
    return arrivals.taken(session, request)


def challenge(session: Session) -> bytes:
    """What the proof must be made for: this server, and this connection of it.

    It need not be secret, only never come twice: a session's number does not while the server
    runs, and a server that started again makes its sessions at a later time.
    """
    return f"{session.node.id}:{session.id}:{session.created_ms}".encode()
