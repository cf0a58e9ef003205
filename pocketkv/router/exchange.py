"""One command of a client on its way to the storage servers and back.

An `Exchange` is the reply that the client's connection waits for, and whatever it takes to get
it. `Forward` is the ordinary one: one request to one server, one reply passed on as it is.
`pocketkv.router.split` has those that ask several servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pocketkv.engine.commands import Command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.scan import POSITION_BITS, SCAN_END
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import NO_REPLY, Deferred, Encoded, ErrorReply, Reply
from pocketkv.router.wire import error_text, request_cost
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.engine.session import Session
    from pocketkv.router.private_lane import PrivateBinding
    from pocketkv.router.relay import Relay
    from pocketkv.router.routing import Router
    from pocketkv.router.upstream import Binding, Upstream
    from pocketkv.router.view import JobView

# How a SCAN reply begins when the walk is over, and what the client is told instead.
_SCAN_OVER: Final = b"*2\r\n$%d\r\n%d\r\n" % (len(str(SCAN_END)), SCAN_END)
_SCAN_ZERO: Final = b"*2\r\n$1\r\n0\r\n"
_CURSOR_DIGITS_MAX: Final = 20


class Asker(RequestHandler):
    """A client, as its exchanges know it.

    Attributes:
        router, session: Whose client it is, and what it is there.
        view: The map that its requests follow.
        is_unsettled: Whether one of its requests had to be sent again.
        closed: Whether it is gone.
        in_flight: Requests that are started and not answered.
    """

    __slots__ = ("closed", "in_flight", "is_unsettled", "router", "session", "view")

    closed: bool
    in_flight: int
    is_unsettled: bool
    router: Router
    session: Session
    view: JobView

    def finished(self, exchange: Exchange, reply: Reply, size_bytes: int) -> None:
        """A request is answered (its reply has its place in the order already)."""
        raise NotImplementedError  # An interface: `RouterHandler` is the only one.

    def private(self) -> PrivateBinding:
        """The lanes of this client alone."""
        raise NotImplementedError  # As above.

    def pushed(self, frame: bytes) -> None:
        """A server has sent a message on one of these."""
        raise NotImplementedError  # As above.

    def caching(self) -> bytes:
        """What CLIENT CACHING has said of the request under way; empty: nothing."""
        raise NotImplementedError  # As above.

    def tracking_lost(self) -> None:
        """A server that would have told of changed keys has forgotten that it should."""
        raise NotImplementedError  # As above.

    def relay(self, reply: Exchange, piece: memoryview) -> int:
        """Send a piece of a reply at once, as far as it is its turn; how much was sent."""
        raise NotImplementedError  # As above.

    def relay_spliced(self, reply: Exchange, send_piece: Callable[[int], int]) -> int:
        """The same, by a function that is given the descriptor."""
        raise NotImplementedError  # As above.

    def takes(self, reply: Exchange) -> bool:
        """Whether a piece of a reply can be sent at once."""
        raise NotImplementedError  # As above.

    def on_piece(self, size_bytes: int) -> None:
        """So much of a reply was passed on, or is held for it."""
        raise NotImplementedError  # As above.

    def cut_off(self, reason: str) -> None:
        """It has a part of a reply whose rest will not come."""
        raise NotImplementedError  # As above.

    def hold(self) -> None:
        """Take no more requests until `release` was called as often."""
        raise NotImplementedError  # As above.

    def release(self) -> None:
        """Undo one `hold`."""
        raise NotImplementedError  # As above.


class Exchange(Deferred):
    """A command of a client that is answered later.

    Attributes:
        client: Whose it is.
        command, request: What was asked.
        frame: The request as the client sent it; ``None``: it must be encoded.
        binding: The lanes that its requests take.
        silent: Whether the client wants no reply (CLIENT REPLY).
        started_ns: When it arrived, by the node's timer.
    """

    __slots__ = ("binding", "client", "command", "frame", "request", "silent", "started_ns")

    binding: Binding

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        self._prepare(client, command, request)

    def _prepare(self, client: Asker, command: Command, request: list[bytes]) -> None:
        self._begin(False, None)
        self.client = client
        self.command = command
        self.request = request
        self.frame: bytes | None = None
        self.silent = False
        self.started_ns = 0

    def start(self) -> None:
        """Send what is to be sent."""
        raise NotImplementedError  # An interface: every kind of exchange asks in its own way.

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """Answer the client, once; `size_bytes` is the size of a reply that came from a server."""
        self.complete(NO_REPLY if self.silent else reply)
        self.client.finished(self, reply, size_bytes)


class Forward(Exchange):
    """One request to the server that owns its keys.

    Attributes:
        upstream: Where it was sent last.
        cost_bytes: What it costs while it is under way.
        streamed_bytes: What has come of a reply that is not whole.
        is_second: Whether it was sent again because a connection broke.
        refused_s: When a server refused it first; 0: none has.
    """

    __slots__ = ("cost_bytes", "is_second", "refused_s", "streamed_bytes", "upstream")

    # Whether a long reply may be passed on before it is whole.
    streams: ClassVar[bool] = True
    # Whether it may be answered late without anything being wrong.
    may_block: ClassVar[bool] = False
    # The same, but that it is executed all the while: nobody can tell what it has done.
    may_last: ClassVar[bool] = False

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        self._prepare(client, command, request)
        self.cost_bytes = 0
        self.streamed_bytes = 0
        self.is_second = False
        self.refused_s = 0.0
        self.upstream: Upstream | None = None

    # --- sending -------------------------------------------------------------------------------

    def owner(self, view: JobView) -> Upstream:
        """The server that it is for.

        Raises:
            CommandError: Nobody owns its keys, or several servers do.
        """
        if view.sole is not None:
            return view.sole
        command = self.command
        request = self.request
        if command.single_key:
            return view.owner(key_slot(request[command.first_key]))
        return view.common_owner(
            [key_slot(request[position]) for position in command.keys.positions(request)]
        )

    def start(self) -> None:
        """Send it by the client's map."""
        self.route(self.client.view)

    def reroute(self) -> None:
        """Send it again, by the newest map."""
        self.route(self.client.router.view(self.binding.key[0]))

    def route(self, view: JobView) -> None:
        """Send it to the server that it is for."""
        try:
            upstream = self.owner(view)
        except CommandError as error:
            self.misplaced(view, error)
            return
        self.send(upstream)

    def misplaced(self, view: JobView, error: CommandError) -> None:
        """No server can be asked by this map."""
        self.finish(ErrorReply(error.text), 0)

    def send(self, upstream: Upstream) -> None:
        """Send it to a server, or have it wait until there is room."""
        self.upstream = upstream
        if not upstream.is_open and not upstream.admits(self):
            return
        self.dispatch(upstream)

    def dispatch(self, upstream: Upstream) -> None:
        """Send it to a server that has room."""
        if self.cost_bytes == 0:
            self.cost_bytes = request_cost(self.request, self.frame)
        lane = self.binding.lanes.get(upstream)
        if lane is None or lane.closed:
            try:
                lane = self.client.router.open_lane(upstream, self.binding)
            except OSError as error:
                reason = error.strerror or str(error)
                upstream.suspend(reason)
                self.fail(upstream.unreachable(reason))
                return
        lane.send(self)

    # --- being answered ------------------------------------------------------------------------

    def answer(self, frame: bytes) -> None:
        """A server has answered: pass it on."""
        self.finish(Encoded(frame), len(frame))

    def answer_error(self, frame: bytes) -> None:
        """A server has answered with an error: pass it on as a value, so that it is counted."""
        self.finish(ErrorReply(error_text(frame)), len(frame))

    def take(self, pieces: list[bytes]) -> None:
        """A server has begun to answer: pass on what is there."""
        for piece in pieces:
            self.streamed_bytes += len(piece)
            if not self.silent and not self.client.closed:
                self.give(piece)
                self.client.on_piece(len(piece))

    def relay(self, data: memoryview) -> None:
        """Pass on more of an answer, which is only lent."""
        if self.silent or self.client.closed:
            self.streamed_bytes += len(data)
            return
        sent = self.client.relay(self, data)
        self.streamed_bytes += sent
        if sent < len(data):
            self.take([bytes(data[sent:])])

    def takes_pieces(self) -> bool:
        """Whether the client takes more of the answer at once."""
        return not self.silent and self.client.takes(self)

    def relay_spliced(self, relay: Relay, count: int, is_last: bool) -> None:
        """Pass on what of an answer is in the pipe; whether its last contents are."""
        sent = self.client.relay_spliced(self, lambda fd: relay.drain(fd, count, more=is_last))
        self.streamed_bytes += sent
        if sent < count:
            self.take([relay.take(count - sent)])

    def end(self, frame: bytes) -> None:
        """The rest of an answer that has begun to come, if there is any."""
        self.finish(Encoded(frame) if frame else NO_REPLY, self.streamed_bytes + len(frame))

    # --- failure -------------------------------------------------------------------------------

    def forgive(self, now_s: float) -> None:
        """It was refused; whether that is held against it from now on or from before."""

    def fail(self, text: bytes) -> None:
        """No answer will come."""
        self.client.router.counters.upstream_errors += 1
        self.finish(ErrorReply(text), 0)

    def break_off(self) -> bool:
        """The connection broke; whether the client has a part of the answer, and must go as well.

        What is held of an answer is forgotten, so that there may be another one.
        """
        if self.is_begun:
            self.client.cut_off("the server went away within a reply")
            return True
        self.pieces = None
        self.streamed_bytes = 0
        return False


