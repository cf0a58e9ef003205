"""Clients that wait in a command until something happens or their time is up.

A blocking command's handler returns `block(...).deferred`. Whoever has what the client waits for
calls `Blocked.finish`; a time-out, CLIENT UNBLOCK and the end of the connection are seen to here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import INT64_MAX
from pocketkv.engine.errors import CommandError
from pocketkv.engine.long_double import parse_long_double
from pocketkv.resp.replies import Deferred, ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session
    from pocketkv.engine.timers import Timer

UNBLOCKED: Final = b"UNBLOCKED client unblocked via CLIENT UNBLOCK"
_TIMEOUT_NOT_FLOAT: Final = b"ERR timeout is not a float or out of range"
_TIMEOUT_NEGATIVE: Final = b"ERR timeout is negative"
# A thousand years: nobody waits for longer, and added to the time of day this is still a time.
_TIMEOUT_MAX_MS: Final = 1000 * 365 * 24 * 3600 * 1000


def parse_timeout_s(text: bytes) -> int:
    """The time-out of a blocking command, given in seconds with decimals, in milliseconds.

    Raises:
        CommandError: It is no number or negative; as in Redis, what is too large is negative.
    """
    try:
        number = parse_long_double(text)
    except CommandError:
        raise CommandError(_TIMEOUT_NOT_FLOAT) from None
    if number.infinite:
        raise CommandError(_TIMEOUT_NEGATIVE)
    milliseconds = number.mantissa * 1000
    if number.exponent >= 0:
        milliseconds <<= min(number.exponent, 64)
    else:
        # Rounded up.
        milliseconds = -(-milliseconds >> -number.exponent)
    if not 0 <= milliseconds <= INT64_MAX:
        raise CommandError(_TIMEOUT_NEGATIVE)
    return min(milliseconds, _TIMEOUT_MAX_MS)


class Blocked:
    """One waiting client.

    Attributes:
        deferred: The reply that it waits for.
    """

    __slots__ = ("_on_end", "_session", "_timeout_reply", "_timer", "deferred")

    def __init__(
        self, session: Session, timeout_reply: Reply, on_end: Callable[[], None] | None
    ) -> None:
        self.deferred = Deferred(exclusive=True, on_abandon=self._end)
        self._session = session
        self._timeout_reply = timeout_reply
        self._on_end = on_end
        self._timer: Timer | None = None

    def time_out_at(self, due_ms: int) -> None:
        """Let the client wait no longer than until `due_ms`."""
        self._timer = self._session.node.timers.at(due_ms, self.time_out)

    def finish(self, reply: Reply) -> None:
        """Answer the client; nothing happens if it was answered already."""
        if self._session.blocked is self:
            self._end()
            self.deferred.complete(reply)

    def time_out(self) -> None:
        """Answer what the command answers when nothing came."""
        self.finish(self._timeout_reply)

    def unblock(self, *, with_error: bool) -> None:
        """CLIENT UNBLOCK."""
        if not with_error:
            self.time_out()
            return
        error = ErrorReply(UNBLOCKED)
        self._session.node.record_late_error(self._session, error)
        self.finish(error)

    def detach(self) -> Deferred:
        """Let the client wait for something else: its reply, which is still to come."""
        self._end()
        self.deferred.on_abandon = None
        return self.deferred

    def _end(self) -> None:
        session = self._session
        session.blocked = None
        session.node.blocked_clients -= 1
        if self._timer is not None:
            session.node.timers.cancel(self._timer)
        if self._on_end is not None:
            self._on_end()


def block(
    session: Session,
    *,
    timeout_ms: int,
    timeout_reply: Reply,
    on_end: Callable[[], None] | None = None,
) -> Blocked:
    """Have a client wait; 0 as time-out means for ever.

    `on_end` is called once, however the wait ends, so that nobody serves a client that is gone.
    """
    blocked = Blocked(session, timeout_reply, on_end)
    session.blocked = blocked
    session.node.blocked_clients += 1
    if timeout_ms > 0:
        blocked.time_out_at(session.node.clock.now_ms + timeout_ms)
    return blocked
