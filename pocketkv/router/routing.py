"""What a router knows and decides: views of maps, servers, and what becomes of a failed request.

A request goes to the owner of its keys by the router's map. A server that does not own them (its
map is newer, or older) refuses it, and tells its map. What was refused is sent again in the same
order: at once if a newer map names another owner, else after a short pause, for a bounded time.
The client never sees it.

What a lane that ends still owed is answered with an error that says whether the command may have
been executed; a command that only reads is asked once more instead, and one that blocks: its client
could do no better.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from pocketkv import limits
from pocketkv.engine.errors import CROSS_SLOT, NO_MAP, CommandError
from pocketkv.placement import PlacementError, PlacementMap
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import ErrorReply, Reply
from pocketkv.router.counters import RouterCounters
from pocketkv.router.errands import Errand, Nobody, errand_binding
from pocketkv.router.lane import Lane, begin_connect
from pocketkv.router.listening import ListenBinding, ListenLane, RouterListening
from pocketkv.router.private_lane import PrivateBinding, PrivateLane, SpareBinding
from pocketkv.router.relay import Relay
from pocketkv.router.settings import SharedSettings
from pocketkv.router.upstream import SCRIPTING_NUMBER, SPARE_NUMBER, Failure, Upstream
from pocketkv.router.view import JobView
from pocketkv.router.wire import bulk_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.engine.node import Node
    from pocketkv.engine.randomness import Randomness
    from pocketkv.resp.reactor import Reactor
    from pocketkv.router.exchange import Asker, Forward
    from pocketkv.router.own_lanes import OwnLanes
    from pocketkv.router.upstream import Binding, LaneKey
    from pocketkv.serving.membership import Membership

_RESOLVE_TIMEOUT_S: Final = 2.0


def _spare_key(job_id: str) -> LaneKey:
    """Of the lane that a server has for whichever client of a job needs one next."""
    return job_id, 0, 2, SPARE_NUMBER


def _ignore(_reply: Reply) -> None:
    """For what is asked without a question."""


_NULLS: Final = (b"$-1\r\n", b"_\r\n")

NO_PLACEMENT: Final = b"CLUSTERDOWN The job has no placement"
NOT_SERVED: Final = b"CLUSTERDOWN Hash slot not served"


class Router:
    """The state of one router process.

    Args:
        node: Identity, sessions, and the topology that views are made of.
        randomness: For RANDOMKEY.
        log: The process's log.

    Attributes:
        reactor: Holds the connections on both sides; set before the first client is served.
        nursery: Where what cannot be done at once is done; ``None`` while there is none.
        membership: The link to the controller, if there is one.
        upstreams: The storage servers by id.
        lanes_open: Connections to all of them.
        relay: What long replies pass through.
        nobody: The client of what the router asks for itself.
        settings: What is set at the servers of jobs.
        listening: Listens for clients that have subscribed to something.
        is_closing: Whether the process is about to stop, so that nothing is tried again.
    """

    reactor: Reactor

    def __init__(self, node: Node, randomness: Randomness, log: logging.Logger) -> None:
        self.node = node
        self.randomness = randomness
        self.log = log
        self.nursery: trio.Nursery | None = None
        self.membership: Membership | None = None
        self.upstreams: dict[str, Upstream] = {}
        self.lanes_open = 0
        self.relay = Relay()
        self.counters = RouterCounters()
        self.is_closing = False
        self.nobody = Nobody(self)
        # Clients that every server of their jobs may have to tell something.
        self.broadcasting: dict[OwnLanes, None] = {}
        self.settings = SharedSettings(self)
        self.listening = RouterListening(self)
        node.listening = self.listening
        # Scripts under way, by job, the oldest first.
        self._scripts: dict[str, dict[Forward, None]] = {}
        self._errand_bindings: dict[str, Binding] = {}
        self._views: dict[str, JobView] = {}
        self._resolving: set[Upstream] = set()
        # What is to be sent again, in order, and when.
        self._delayed: deque[tuple[float, list[Forward]]] = deque()
        self._delay_began = trio.Event()

    def controller_joined(self) -> bool:
        """Whether the controller is there."""
        return self.membership is not None and self.membership.joined

    def held_requests(self) -> int:
        """Requests that wait for room, or for a server to take them."""
        delayed = sum(len(batch) for _, batch in self._delayed)
        return delayed + sum(len(upstream.held) for upstream in self.upstreams.values())

    def lane_number(self, session_id: int, is_bulky: bool, is_scripting: bool) -> int:
        """Which of a job's lanes a client takes; with many jobs there is only one for each.

        Clients that move small values share one lane, so that what they ask leaves in one send;
        those that move large ones share the others, and those that execute scripts have one of
        their own, since a script may last.
        """
        if is_scripting:
            return SCRIPTING_NUMBER
        if not is_bulky or self.lanes_open > self.reactor.connections_max // 4:
            return 0
        return 1 + session_id % (limits.UPSTREAM_LANES - 1)

    def open_lane(self, upstream: Upstream, binding: Binding) -> Lane:
        """The lane of a client's binding to a server, opened if it is not.

        Raises:
            OSError: There can be no connection.
        """
        lane: Lane | None
        if isinstance(binding, PrivateBinding):
            lane = self._spare_for(upstream, binding)
        else:
            lane = upstream.lanes.get(binding.key)
        if lane is None:
            sock = begin_connect(upstream)
            if isinstance(binding, PrivateBinding):
                lane = PrivateLane(self.reactor, sock, upstream, binding)
            elif isinstance(binding, ListenBinding):
                lane = ListenLane(self.reactor, sock, upstream, binding)
            else:
                lane = Lane(self.reactor, sock, upstream, binding.key)
            upstream.lanes[lane.key] = lane
            self.reactor.add(lane, writable=True)
            self.counters.lanes_opened += 1
            self.lanes_open += 1
        binding.lanes[upstream] = lane
        self._keep_spare(upstream, binding)
        return lane

    @staticmethod
    def _spare_for(upstream: Upstream, binding: PrivateBinding) -> PrivateLane | None:
        """Give a client the lane that is kept for whoever needs one, if there is one."""
        spare = upstream.lanes.get(_spare_key(binding.key[0]))
        if not isinstance(spare, PrivateLane) or spare.closed:
            return None
        spare.become(binding)
        return spare

    def _keep_spare(self, upstream: Upstream, binding: Binding) -> None:
        """Have a lane ready for the next client that needs one of its own."""
        key = _spare_key(binding.key[0])
        lanes_max = limits.SPARE_LANE_MAX
        if not isinstance(binding, PrivateBinding):
            lanes_max = limits.EARLY_SPARE_LANE_MAX
        if key in upstream.lanes or binding.key == key or self.lanes_open >= lanes_max:
            return
        try:
            self.open_lane(upstream, SpareBinding(self.nobody, key))
        except OSError:
            pass  # Whoever needs one will be told.

    # --- maps ----------------------------------------------------------------------------------

    def view(self, job_id: str) -> JobView:
        """The newest view of a job's map."""
        view = self._views.get(job_id)
        if view is None:
            placement = self.node.topology.placements.get(job_id)
            reason = NOT_SERVED
            if placement is None:
                reason = NO_PLACEMENT if self.node.topology.epoch else NO_MAP
            view = self._views[job_id] = JobView(placement, self.upstreams, reason)
        return view

    def topology_changed(self) -> None:
        """Follow the node's topology; called whenever it was brought up to date."""
        topology = self.node.topology
        for server in topology.servers.values():
            known = self.upstreams.get(server.id)
            if known is None or (known.host, known.port) != (server.host, server.port):
                self._retire(known)
                self.upstreams[server.id] = Upstream(self, server.id, server.host, server.port)
        for gone in [i for i in self.upstreams if i not in topology.servers]:
            self._retire(self.upstreams.pop(gone))
        for job_id, view in list(self._views.items()):
            if not view.agrees(topology.placements.get(job_id), self.upstreams):
                view.is_stale = True
                del self._views[job_id]
        self.listening.topology_changed()
        self.settings.follow()
        self._open_for_broadcasts()
        self._retry_due(math.inf)

    def _retire(self, upstream: Upstream | None) -> None:
        if upstream is not None:
            upstream.is_retired = True

    def learn(self, job_id: str, frame: bytes) -> None:
        """Take a job's map, or what was moved by it, from a server that refused a request.

        Only that: the epoch of the topology says up to where the controller was heard.

        Raises:
            ProtocolError: It is no map of this job.
        """
        if frame in _NULLS:
            return
        try:
            placement = PlacementMap.from_json(bulk_body(frame))
        except PlacementError as error:
            raise ProtocolError(f"not a map: {error}") from error
        if placement.job_id != job_id:
            raise ProtocolError("the map of another job")
        topology = self.node.topology
        known = topology.placements.get(job_id)
        # A job that is not known has ended.
        if known is None:
            return
        if known.epoch < placement.epoch:
            topology.placements[job_id] = placement.with_flips(known.flips)
            self.topology_changed()
        elif topology.flip(job_id, placement.flips):
            # Slots that were moved under the map that is known here.
            self.topology_changed()

    def job_ended(self, job_id: str) -> None:
        """Send a job's clients away and close its lanes."""
        self.node.end_job(job_id)
        self.listening.job_ended(job_id)
        self.settings.job_ended(job_id)
        for upstream in self.upstreams.values():
            upstream.close_lanes(job_id)
        self._errand_bindings.pop(job_id, None)

    # --- sending again -------------------------------------------------------------------------

    def refused(self, batch: list[Forward], refusal: bytes) -> None:
        """Send requests again that a server has refused, or answer those whose time is up."""
        if refusal.startswith(b"MOVED"):
            refusal = NOT_SERVED + b": its owner was not found in time"
        again = []
        for forward in batch:
            if self._may_retry(forward):
                again.append(forward)
            else:
                forward.fail(refusal)
        if again and self._has_other_owner(again[0]) and not self._lacks_owner(again):
            self._send_again(again)
        elif again:
            self._delayed.append((time.monotonic() + limits.REDIRECT_PAUSE_S, again))
            self._delay_began.set()

    def _may_retry(self, forward: Forward) -> bool:
        """Whether a request that was not executed may be sent again; counts it."""
        now_s = time.monotonic()
        forward.forgive(now_s)
        if forward.refused_s == 0.0:
            forward.refused_s = now_s
        if (
            self.is_closing
            or forward.client.closed
            or now_s - forward.refused_s > limits.REDIRECT_TIMEOUT_S
        ):
            return False
        self.counters.retries += 1
        forward.client.is_unsettled = True
        return True

    def _has_other_owner(self, forward: Forward) -> bool:
        """Whether the newest map would not send a request where it was sent last."""
        view = self.view(forward.binding.key[0])
        try:
            return forward.owner(view) is not forward.upstream
        except CommandError as error:
            # With several owners a split command is split anew, and any other must be refused.
            return error.text == CROSS_SLOT

    def _lacks_owner(self, batch: list[Forward]) -> bool:
        """Whether one of these would go to a server that is not known, or not yet."""
        for forward in batch:
            try:
                forward.owner(self.view(forward.binding.key[0]))
            except CommandError as error:
                if error.text != CROSS_SLOT:
                    return True
        return False

    @staticmethod
    def _send_again(batch: list[Forward]) -> None:
        for forward in batch:
            forward.reroute()

    def _retry_due(self, now_s: float) -> None:
        """Send what has waited long enough."""
        for _ in range(len(self._delayed)):
            due_s, batch = self._delayed[0]
            if due_s > now_s:
                return
            self._delayed.popleft()
            if self._lacks_owner(batch):
                self.refused(batch, NOT_SERVED)
            else:
                self._send_again(batch)

    async def retry_delayed(self) -> None:
        """Send delayed requests when their time has come; a task for as long as the router runs."""
        while True:
            await self._delay_began.wait()
            self._delay_began = trio.Event()
            while self._delayed:
                await trio.sleep(limits.REDIRECT_PAUSE_S)
                self._retry_due(time.monotonic())

    # --- failure -------------------------------------------------------------------------------

    def lane_ended(self, lane: Lane, unexecuted: list[Forward], lost: list[Forward]) -> None:
        """Deal with what a lane owed when it ended.

        Args:
            lane: The lane.
            unexecuted: Requests that were certainly not executed.
            lost: Requests that were sent, and may have been.
        """
        upstream = lane.upstream
        if lane.failure in (Failure.BROKEN, Failure.UNREACHABLE, Failure.SILENT):
            # What is asked again must not go on a connection that has ended as well.
            upstream.close_spares()
        if lane.failure in (Failure.UNREACHABLE, Failure.SILENT):
            upstream.suspend(lane.reason)
        if lane.failure is Failure.UNREACHABLE:
            self._answer_unsent(unexecuted, lane)
        elif unexecuted:
            # The server may not have heard of the job yet; or this was refused before the end.
            self.refused(unexecuted, upstream.unreachable(lane.reason))
        # Whoever has a part of a reply is sent away, and so is not asked for again.
        lost = [forward for forward in lost if not self._broke_off(forward, lane)]
        # A read must not be asked again after a write of the same client that came behind it.
        writers = {f.client for f in lost if "readonly" not in f.command.flags}
        for forward in lost:
            self._answer_lost(forward, lane, writers)
        if not upstream.is_open:
            upstream.relieve()

    @staticmethod
    def _broke_off(forward: Forward, lane: Lane) -> bool:
        if not forward.break_off():
            return False
        forward.fail(lane.upstream.unreachable(lane.reason))
        return True

    def _answer_unsent(self, batch: list[Forward], lane: Lane) -> None:
        """Answer what waited for a connection that was not made."""
        for forward in batch:
            if self._has_other_owner(forward) and self._may_retry(forward):
                forward.reroute()
            elif forward.may_block:
                # It has waited, or is going to: so it may as well until the map is a newer one.
                self.refused([forward], lane.upstream.unreachable(lane.reason))
            else:
                forward.fail(lane.upstream.unreachable(lane.reason))

    def _answer_lost(self, forward: Forward, lane: Lane, writers: set[Asker]) -> None:
        """Ask once more, or say what is not known."""
        name = lane.upstream.name.encode()
        is_read = "readonly" in forward.command.flags
        outcome = b"" if is_read else b"; the command may have been executed"
        if lane.failure is Failure.SILENT:
            forward.fail(
                b"TIMEOUT Storage server %b did not answer within %d s%b"
                % (name, limits.UPSTREAM_REPLY_TIMEOUT_S, outcome)
            )
        elif (
            lane.failure is Failure.BROKEN
            and not forward.is_second
            and (forward.may_block or forward.client not in writers)
            and self._may_retry(forward)
        ):
            forward.is_second = True
            forward.reroute()
        else:
            forward.fail(
                b"ERR The connection to storage server %b broke: %b%b"
                % (name, lane.reason.encode(), outcome)
            )

    # --- scripts -------------------------------------------------------------------------------

    def note_script(self, forward: Forward) -> None:
        """A script is on its way to a server."""
        self._scripts.setdefault(forward.binding.key[0], {})[forward] = None

    def forget_script(self, forward: Forward) -> None:
        """It is answered."""
        job_id = forward.binding.key[0]
        under_way = self._scripts.get(job_id)
        if under_way is not None:
            under_way.pop(forward, None)
            if not under_way:
                del self._scripts[job_id]

    def lasting_scripts_at(self, job_id: str) -> list[Upstream]:
        """The servers whose answers to scripts of a job are overdue: they may be busy."""
        under_way = self._scripts.get(job_id)
        threshold_ms = self.node.settings.busy_reply_threshold
        if not under_way or not threshold_ms:
            return []
        since_ns = self.node.stopwatch.now_ns() - threshold_ms * 1_000_000
        found: dict[Upstream, None] = {}
        for forward in under_way:
            if forward.started_ns > since_ns:
                break
            if forward.upstream is not None:
                found[forward.upstream] = None
        return list(found)

    # --- errands -------------------------------------------------------------------------------

    def errand_binding(self, job_id: str) -> Binding:
        """The lanes that the router's own requests in a job take."""
        binding = self._errand_bindings.get(job_id)
        if binding is None:
            binding = self._errand_bindings[job_id] = errand_binding(job_id)
        return binding

    def ask(
        self,
        upstream: Upstream,
        job_id: str,
        request: list[bytes],
        on_reply: Callable[[Reply], None] = _ignore,
    ) -> None:
        """Send a request of the router itself to one server."""
        Errand(self, upstream, job_id, request, on_reply).start()

    async def watch_servers(self) -> None:
        """Ask servers on which clients wait whether they are alive; a task, as the above."""
        while True:
            await trio.sleep(limits.UPSTREAM_PROBE_S)
            for upstream in list(self.upstreams.values()):
                self._watch(upstream)
            self._open_for_broadcasts()

    def _open_for_broadcasts(self) -> None:
        """Open what has ended, or is missing at servers that came."""
        if not self.is_closing:
            for lanes in self.broadcasting:
                lanes.open_all()

    def _watch(self, upstream: Upstream) -> None:
        """Ask a server that has said nothing for a while although clients wait for it."""
        waiting = [lane for lane in upstream.lanes.values() if lane.is_waiting]
        if not waiting:
            return
        heard_s = max(lane.last_receive_s for lane in upstream.lanes.values())
        if time.monotonic() - heard_s < limits.UPSTREAM_PROBE_S:
            return

        def on_reply(reply: Reply) -> None:
            if not isinstance(reply, ErrorReply) or reply.text.startswith(b"BUSY"):
                return
            for lane in waiting:
                if lane.is_waiting:
                    lane.give_up(Failure.SILENT, "no reply")

        self.ask(upstream, waiting[0].key[0], [b"PING"], on_reply)

    # --- names ---------------------------------------------------------------------------------

    def resolve(self, upstream: Upstream) -> None:
        """Look up a server's address in the background; requests for it are held meanwhile."""
        if upstream in self._resolving:
            return
        if self.nursery is None:
            self._resolved(upstream, "its name cannot be resolved now")
            return
        self._resolving.add(upstream)
        self.nursery.start_soon(self._resolve, upstream)

    async def _resolve(self, upstream: Upstream) -> None:
        failure = "its name was not resolved in time"
        with trio.move_on_after(_RESOLVE_TIMEOUT_S):
            try:
                found = await trio.socket.getaddrinfo(
                    upstream.host, upstream.port, type=trio.socket.SOCK_STREAM
                )
            except OSError as error:
                failure = error.strerror or str(error)
            else:
                family, _, _, _, address = found[0]
                upstream.address = (family, (str(address[0]), int(address[1])))
        self._resolving.discard(upstream)
        self._resolved(upstream, failure)

    def _resolved(self, upstream: Upstream, failure: str) -> None:
        if upstream.address is None:
            upstream.suspend(failure)
        upstream.relieve()
