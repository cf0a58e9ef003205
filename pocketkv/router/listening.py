"""Subscriptions through a router: the router listens for its clients, at every server of the job.

Who has subscribed to what, the engine knows here as on a storage server (`pocketkv.engine.pubsub`).
For each job with subscribers the router has one lane to each of the job's servers, and tells there
for how many clients it listens to each name. A server tells its listeners what is published at it,
and what happens to its keys; the other servers do not tell them again. So everything comes once,
and PUBLISH counts everybody.

A confirmation waits until all servers have been told, so that nothing is missed that is published
after it. A server that goes, comes, or loses its lane is told everything anew; a sharded channel
is listened to where its slot is. Clients notice none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from pocketkv.engine.commands import COMMANDS
from pocketkv.engine.errors import CommandError
from pocketkv.engine.pubsub import Kind
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Deferred, ErrorReply, Reply
from pocketkv.router.exchange import Forward
from pocketkv.router.lane import Lane
from pocketkv.router.upstream import LISTENING_NUMBER, Binding, Failure, Upstream
from pocketkv.router.wire import push_items, request_cost
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    import socket

    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.resp.reactor import Reactor
    from pocketkv.router.routing import Router
    from pocketkv.router.view import JobView

_WORDS: Final = (b"CHANNEL", b"PATTERN", b"SHARD")
_KINDS: Final = {b"message": Kind.CHANNEL, b"pmessage": Kind.PATTERN, b"smessage": Kind.SHARD}
_PAUSE_S: Final = 0.1

Name = tuple[Kind, bytes]


class ListenBinding(Binding):
    """The lanes on which a router listens in one job."""

    __slots__ = ("listener",)

    def __init__(self, listener: JobListener) -> None:
        super().__init__((listener.space.job_id, 0, 3, LISTENING_NUMBER))
        self.listener = listener


class ListenLane(Lane):
    """The lane to one server on which messages come."""

    __slots__ = ("_listener",)

    def __init__(
        self, reactor: Reactor, sock: socket.socket, upstream: Upstream, binding: ListenBinding
    ) -> None:
        self._listener = binding.listener
        super().__init__(reactor, sock, upstream, binding.key)

    def on_push(self, frame: bytes) -> None:
        """Pass a message on to those who have subscribed here."""
        self._listener.pushed(push_items(frame))

    def on_sweep(self, now_s: float) -> None:
        """It may be silent for as long as somebody listens."""
        is_idle = self.is_ready and not self.pending and not self.upstream.is_retired
        if is_idle and self._listener.counts:
            return
        Lane.on_sweep(self, now_s)

    def on_closed(self) -> None:
        """What was listened to has to be told anew."""
        Lane.on_closed(self)
        self._listener.lost(self.upstream)


class _Told(Forward):
    """``POCKETKV.LISTEN`` on its way to one server."""

    __slots__ = ("_job", "_name", "waits")

    streams = False

    def __init__(
        self, listener: JobListener, upstream: Upstream, name: Name, count: int, waits: _Waits
    ) -> None:
        request = [b"POCKETKV.LISTEN", _WORDS[name[0]], name[1], b"%d" % count]
        super().__init__(listener.router.nobody, COMMANDS[request[0]], request)
        self.cost_bytes = request_cost(request, None)
        self.binding = listener.binding
        self.upstream = upstream
        self.waits = waits
        self._job = listener
        self._name = name

    def owner(self, view: JobView) -> Upstream:
        """The server that it is for: another one is told otherwise."""
        assert self.upstream is not None  # Set when it is made.
        return self.upstream

    def reroute(self) -> None:
        """The server does not have the slot: whoever has it is told."""
        self.finish(ErrorReply(b"MOVED"), 0)

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """One server knows, or it does not and has to be told later."""
        if self.done:
            return
        self.complete(reply)
        if isinstance(reply, ErrorReply):
            assert self.upstream is not None  # As above.
            self._job.not_told(self.upstream, self._name)
        self.waits.one_less()


class _Waits:
    """Servers that have not answered yet."""

    __slots__ = ("answer", "left")

    def __init__(self, count: int) -> None:
        self.left = count
        self.answer = Deferred(exclusive=True)

    def one_less(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.answer.complete(None)


class JobListener:
    """What a router listens to in one job.

    Attributes:
        space: The job, as the engine knows it here.
        binding: Its lanes.
        counts: For how many clients it listens to each name.
        told: What each server was told last; a server that is not here has to be told everything.
    """

    def __init__(self, router: Router, space: JobSpace, listening: RouterListening) -> None:
        self.router = router
        self.space = space
        self.binding = ListenBinding(self)
        self.counts: dict[Name, int] = {}
        self.told: dict[Upstream, dict[Name, int]] = {}
        self._listening = listening

    def changed(self, name: Name, count: int) -> Deferred | None:
        """So many clients listen to a name; completed once the servers know."""
        if count:
            self.counts[name] = count
        else:
            self.counts.pop(name, None)
        return self._tell([name])

    def follow(self) -> None:
        """Tell everybody what they do not know, by the newest map; leave who is none any more."""
        servers = self._servers()
        for upstream in [u for u in self.told if u not in servers]:
            del self.told[upstream]
            lane = self.binding.lanes.pop(upstream, None)
            if lane is not None:
                lane.give_up(Failure.CLOSED, "nobody listens to it any more")
        known = {name for told in self.told.values() for name in told}
        self._tell([*self.counts, *(known - self.counts.keys())])

    def _tell(self, names: list[Name]) -> Deferred | None:
        """Tell the servers for how many clients they are listened to."""
        pending: list[tuple[Upstream, Name, int]] = []
        for name in names:
            count = self.counts.get(name, 0)
            for upstream in self._servers():
                wanted = count if self._concerns(upstream, name) else 0
                told = self.told.setdefault(upstream, {})
                if told.get(name, 0) != wanted:
                    pending.append((upstream, name, wanted))
                    if wanted:
                        told[name] = wanted
                    else:
                        del told[name]
        if not pending:
            return None
        waits = _Waits(len(pending))
        for upstream, name, count in pending:
            forward = _Told(self, upstream, name, count, waits)
            forward.send(upstream)
        return waits.answer

    def _servers(self) -> list[Upstream]:
        if not self.counts and not self.told:
            return []
        return self.router.view(self.space.job_id).known_owners()

    def _concerns(self, upstream: Upstream, name: Name) -> bool:
        """Whether a name is listened to at a server: a sharded channel at its slot's owner only."""
        kind, channel = name
        if kind != Kind.SHARD:
            return True
        try:
            return self.router.view(self.space.job_id).owner(key_slot(channel)) is upstream
        except CommandError:
            return False

    # --- what happens to lanes -----------------------------------------------------------------

    def lost(self, upstream: Upstream) -> None:
        """A lane has ended: its server has forgotten everything."""
        self.told.pop(upstream, None)
        self.binding.lanes.pop(upstream, None)
        self._listening.has_changed(self.space.job_id)

    def not_told(self, upstream: Upstream, name: Name) -> None:
        """A server could not be told."""
        self.told.get(upstream, {}).pop(name, None)
        self._listening.has_changed(self.space.job_id)

    # --- what comes ----------------------------------------------------------------------------

    def pushed(self, items: list[bytes | None]) -> None:
        """Something was published.

        Raises:
            ProtocolError: It is no message.
        """
        kind = _KINDS.get(items[0] or b"")
        if kind is None:
            if items[0] == b"sunsubscribe" and items[1] is not None:
                # Its slot has gone to another server, where it is listened to from now on.
                for told in self.told.values():
                    told.pop((Kind.SHARD, items[1]), None)
                self._listening.has_changed(self.space.job_id)
            return
        if len(items) != (4 if kind == Kind.PATTERN else 3):
            raise ProtocolError("a message that is none")
        name, channel, message = items[1], items[-2], items[-1]
        if name is None or channel is None or message is None:
            raise ProtocolError("a message without its text")
        pubsub = self.space.pubsub
        if pubsub is not None:
            pubsub.deliver(kind, name, channel, message)

    def close(self) -> None:
        """Nobody listens any more."""
        self.counts.clear()
        self.told.clear()
        for lane in list(self.binding.lanes.values()):
            lane.give_up(Failure.CLOSED, "nobody listens to it any more")


