"""Requests that take a lane of their client alone: first of all, those that may block.

Such a request is sent when everything before it is answered, and what comes after it waits for its
answer, as on a connection to one server.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

import trio

from pocketkv import limits
from pocketkv.engine.commands import Command
from pocketkv.resp.replies import Reply
from pocketkv.router.exchange import Asker, Forward
from pocketkv.router.private_lane import PrivateLane

if TYPE_CHECKING:
    from pocketkv.router.upstream import Upstream

# Where the time-out of a blocking command stands: in seconds, and 0 means for ever.
_TIMEOUT_LAST: Final = frozenset(("blpop", "brpop", "blmove", "brpoplpush", "bzpopmin", "bzpopmax"))
_TIMEOUT_FIRST: Final = frozenset(("blmpop", "bzmpop"))
# Those that block only if they say so, with BLOCK and a time-out in milliseconds.
_BLOCK_OPTION: Final = frozenset(("xread", "xreadgroup"))
# What is left of a time-out that is over: 0 would mean for ever.
_LEAST_S: Final = 0.001
_UNBLOCK_PAUSE_S: Final = 0.01


class PrivateForward(Forward):
    """One request on a lane of its client alone."""

    __slots__ = ()

    # A reply that is cut off would be the end of what the server knows of the client.
    streams = False

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.exclusive = True

    def start(self) -> None:
        """Send it by the client's map, on the client's own lane."""
        self.binding = self.client.private()
        self.route(self.client.view)


class WaitingForward(PrivateForward):
    """A command that may block, which is at the same time why its client is blocked.

    Attributes:
        asked_s: Since when what is left of its time-out runs.
        sent_s: When it was sent last; 0: never.
        is_unblocked: Whether CLIENT UNBLOCK was called on it.
    """

    __slots__ = ("asked_s", "is_unblocked", "sent_s")

    may_block: ClassVar[bool] = True

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.asked_s = 0.0
        self.sent_s = 0.0
        self.is_unblocked = False

    def start(self) -> None:
        """Have the client wait."""
        session = self.client.session
        session.blocked = self
        session.node.blocked_clients += 1
        self.asked_s = time.monotonic()
        super().start()

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """The client waits no more."""
        session = self.client.session
        if session.blocked is self:
            session.blocked = None
            session.node.blocked_clients -= 1
        super().finish(reply, size_bytes)

    def dispatch(self, upstream: Upstream) -> None:
        """Send it, or send it on with what is left of its time."""
        now_s = time.monotonic()
        if self.sent_s:
            self._shorten(now_s - self.asked_s)
        self.sent_s = now_s
        super().dispatch(upstream)

    def forgive(self, now_s: float) -> None:
        """It was refused: if it has waited where it was, it may be sent again as if it were new."""
        if self.sent_s and now_s - self.sent_s > limits.REDIRECT_TIMEOUT_S:
            self.refused_s = 0.0
            self.is_second = False
            # Only once, unless it is sent again.
            self.sent_s = now_s

    def _shorten(self, waited_s: float) -> None:
        self.request = with_time_left(self.command.name, self.request, waited_s)
        self.frame = None
        self.asked_s += waited_s

    # --- CLIENT UNBLOCK ------------------------------------------------------------------------

    def unblock(self, *, with_error: bool) -> None:
        """Have the server end it: only there is known whether an answer is on its way already."""
        nursery = self.client.router.nursery
        if nursery is not None and not self.is_unblocked:
            self.is_unblocked = True
            nursery.start_soon(self._unblock, with_error)

    async def _unblock(self, with_error: bool) -> None:
        """Ask again until it is over: the request itself may be on its way to the server."""
        deadline_s = time.monotonic() + limits.UPSTREAM_REPLY_TIMEOUT_S
        while not self.done and time.monotonic() < deadline_s:
            upstream = self.upstream
            lane = None if upstream is None else self.binding.lanes.get(upstream)
            if isinstance(lane, PrivateLane) and lane.session_id and not lane.closed:
                reason = b"ERROR" if with_error else b"TIMEOUT"
                question = [b"CLIENT", b"UNBLOCK", b"%d" % lane.session_id, reason]
                self.client.router.ask(lane.upstream, self.binding.key[0], question)
            await trio.sleep(_UNBLOCK_PAUSE_S)
        self.is_unblocked = False


def may_block(command: Command, request: list[bytes]) -> bool:
    """Whether a request of a command that is marked as blocking may block."""
    if command.name not in _BLOCK_OPTION:
        return True
    return _block_option(request) > 0


def with_time_left(name: str, request: list[bytes], waited_s: float) -> list[bytes]:
    """A blocking request as it has to be asked after a part of its time has passed."""
    if name in _TIMEOUT_LAST:
        position, unit_s = len(request) - 1, 1.0
    elif name in _TIMEOUT_FIRST:
        position, unit_s = 1, 1.0
    elif name in _BLOCK_OPTION:
        position, unit_s = _block_option(request), 0.001
    else:
        return request
    try:
        timeout_s = float(request[position]) * unit_s if position else 0.0
    except ValueError:
        return request  # Whatever the server has read in it.
    if timeout_s <= 0:
        return request
    left = max(timeout_s - waited_s, _LEAST_S) / unit_s
    changed = list(request)
    changed[position] = b"%d" % round(left) if unit_s < 1 else b"%.3f" % left
    return changed


def _block_option(request: list[bytes]) -> int:
    """Where the time-out of XREAD or XREADGROUP stands; 0: it does not block."""
    position = 1
    while position < len(request) - 1:
        word = request[position].upper()
        if word == b"BLOCK":
            return position + 1
        if word == b"STREAMS":
            break
        # A group and a consumer may be called whatever they like.
        position += 3 if word == b"GROUP" else 1
    return 0
