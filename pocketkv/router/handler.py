"""What a router does with one client's requests.

Commands about the connection and the router itself are executed here, by the engine's gate. All
others become exchanges with the storage servers; their replies leave in the order of the
requests, whichever server answers first.

The order of one client's commands is kept at each server too: all of its requests to a server
take the same lane. When the lane or the owner of a key may change (another database, a newer map,
a request that had to be sent again), the next request waits until all before it are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.calling import call
from pocketkv.engine.commands import Command, Route
from pocketkv.engine.errors import CommandError, unknown_command
from pocketkv.engine.gate import admit, enqueue, refuse, run
from pocketkv.engine.monitor import show, show_end
from pocketkv.engine.pauses import hold, holds
from pocketkv.engine.session import Session
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import NO_REPLY, Deferred, Encoded, ErrorReply, Reply
from pocketkv.router.control import ControlExchange
from pocketkv.router.exchange import Asker, Exchange, Forward, ScanForward, SlotForward
from pocketkv.router.info import InfoGather
from pocketkv.router.own_lanes import OwnLanes
from pocketkv.router.private import WaitingForward, may_block
from pocketkv.router.private_lane import PrivateBinding
from pocketkv.router.publishing import PublishForward, PubSubGather
from pocketkv.router.scripts import (
    BusyPing,
    FunctionForward,
    KillGather,
    LoadedGather,
    LongestGather,
    LongForward,
    OneGather,
    SameGather,
    ScriptForward,
    StatsGather,
)
from pocketkv.router.settings import ConfigSetGather, DigestGather, OkGather
from pocketkv.router.split import AllGather, RandomKey, SplitForward, SplitGather
from pocketkv.router.transactions import (
    ExecForward,
    WatchForward,
    check_queued,
    ends_transaction,
    ends_watch,
)
from pocketkv.router.upstream import Binding
from pocketkv.router.wire import request_cost
from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.engine.tracking import TrackingClient
    from pocketkv.router.routing import Router

_NODE: Final = Route.NODE
_KEYS: Final = Route.KEYS
_SPLIT: Final = Route.SPLIT
_KINDS: Final[dict[Route, type[Exchange]]] = {
    Route.KEYS: Forward,
    Route.SPLIT: SplitGather,
    Route.ALL: AllGather,
    Route.SCAN: ScanForward,
    Route.RANDOM: RandomKey,
    Route.CONTROL: ControlExchange,
}
# Commands about the node that are answered here, which a job's servers have to be asked about.
_ASKED: Final[dict[str, type[Exchange]]] = {
    "config|set": ConfigSetGather,
    "debug|digest": DigestGather,
    "debug|loadaof": OkGather,
    "debug|quicklist-packed-threshold": OkGather,
    "debug|reload": OkGather,
    "debug|set-disable-deny-scripts": OkGather,
    "function|dump": LongestGather,
    "function|list": LongestGather,
    "function|stats": StatsGather,
    "info": InfoGather,
    "ping": BusyPing,
    "publish": PublishForward,
    "pubsub|channels": PubSubGather,
    "pubsub|numpat": PubSubGather,
    "pubsub|numsub": PubSubGather,
    "pubsub|shardchannels": PubSubGather,
    "pubsub|shardnumsub": PubSubGather,
    "cluster|countkeysinslot": SlotForward,
    "cluster|getkeysinslot": SlotForward,
}
# Commands of which every part of a key goes to its owner, and yet not as others do.
_KEYED: Final[dict[str, type[Forward]]] = {
    "eval": LongForward,
    "eval_ro": LongForward,
    "evalsha": ScriptForward,
    "evalsha_ro": ScriptForward,
    "fcall": FunctionForward,
    "fcall_ro": FunctionForward,
    "watch": WatchForward,
}
# Commands for all servers whose answers become one in a way of their own.
_OF_ALL: Final[dict[str, type[Exchange]]] = {
    "function|delete": OneGather,
    "function|kill": KillGather,
    "function|load": SameGather,
    "script|exists": LoadedGather,
    "script|kill": KillGather,
    "script|load": SameGather,
}
# Those with keys that are executed here: a sharded channel is listened to wherever its slot is.
_HERE: Final = frozenset(("ssubscribe", "sunsubscribe"))
# Replies that are small enough for a client to have `OUTSTANDING_REQUESTS_MAX` of them under way.
_SMALL_REPLY_BYTES: Final = limits.CLIENT_REPLIES_TARGET_BYTES // limits.OUTSTANDING_REQUESTS_MAX
_LARGE_BYTES: Final = limits.STREAMED_REPLY_BYTES


class RouterHandler(Asker):
    """One client of the router.

    Attributes:
        binding: The lanes that its requests take.
    """

    __slots__ = (
        "_barrier",
        "_bulky_for",
        "_caching",
        "_connection",
        "_counters",
        "_database",
        "_finished_ns",
        "_holds",
        "_is_on_bulky_lane",
        "_is_scripting",
        "_own",
        "_protocol",
        "_reply_bytes",
        "_unchecked_bytes",
        "binding",
        "node",
    )

    def __init__(self, router: Router, session: Session, connection: ClientConnection) -> None:
        self.router = router
        self.node = router.node
        self.session = session
        self.closed = False
        self.in_flight = 0
        self.is_unsettled = False
        self._connection = connection
        self._counters = router.counters
        # Requests are passed on as they came.
        connection.parser.keep_frames = True
        # When the last reply came, by the node's timer.
        self._finished_ns = 0
        # A request that waits until all before it are answered; then there is no other.
        self._barrier: Exchange | None = None
        # Reasons for which nothing more is taken from the client.
        self._holds = 0
        # What a reply is taken to be: the largest of the last ones.
        self._reply_bytes = limits.CLIENT_REPLY_GUESS_BYTES
        # For how many more requests it is taken to move large values.
        self._bulky_for = 0
        self._is_on_bulky_lane = False
        self._is_scripting = False
        self._own = OwnLanes(self, connection)
        self._caching = b""
        # Large replies since it was last checked how much the client leaves unread.
        self._unchecked_bytes = 0
        self._bind()
        self._open_window()

    def _bind(self) -> None:
        """Follow the session's job, database and protocol, and the newest map."""
        session = self.session
        self._database = session.db
        self._protocol = session.protocol
        self.view = self.router.view(session.job_id)
        self._is_on_bulky_lane = self._bulky_for > 0
        self.is_unsettled = False
        binding: Binding
        if self._own.are_for_all:
            binding = self._own.private()
        else:
            binding = self._shared_binding()
        self.binding = binding

    def _shared_binding(self) -> Binding:
        """The lanes that it shares with others."""
        session = self.session
        number = self.router.lane_number(session.id, self._is_on_bulky_lane, self._is_scripting)
        return Binding((session.job_id, session.db.index, session.protocol, number))

    # --- requests ------------------------------------------------------------------------------

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request, here or by asking the storage servers."""
        return self._execute(request, self._connection.parser.frame)

    def _execute(self, request: list[bytes], frame: bytes | None) -> Reply:
        try:
            command = admit(self.session, request)
        except CommandError:
            return self._execute_here(request)
        exchange: Exchange | None
        if self.session.transaction is not None:
            if self.node.pauses and holds(self.session, command, request):
                return hold(self.session, request, self._resume)
            if not ends_transaction(self.session, command):
                return self._queue(command, request)
            exchange = self._exec(command, request)
        else:
            exchange = self._exchange(command, request)
        if exchange is None:
            return self._execute_here(request)
        if self.node.pauses and holds(self.session, command, request):
            return hold(self.session, request, self._resume)
        if self.session.tracking is not None:
            self._mind_caching(self.session.tracking, exchange)
        if self.node.monitors:
            self._show(command, request, exchange)
        exchange.frame = frame
        self._begin(exchange)
        return exchange

    def _exchange(self, command: Command, request: list[bytes]) -> Exchange | None:
        """What answers a request; ``None``: the engine does, here."""
        route = command.route
        if route is _KEYS:
            if command.blocks and may_block(command, request):
                return WaitingForward(self, command, request)
            kind = _KEYED.get(command.name)
            if kind is not None:
                if kind.may_last and not self._is_scripting and self.session.user is None:
                    self._is_scripting = self.is_unsettled = True
                return kind(self, command, request)
            return None if command.name in _HERE else Forward(self, command, request)
        if route is _SPLIT and (
            self.view.sole is not None or len(request) == command.first_key + command.keys.step
        ):
            return SplitForward(self, command, request)
        if route is not _NODE:
            return (_OF_ALL.get(command.name) or _KINDS[route])(self, command, request)
        asked = _ASKED.get(command.name)
        if asked is None or not self._is_askable(asked, request):
            return None
        return asked(self, command, request)

    def _is_askable(self, kind: type[Exchange], request: list[bytes]) -> bool:
        """Whether servers are asked; if not, the engine answers here, or says what is wrong."""
        if kind is BusyPing:
            return bool(self.router.lasting_scripts_at(self.session.job_id))
        if kind is not SlotForward:
            return True
        digits = request[2]
        return digits.isdigit() and len(digits) <= 5 and int(digits) < SLOT_COUNT

    def _show(self, command: Command, request: list[bytes], exchange: Exchange) -> None:
        """Show a request to those who monitor, and those that a transaction consists of."""
        if not isinstance(exchange, ExecForward):
            show(self.session, command, request)
            return
        for inner, arguments in exchange.inner():
            show(self.session, inner, arguments)
        show_end(self.session, command, request)

    def _mind_caching(self, tracking: TrackingClient, exchange: Exchange) -> None:
        """Have CLIENT CACHING concern the next request alone, on whichever lanes it goes."""
        if tracking.caching:
            tracking.caching = False
            self._caching = b"YES" if tracking.opt_in else b"NO"
            exchange.exclusive = True

    def _queue(self, command: Command, request: list[bytes]) -> Reply:
        """Have a request wait for EXEC, or answer one that cannot be in a transaction."""
        if command.route is _KEYS and command.name == "watch":
            return self._refuse_inside(command, request)
        try:
            check_queued(command, self.view)
        except CommandError as error:
            return refuse(self.session, request, command, error)
        return enqueue(self.session, command, request)

    def _refuse_inside(self, command: Command, request: list[bytes]) -> Reply:
        """What the handler says of a command that it does not execute in a transaction."""
        try:
            return command.handler(self.session, request)
        except CommandError as error:
            return ErrorReply(error.text)

    def _exec(self, command: Command, request: list[bytes]) -> Exchange | None:
        """What executes the transaction; ``None``: the engine says why there is nothing to do."""
        session = self.session
        transaction = session.transaction
        assert transaction is not None  # The caller has looked.
        if command.name != "exec" or transaction.failed:
            return None
        session.transaction = None
        return ExecForward(self, command, request, transaction.queue)

    def _resume(self, _session: Session, request: list[bytes]) -> Reply:
        """Execute what CLIENT PAUSE has held."""
        return self._execute(request, None)

    def _execute_here(self, request: list[bytes]) -> Reply:
        """Let the engine answer; its reply waits behind those that are still to come."""
        if request[0][:9].upper() == b"POCKETKV.":
            # Such commands are between servers.
            reply: Reply = ErrorReply(unknown_command(request).text)
        elif request[0][:1] in b"sS" and request[0].lower().decode("latin-1") in _HERE:
            reply = self._call_here(request)
        else:
            unwatches = ends_watch(request, in_transaction=self.session.transaction is not None)
            reply = run(self.session, request)
            if (
                self._own.binding is not None
                or self.session.tracking is not None
                or self.session.monitoring
            ) and self._own.follow(self.session, unwatches=unwatches):
                self.is_unsettled = True
                reply = self._own.settled(reply)
        if not self._connection.outstanding or isinstance(reply, Deferred) or reply is NO_REPLY:
            return reply
        # The protocol version may change before its turn comes.
        return Encoded(encode_reply(reply, self.session.protocol))

    def _call_here(self, request: list[bytes]) -> Reply:
        """Let the engine execute a command whose keys are not looked at here."""
        session = self.session
        try:
            command = admit(session, request)
        except CommandError:
            return run(session, request)
        session.last_command = command.name
        session.last_active_ms = self.node.clock.now_ms
        return call(session, command, request)

    def _begin(self, exchange: Exchange) -> None:
        """Start it, unless it has to wait for those before it."""
        session = self.session
        node = self.node
        exchange.started_ns = node.stopwatch.now_ns()
        session.last_active_ms = node.clock.now_ms
        session.last_command = exchange.command.name
        if session.reply_off or session.reply_skip:
            exchange.silent = True
            if session.reply_skip:
                session.reply_skip -= 1
        if (
            session.db is not self._database
            or self._connection.outbox.protocol != self._protocol
            or self.view.is_stale
            or self.is_unsettled
        ):
            if self.in_flight:
                self._wait(exchange)
                return
            self._bind()
        elif exchange.exclusive and self.in_flight:
            self._wait(exchange)
            return
        elif self._is_on_bulky_lane and self._bulky_for == 0 and self.in_flight == 0:
            self._bind()
        self._start(exchange)

    def _wait(self, exchange: Exchange) -> None:
        """Have it wait until all before it are answered, and the client with it."""
        self._barrier = exchange
        self.hold()

    def _start(self, exchange: Exchange) -> None:
        self.in_flight += 1
        self._counters.proxied += 1
        exchange.binding = self.binding
        exchange.start()

    # --- lanes of its own ----------------------------------------------------------------------

    def private(self) -> PrivateBinding:
        """The lanes of this client alone."""
        return self._own.private()

    def pushed(self, frame: bytes) -> None:
        """A server has sent a message on one of these."""
        self._own.pushed(frame)

    def caching(self) -> bytes:
        """What CLIENT CACHING has said of the request under way; empty: nothing."""
        return self._caching

    def tracking_lost(self) -> None:
        """A server that would have told of changed keys has forgotten that it should."""
        self._own.lost()

    # --- replies -------------------------------------------------------------------------------

    def finished(self, exchange: Exchange, reply: Reply, size_bytes: int) -> None:
        """A request is answered (its reply has its place in the order already)."""
        node = self.node
        now_ns = node.stopwatch.now_ns()
        # What a reply took while the client waited for an earlier one is not its time.
        began_ns = max(exchange.started_ns, self._finished_ns)
        self._finished_ns = now_ns
        node.record_call(self.session, exchange.command, exchange.request, now_ns - began_ns, reply)
        self.in_flight -= 1
        if self._caching:
            self._caching = b""
        if size_bytes >= _LARGE_BYTES or (
            exchange.frame is None and request_cost(exchange.request, None) >= _LARGE_BYTES
        ):
            self._moved_much()
        elif self._bulky_for > 0:
            self._bulky_for -= 1
        if size_bytes > _SMALL_REPLY_BYTES or self._reply_bytes > _SMALL_REPLY_BYTES:
            self._on_large_reply(size_bytes)
        if self.in_flight == 0 and (self._barrier is not None or self.is_unsettled):
            self._settle()

    def _moved_much(self) -> None:
        """Let large values hold up only each other: take a lane for such from the next request."""
        self._bulky_for = limits.BULKY_REQUESTS
        if not self._is_on_bulky_lane:
            self.is_unsettled = True

    def _settle(self) -> None:
        """Everything is answered: the request that waited for that may go."""
        self._bind()
        exchange, self._barrier = self._barrier, None
        if exchange is not None:
            if not self.closed:
                self._start(exchange)
            self.release()

    def relay(self, reply: Exchange, piece: memoryview) -> int:
        """Send a piece of a reply at once, as far as it is its turn; how much was sent."""
        return self._connection.relay(reply, piece)

    def relay_spliced(self, reply: Exchange, send_piece: Callable[[int], int]) -> int:
        """The same, by a function that is given the descriptor."""
        return self._connection.relay_by(reply, send_piece)

    def takes(self, reply: Exchange) -> bool:
        """Whether a piece of a reply can be sent at once."""
        return self._connection.is_next(reply)

    def cut_off(self, reason: str) -> None:
        """The client has a part of a reply whose rest will not come."""
        if not self.closed:
            self.router.reactor.drop(self._connection, reason)

    # --- back-pressure -------------------------------------------------------------------------

    def hold(self) -> None:
        """Take no more requests until `release` was called as often."""
        self._holds += 1
        self._connection.outstanding_max = 0

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if not self._holds:
            self._open_window()
            self.router.reactor.schedule(self._connection)

    def _open_window(self) -> None:
        """Let the client ask for as much as may be on its way to it at a time."""
        if self._holds:
            return
        allowed = limits.CLIENT_REPLIES_TARGET_BYTES // max(self._reply_bytes, 1)
        self._connection.outstanding_max = max(1, min(allowed, limits.OUTSTANDING_REQUESTS_MAX))

    def _on_large_reply(self, size_bytes: int) -> None:
        """Adapt to the size of the replies."""
        if size_bytes > self._reply_bytes:
            self._reply_bytes = size_bytes
        else:
            self._reply_bytes -= (self._reply_bytes - size_bytes + 15) >> 4
        self._open_window()
        self.on_piece(size_bytes)

    def on_piece(self, size_bytes: int) -> None:
        """Drop a client that leaves too much of its replies unread."""
        self._unchecked_bytes += size_bytes
        if self._unchecked_bytes > limits.CLIENT_REPLIES_TARGET_BYTES and not self.closed:
            self._unchecked_bytes = 0
            if self._connection.unsent_reply_bytes > limits.CLIENT_REPLIES_MAX_BYTES:
                self.router.reactor.drop(self._connection, "too many bytes of replies wait for it")

    def on_close(self) -> None:
        """The client is gone; what it asked for goes on and is answered to nobody."""
        self.closed = True
        self._barrier = None
        self._own.close()
        self.node.close_session(self.session)