class RouterListening:
    """The `engine.pubsub.Listening` of a router."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._jobs: dict[str, JobListener] = {}
        self._changed: dict[str, None] = {}
        self._wake = trio.Event()

    def changed(self, space: JobSpace, kind: Kind, name: bytes, count: int) -> Deferred | None:
        """As `engine.pubsub.Listening`."""
        listener = self._jobs.get(space.job_id)
        if listener is None:
            listener = self._jobs[space.job_id] = JobListener(self._router, space, self)
        return listener.changed((kind, name), count)

    def job_ended(self, job_id: str) -> None:
        """Forget a job."""
        listener = self._jobs.pop(job_id, None)
        if listener is not None:
            listener.close()

    def topology_changed(self) -> None:
        """Maps have changed: tell servers that came, leave those that went."""
        for job_id in self._jobs:
            self.has_changed(job_id)

    def has_changed(self, job_id: str) -> None:
        """Servers have to be told something of a job, soon."""
        if job_id in self._jobs:
            self._changed[job_id] = None
            self._wake.set()

    async def run(self) -> None:
        """Tell them; a task for as long as the router runs."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            changed, self._changed = self._changed, {}
            for job_id in changed:
                listener = self._jobs.get(job_id)
                if listener is not None and not self._router.is_closing:
                    listener.follow()
            await trio.sleep(_PAUSE_S)
