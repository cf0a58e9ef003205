"""What a client may not do although its job may: by its user, and while it has subscribed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.errors import CommandError

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command
    from pocketkv.engine.session import Session

# What RESP2 allows among messages, which a client could not tell from replies.
_AMONG_MESSAGES: Final = frozenset(
    (
        "ping",
        "subscribe",
        "ssubscribe",
        "unsubscribe",
        "sunsubscribe",
        "psubscribe",
        "punsubscribe",
        "quit",
        "reset",
    )
)


def check_allowed(session: Session, command: Command, request: list[bytes]) -> None:
    """Refuse what this client may not do now.

    Raises:
        CommandError: NOPERM, or the client has subscribed over RESP2.
    """
    if session.user is not None:
        session.user.check(session, command, request)
    if session.protocol == 2 and session.subscriptions and command.name not in _AMONG_MESSAGES:
        raise CommandError(
            b"ERR Can't execute '%b': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
            b" are allowed in this context" % command.name.encode()
        )
