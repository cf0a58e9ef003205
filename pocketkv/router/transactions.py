"""Transactions through a router: queued here, executed by one request to the one server concerned.

Between MULTI and EXEC nothing is sent. EXEC sends all of it as one request (`POCKETKV.EXEC`), on a
lane of the client alone, to the server that owns all of its keys: it is executed as a whole or not
at all, also while slots move. Keys of several servers are refused with ``-CROSSSLOT``, at EXEC, as
Redis Cluster does.

What is watched, the server's session behind that lane knows. When the lane ends, or the keys go to
another server, nobody can tell any more whether they have changed: then EXEC answers null, and the
client tries again.

Commands about the client's own connection are executed here, when the server has executed the
others; their replies stand where they belong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pocketkv.engine.commands import Command, Route
from pocketkv.engine.errors import CROSS_SLOT, CommandError, discarded_because
from pocketkv.engine.gate import run
from pocketkv.engine.transactions import Queue
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import NULL_ARRAY, Deferred, Encoded, ErrorReply, Reply
from pocketkv.router.exchange import Asker, scan_ended
from pocketkv.router.merge import elements_of
from pocketkv.router.private import PrivateForward
from pocketkv.router.private_lane import PrivateBinding, PrivateLane
from pocketkv.router.wire import error_text
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.session import Session
    from pocketkv.router.upstream import Upstream
    from pocketkv.router.view import JobView

_EXEC: Final = b"POCKETKV.EXEC"
# Of the commands that concern no keys, those that a storage server executes.
AT_SERVER: Final = frozenset(
    (
        *("publish", "pubsub|channels", "pubsub|numpat", "pubsub|numsub", "pubsub|shardchannels"),
        *("pubsub|shardnumsub", "function|dump", "function|list", "function|stats"),
        *("select", "time", "wait", "waitaof"),
    )
)
# Those that concern a job's servers together: in a transaction, there may be only one.
_OF_ALL: Final = (Route.ALL, Route.SCAN, Route.RANDOM)
_NOT_ALLOWED: Final = b"ERR Command not allowed inside a transaction"
_NULLS: Final = (b"*-1\r\n", b"_\r\n")
_SELECT: Final = "select"


class Watched:
    """What one client watches.

    Attributes:
        slots: Of the keys.
        upstream, lane: The server that was told, and the lane on which that was.
        is_broken: Whether it is not known any more whether they have changed.
    """

    __slots__ = ("is_broken", "lane", "slots", "upstream")

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.upstream: Upstream | None = None
        self.lane: PrivateLane | None = None
        self.is_broken = False

    def holds(self, view: JobView) -> bool:
        """Whether the server still knows, by this map."""
        if self.is_broken or self.lane is None or self.lane.closed:
            return False
        try:
            return view.common_owner(self.slots) is self.upstream
        except CommandError:
            return False


class WatchForward(PrivateForward):
    """WATCH: all keys that a client watches have to be on one server."""

    __slots__ = ()

    def owner(self, view: JobView) -> Upstream:
        """The owner of these keys, and of those that are watched already.

        Raises:
            CommandError: As `Forward.owner`.
        """
        slots = [key_slot(key) for key in self.request[1:]]
        watched = self._watched()
        if watched is not None and watched.holds(view):
            slots += watched.slots
        return view.common_owner(slots)

    def answer(self, frame: bytes) -> None:
        """It watches them now."""
        private = self.client.private()
        watched = private.watched
        assert self.upstream is not None  # It has answered.
        lane = private.lanes.get(self.upstream)
        assert isinstance(lane, PrivateLane)
        if watched is None:
            watched = private.watched = Watched()
            watched.upstream, watched.lane = self.upstream, lane
        elif watched.lane is not lane or lane.closed:
            watched.is_broken = True
        watched.slots += [key_slot(key) for key in self.request[1:]]
        super().answer(frame)

    def _watched(self) -> Watched | None:
        return self.client.private().watched


class ExecForward(PrivateForward):
    """EXEC of what was queued."""

    # There may be scripts in it.
    may_last: ClassVar[bool] = True

    __slots__ = ("_concerns_all", "_exec", "_here", "_queue", "_slots")

    def __init__(self, client: Asker, command: Command, request: list[bytes], queue: Queue) -> None:
        super().__init__(client, command, request)
        self._queue = queue
        # Which of the commands are not for the server.
        self._here = [is_here(inner) for inner, _ in queue]
        self._concerns_all = any(inner.route in _OF_ALL for inner, _ in queue)
        self._slots: list[int] = []
        whole = [_EXEC]
        for (inner, arguments), here in zip(queue, self._here, strict=True):
            if here:
                continue
            whole.append(b"%d" % len(arguments))
            whole += arguments
            self._slots += _slots_of(inner, arguments)
        self._exec = whole

    def inner(self) -> Queue:
        """The commands that the server executes."""
        pairs = zip(self._queue, self._here, strict=True)
        return [entry for entry, here in pairs if not here]

    def start(self) -> None:
        """Send it, if there is anything that the server must do."""
        self.request, self.frame = self._exec, None
        if len(self._exec) == 1 and self.client.private().watched is None:
            self._complete([])
            return
        super().start()

    def owner(self, view: JobView) -> Upstream:
        """The server that owns all of its keys; without keys, the one that was told what to watch.

        Raises:
            CommandError: CROSSSLOT, CLUSTERDOWN.
        """
        if view.sole is not None:
            return view.sole
        if self._concerns_all:
            raise CommandError(CROSS_SLOT)
        watched = self.client.private().watched
        slots = self._slots
        if watched is not None:
            slots = slots + watched.slots
        return view.common_owner(slots)

    def route(self, view: JobView) -> None:
        """Send it, unless what is watched is not known any more."""
        watched = self.client.private().watched
        if watched is not None and not watched.holds(view):
            self.finish(NULL_ARRAY, 0)
        else:
            super().route(view)

    def reroute(self) -> None:
        """It was refused: with keys that are watched, it is not known what has become of them."""
        watched = self.client.private().watched
        if watched is not None:
            watched.is_broken = True
        super().reroute()

    def answer(self, frame: bytes) -> None:
        """It was executed, or what was watched has changed."""
        if frame in _NULLS or not (any(self._here) or self._concerns_all or self._selects()):
            self.finish(Encoded(frame), len(frame))
            return
        try:
            elements = elements_of(frame)
        except ProtocolError as error:
            self.fail(b"ERR The storage server's answer is wrong: %b" % str(error).encode())
        else:
            self._complete(elements)

    def answer_error(self, frame: bytes) -> None:
        """Nothing was executed."""
        self.finish(ErrorReply(discarded_because(error_text(frame))), len(frame))

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """The transaction is over, and nothing is watched any more."""
        is_null = reply is NULL_ARRAY or (isinstance(reply, Encoded) and reply.raw in _NULLS)
        if not is_null and not isinstance(reply, ErrorReply):
            self._count()
        unwatch(self.client.private(), is_told=not isinstance(reply, Encoded | list))
        super().finish(reply, size_bytes)

    def _count(self) -> None:
        """Have INFO tell of what was executed, each with its share of the time."""
        inner = self.inner()
        node = self.client.session.node
        duration_ns = (node.stopwatch.now_ns() - self.started_ns) // max(1, len(inner))
        for command, _ in inner:
            node.count_inner(command, duration_ns)

    def _selects(self) -> bool:
        return any(inner.name == _SELECT for inner, _ in self._queue)

    def _complete(self, elements: list[bytes]) -> None:
        """Execute what is for here, and put all replies in their places."""
        session = self.client.session
        protocol = session.protocol
        remaining = iter(elements)
        replies: list[Reply] = []
        for (inner, arguments), here in zip(self._queue, self._here, strict=True):
            if here:
                reply = run(session, arguments)
                known = isinstance(reply, Deferred)
                replies.append(reply if known else Encoded(encode_reply(reply, protocol)))
                continue
            frame = next(remaining)
            if inner.name == _SELECT and frame[:1] == b"+":
                session.select(int(arguments[1]))
                self._lane_follows(session.db.index)
            elif inner.route is Route.SCAN:
                frame = scan_ended(frame)
            replies.append(Encoded(frame))
        self._finish_when_known(replies, sum(map(len, elements)))

    def _lane_follows(self, database: int) -> None:
        """The server's session has selected a database by itself."""
        assert self.upstream is not None  # It has answered.
        lane = self.binding.lanes.get(self.upstream)
        if isinstance(lane, PrivateLane):
            lane.database = database

    def _finish_when_known(self, replies: list[Reply], size_bytes: int) -> None:
        waits_for = [reply for reply in replies if isinstance(reply, Deferred)]
        if not waits_for:
            self.finish(replies, size_bytes)
            return

        def on_known() -> None:
            if all(deferred.done for deferred in waits_for) and not self.done:
                known = [r.reply if isinstance(r, Deferred) else r for r in replies]
                self.finish(known, size_bytes)

        for deferred in waits_for:
            deferred.listen(on_known)