class ScanForward(Forward):
    """SCAN: the slot in the cursor says which server is to go on."""

    __slots__ = ()

    # Its beginning may have to be changed.
    streams = False

    def owner(self, view: JobView) -> Upstream:
        """The owner of the cursor's slot; of a cursor that is none, anybody who can say so."""
        digits = self.request[1]
        slot = 0
        if digits.isdigit() and len(digits) <= _CURSOR_DIGITS_MAX:
            slot = int(digits) >> POSITION_BITS
        return view.owner(slot if slot < SLOT_COUNT else SLOT_COUNT - 1)

    def answer(self, frame: bytes) -> None:
        """The walk ends where the last server's slots end."""
        frame = scan_ended(frame)
        self.finish(Encoded(frame), len(frame))


class SlotForward(Forward):
    """A command whose last but one or last argument is a slot: CLUSTER COUNTKEYSINSLOT."""

    __slots__ = ()

    def owner(self, view: JobView) -> Upstream:
        """The owner of the slot, which the handler has checked."""
        return view.owner(int(self.request[2]))


def scan_ended(frame: bytes) -> bytes:
    """What a client is told of a SCAN: the walk ends where the last server's slots end."""
    if frame.startswith(_SCAN_OVER):
        return _SCAN_ZERO + frame[len(_SCAN_OVER) :]
    return frame
