"""One command of a client on its way to the storage servers and back.

An `Exchange` is the reply that the client's connection waits for, and whatever it takes to get
it. `Forward` is the ordinary one: one request to one server, one reply passed on as it is.
`pocketkv.router.split` has those that ask several servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import Command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.scan import POSITION_BITS, SCAN_END
from pocketkv.resp.replies import NO_REPLY, Deferred, Encoded, ErrorReply, Reply
from pocketkv.router.wire import error_text, request_cost
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from pocketkv.router.handler import RouterHandler
    from pocketkv.router.upstream import Binding, Upstream
    from pocketkv.router.view import JobView

_MINUS: Final = 45
# How a SCAN reply begins when the walk is over, and what the client is told instead.
_SCAN_OVER: Final = b"*2\r\n$%d\r\n%d\r\n" % (len(str(SCAN_END)), SCAN_END)
_SCAN_ZERO: Final = b"*2\r\n$1\r\n0\r\n"
_CURSOR_DIGITS_MAX: Final = 20


class Exchange(Deferred):
    """A command of a client that is answered later.

    Attributes:
        client: Whose it is.
        command, request: What was asked.
        binding: The lanes that its requests take.
        silent: Whether the client wants no reply (CLIENT REPLY).
        started_ns: When it arrived, by the node's timer.
    """

    __slots__ = ("binding", "client", "command", "request", "silent", "started_ns")

    binding: Binding

    def __init__(self, client: RouterHandler, command: Command, request: list[bytes]) -> None:
        super().__init__(exclusive=False)
        self.client = client
        self.command = command
        self.request = request
        self.silent = False
        self.started_ns = client.node.timer_ns()

    def start(self) -> None:
        """Send what is to be sent."""
        raise NotImplementedError  # An interface: every kind of exchange asks in its own way.

    def finish(self, reply: Reply, size_bytes: int = 0) -> None:
        """Answer the client, once; `size_bytes` is the size of a reply that came from a server."""
        self.complete(NO_REPLY if self.silent else reply)
        self.client.finished(self, reply, size_bytes)


class Forward(Exchange):
    """One request to the server that owns its keys.

    Attributes:
        upstream: Where it was sent last.
        cost_bytes: What it costs while it is under way.
        is_second: Whether it was sent again because a connection broke.
        refused_s: When a server refused it first; 0: none has.
    """

    __slots__ = ("cost_bytes", "is_second", "refused_s", "upstream")

    def __init__(self, client: RouterHandler, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.cost_bytes = request_cost(request)
        self.is_second = False
        self.refused_s = 0.0
        self.upstream: Upstream | None = None

    def owner(self, view: JobView) -> Upstream:
        """The server that it is for.

        Raises:
            CommandError: Nobody owns its keys, or several servers do.
        """
        command = self.command
        if command.single_key:
            return view.owner(key_slot(self.request[command.first_key]))
        request = self.request
        return view.common_owner(
            [key_slot(request[position]) for position in command.keys.positions(request)]
        )

    def start(self) -> None:
        """Send it by the client's map."""
        try:
            upstream = self.owner(self.client.view)
        except CommandError as error:
            self.finish(ErrorReply(error.text))
            return
        self.send(upstream)

    def reroute(self) -> None:
        """Send it again, by the newest map."""
        try:
            upstream = self.owner(self.client.router.view(self.binding.key[0]))
        except CommandError as error:
            self.finish(ErrorReply(error.text))
            return
        self.send(upstream)

    def send(self, upstream: Upstream) -> None:
        """Send it to a server, or have it wait until there is room."""
        self.upstream = upstream
        if not upstream.is_open and not upstream.admits(self):
            return
        self.dispatch(upstream)

    def dispatch(self, upstream: Upstream) -> None:
        """Send it to a server that has room."""
        lane = self.binding.lanes.get(upstream)
        if lane is None or lane.closed:
            try:
                lane = upstream.connect(self.binding)
            except OSError as error:
                reason = error.strerror or str(error)
                upstream.suspend(reason)
                self.fail(upstream.unreachable(reason))
                return
        lane.send(self)

    def answer(self, frame: bytes) -> None:
        """A server has answered: pass it on."""
        if frame[0] == _MINUS:
            # As a value, so that it is counted as an error.
            self.finish(ErrorReply(error_text(frame)), len(frame))
        else:
            self.finish(Encoded(frame), len(frame))

    def fail(self, text: bytes) -> None:
        """No answer will come."""
        self.client.router.counters.upstream_errors += 1
        self.finish(ErrorReply(text))


class ScanForward(Forward):
    """SCAN: the slot in the cursor says which server is to go on."""

    __slots__ = ()

    def owner(self, view: JobView) -> Upstream:
        """The owner of the cursor's slot; of a cursor that is none, anybody who can say so."""
        digits = self.request[1]
        slot = 0
        if digits.isdigit() and len(digits) <= _CURSOR_DIGITS_MAX:
            slot = int(digits) >> POSITION_BITS
        return view.owner(slot if slot < SLOT_COUNT else SLOT_COUNT - 1)

    def answer(self, frame: bytes) -> None:
        """The walk ends where the last server's slots end."""
        if frame.startswith(_SCAN_OVER):
            frame = _SCAN_ZERO + frame[len(_SCAN_OVER) :]
        super().answer(frame)


class SlotForward(Forward):
    """A command whose last but one or last argument is a slot: CLUSTER COUNTKEYSINSLOT."""

    __slots__ = ()

    def owner(self, view: JobView) -> Upstream:
        """The owner of the slot, which the handler has checked."""
        return view.owner(int(self.request[2]))
