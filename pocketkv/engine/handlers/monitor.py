"""MONITOR: shows a client what others of its job ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.monitor import start
from pocketkv.resp.replies import NO_REPLY, OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_DENY_BLOCKING: Final = b"ERR MONITOR isn't allowed for DENY BLOCKING client"


@command(
    "MONITOR",
    arity=1,
    flags="admin noscript loading stale",
    group="server",
    since="1.0.0",
    complexity="O(1), and some for each command that is shown",
    summary="Shows all commands of the job that come to this node from now on.",
)
def monitor(session: Session, request: list[bytes]) -> Reply:
    """OK, then a line for each command; whoever is shown them already is not answered."""
    if session.denies_blocking:
        raise CommandError(_DENY_BLOCKING)
    return OK if start(session) else NO_REPLY
