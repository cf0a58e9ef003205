"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import ALL_KEYS, command, find_command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.monitor import show_end
from pocketkv.engine.transactions import Transaction, discard, execute
from pocketkv.engine.watches import Watch
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NESTED: Final = b"ERR MULTI calls can not be nested"
_WATCH_INSIDE: Final = b"ERR WATCH inside MULTI is not allowed"
_QUICK: Final = "noscript loading stale fast allow_busy"


@command(
    "MULTI",
    arity=1,
    flags=_QUICK,
    categories="transaction",
    group="transactions",
    since="1.2.0",
    complexity="O(1)",
    summary="Begins a transaction: what follows is kept until EXEC.",
)
def multi(session: Session, request: list[bytes]) -> Reply:
    """Each command is answered QUEUED from now on."""
    if session.transaction is not None:
        raise CommandError(_NESTED)
    session.transaction = Transaction()
    return OK


@command(
    "EXEC",
    arity=1,
    flags="noscript loading stale skip_slowlog",
    categories="transaction",
    group="transactions",
    since="1.2.0",
    complexity="Depends on commands in the transaction",
    summary="Executes the commands since MULTI, with no other in between.",
)
def exec_(session: Session, request: list[bytes]) -> Reply:
    """Null, if a watched key has changed."""
    if session.transaction is None:
        raise CommandError(b"ERR EXEC without MULTI")
    try:
        reply = execute(session)
    except CommandError:
        # What is not executed is shown too.
        show_end(session, find_command(request), request)
        raise
    show_end(session, find_command(request), request)
    return reply


@command(
    "DISCARD",
    arity=1,
    flags=_QUICK,
    categories="transaction",
    group="transactions",
    since="2.0.0",
    complexity="O(N), when N is the number of queued commands",
    summary="Forgets the commands since MULTI, and what is watched.",
)
def discard_(session: Session, request: list[bytes]) -> Reply:
    """Nothing of the transaction is executed."""
    if session.transaction is None:
        raise CommandError(b"ERR DISCARD without MULTI")
    discard(session)
    return OK


@command(
    "WATCH",
    arity=-2,
    flags=_QUICK,
    categories="transaction",
    group="transactions",
    since="2.2.0",
    complexity="O(1) for every key.",
    summary="Has the next EXEC do nothing if one of the keys has changed until then.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO",
)
def watch(session: Session, request: list[bytes]) -> Reply:
    """Keys are watched until EXEC, DISCARD or UNWATCH."""
    if session.transaction is not None:
        raise CommandError(_WATCH_INSIDE)
    if session.watch is None:
        session.watch = Watch()
    for key in request[1:]:
        session.watch.add(session.db, key)
    return OK


@command(
    "UNWATCH",
    arity=1,
    flags=_QUICK,
    categories="transaction",
    group="transactions",
    since="2.2.0",
    complexity="O(1)",
    summary="Watches no key any more.",
)
def unwatch(session: Session, request: list[bytes]) -> Reply:
    """The next EXEC is executed whatever has changed."""
    session.unwatch()
    return OK