def ends_transaction(session: Session, command: Command) -> bool:
    """Whether a command is executed although its client is in MULTI: EXEC, DISCARD, RESET ..."""
    transaction = session.transaction
    assert transaction is not None  # The caller has looked.
    return not transaction.keeps(command) and command.route is Route.NODE


def is_here(command: Command) -> bool:
    """Whether a command of a transaction is executed by the router."""
    return command.route is Route.NODE and command.name not in AT_SERVER


def check_queued(command: Command, view: JobView) -> None:
    """Refuse a command that cannot be in a transaction of this job.

    Raises:
        CommandError: It cannot.
    """
    if command.route is Route.CONTROL:
        raise CommandError(_NOT_ALLOWED)
    if command.route in _OF_ALL and view.sole is None:
        raise CommandError(CROSS_SLOT)


def ends_watch(request: list[bytes], *, in_transaction: bool) -> bool:
    """Whether a client watches nothing once a request was executed at the router.

    Without MULTI, EXEC is an error that changes nothing; one with arguments is refused, which ends
    in Redis what there is of a transaction, and what is watched for it.
    """
    name = request[0].upper()
    if name == b"EXEC":
        return in_transaction or len(request) > 1
    return len(request) == 1 and (name == b"UNWATCH" or (name == b"DISCARD" and in_transaction))


def unwatch(private: PrivateBinding | None, *, is_told: bool = True) -> None:
    """Watch nothing any more.

    Args:
        private: The client's lanes; ``None``: it has none, and so watches nothing.
        is_told: Whether the server has to be told.
    """
    if private is None or private.watched is None:
        return
    watched, private.watched = private.watched, None
    lane = watched.lane
    if is_told and lane is not None and not lane.closed:
        lane.set_up(b"UNWATCH")


def _slots_of(command: Command, request: list[bytes]) -> list[int]:
    """The slots of a command's keys; none if it will be refused for how it names them."""
    try:
        return [key_slot(request[position]) for position in command.keys.positions(request)]
    except CommandError:
        return []
