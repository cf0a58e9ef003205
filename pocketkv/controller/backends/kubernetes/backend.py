"""Storage servers as pods of StatefulSets, one set for each tier and type of machine.

A server's id is its pod's name, so a pod that is made anew is the same server with nothing in it,
and joins under its id. What is wanted is kept as ids; a set has as many replicas as its highest id
that is wanted needs. It is scaled down only by ids that the cluster's state has stopped, which it
does when they hold nothing: of a set, the highest ones. One that was stopped and is not the highest
yet goes on without anything in it until those above it have gone, or it is wanted again.

Pods are watched. The death of one that was not told to go is told as a hint (`ProcessDied` that is
not sure): its server may have come back under the same id already, and what a connected server says
of itself counts for more. While the API is away, nothing is scaled, and it is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from pocketkv.controller.backends.base import Tell
from pocketkv.controller.backends.kubernetes import pods
from pocketkv.controller.backends.kubernetes.api import (
    ApiError,
    ConflictError,
    Document,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.door import Door, Mirror
from pocketkv.controller.backends.kubernetes.pods import ServerSet
from pocketkv.controller.backends.kubernetes.retrying import Backoff
from pocketkv.controller.fleet import BackendTraits
from pocketkv.controller.messages import ProcessDied, ServerWaits
from pocketkv.scaling_rules import TierRange

_APPS: Final = "apis/apps/v1"
# A pod may have to wait for a machine that is started for it.
START_TIMEOUT_MS: Final = 900_000
# Each time, it is a write of the state to the API.
COUNT_INTERVAL_MS: Final = 5_000
# A Service needs a while to lead members to another leader, and so do they to find that out.
RESTART_GRACE_MS: Final = 15_000
# Everything is looked at again after so long, also if nothing was heard.
_LOOK_INTERVAL_S: Final = 5.0
# A pod that is not even there by then is asked about.
_MISSING_AFTER_S: Final = 10.0


@dataclass
class _Server:
    """What is wanted of a server, and what is known of its pod.

    Attributes:
        is_wanted: It is to run.
        is_stopped: It was told to go, and its death has not been told yet.
        force: It is to go at once, whether it is the highest or not.
        uid: Of the pod that is to go; empty if there was none.
        waits: What the state was told that its pod waits for.
        missing_s: Since when it is wanted and has no pod.
    """

    is_wanted: bool = False
    is_stopped: bool = False
    force: bool = False
    uid: str = ""
    deleted_uid: str = ""
    waits: str = ""
    missing_s: float | None = None


class KubernetesBackend:
    """Runs storage servers in one namespace.

    Args:
        door: To the API.
        release: Whose StatefulSets they are.
        sets: The StatefulSets as they are at the beginning, from `read_sets`.
        price_of: What a server costs, by tier and type of machine: cheaper sets grow first.
        log: The controller's log.
    """

    def __init__(
        self,
        door: Door,
        release: str,
        sets: Iterable[ServerSet],
        price_of: Callable[[str, str], float],
        log: logging.Logger,
    ) -> None:
        self._door = door
        self._release = release
        self._price_of = price_of
        self._log = log
        self._sets = {one.name: one for one in sets}
        self._plan = {one.tier: 0 for one in self._sets.values()}
        for one in self._sets.values():
            self._plan[one.tier] += max(one.least, min(one.most, one.replicas))
        self._servers: dict[str, _Server] = {}
        self._tell: Tell = lambda event: None
        self._wake = trio.Event()
        labels = pods.selector(release, pods.STORAGE)
        self._pods = Mirror(door, self._path("api/v1", "pods"), labels, self._on_pod, log)
        self._mirror = Mirror(door, self._path(_APPS, "statefulsets"), labels, self._on_set, log)

    # --- what there is -------------------------------------------------------------------------

    @property
    def plan(self) -> Mapping[str, int]:
        """How many servers of each tier a new cluster begins with."""
        return self._plan

    @property
    def plan_id(self) -> str:
        """Tells this release's plan from another's."""
        return f"kubernetes/{self._door.namespace}/{self._release}"

    @property
    def ranges(self) -> dict[str, TierRange]:
        """How many servers each tier may have, by the limits of its StatefulSets."""
        least: dict[str, int] = {}
        most: dict[str, int] = {}
        for one in self._sets.values():
            least[one.tier] = least.get(one.tier, 0) + one.least
            most[one.tier] = most.get(one.tier, 0) + one.most
        limited = {one.tier for one in self._sets.values() if one.is_limited and most[one.tier]}
        return {tier: TierRange(least[tier], most[tier]) for tier in sorted(limited)}

    @property
    def traits(self) -> BackendTraits:
        """A pod comes back under its name, and may have to wait for a machine."""
        return BackendTraits(
            restarts_in_place=True,
            start_timeout_ms=START_TIMEOUT_MS,
            restart_grace_ms=RESTART_GRACE_MS,
            is_ours=self.is_ours,
            count_interval_ms=COUNT_INTERVAL_MS,
        )

    def servers_max(self, tier: str) -> int:
        """How many servers a tier can have at most."""
        return sum(one.most for one in self._sets.values() if one.tier == tier)

    def is_ours(self, server_id: str) -> bool:
        """Whether a server is one of our StatefulSets' pods, whoever asked for it."""
        return self._set_of(server_id) is not None

    def new_server_id(self, tier: str) -> str:
        """Return the lowest id that is not wanted, of the cheapest StatefulSet that has room.

        Raises:
            ValueError: The tier has no StatefulSet.
        """
        sets = sorted(
            (one for one in self._sets.values() if one.tier == tier),
            key=lambda one: (self._price_of(one.tier, one.machine_type), one.name),
        )
        if not sets:
            raise ValueError(f"no StatefulSet of the release has the tier {tier}")
        for one in sets:
            wanted = set(self._wanted_ordinals(one))
            free = next((n for n in range(one.most) if n not in wanted), None)
            if free is not None:
                return self._claimed(one.server_id(free))
        # All are full: limits were lowered below what is planned, which nobody stops for that.
        highest = max(self._wanted_ordinals(sets[0]), default=-1)
        return self._claimed(sets[0].server_id(highest + 1))

    def _claimed(self, server_id: str) -> str:
        """Note that an id is taken, before anybody says to start it; returns it."""
        self._server(server_id).is_wanted = True
        return server_id

    def may_leave(self, tier: str, server_ids: Sequence[str]) -> Sequence[str]:
        """Return the highest of these of each StatefulSet."""
        highest: dict[str, tuple[int, str]] = {}
        for server_id in server_ids:
            one = self._set_of(server_id)
            ordinal = None if one is None else one.ordinal(server_id)
            if one is not None and ordinal is not None:
                highest[one.name] = max(highest.get(one.name, (-1, "")), (ordinal, server_id))
        return [
            name
            for set_name, (ordinal, name) in sorted(highest.items())
            if self._sets[set_name].tier == tier
        ]

    # --- what is wanted ------------------------------------------------------------------------

    def start(self, server_id: str, tier: str) -> None:
        """Have a pod run, which joins by itself."""
        self._server(server_id).is_wanted = True
        self._wake.set()

    def watch(self, server_id: str, pid: int) -> None:
        """Take a server that joined as one that is wanted."""
        if self._set_of(server_id) is not None:
            self._server(server_id).is_wanted = True
            self._wake.set()

    def stop(self, server_id: str, *, force: bool, returns: bool = False) -> None:
        """Have a pod go; with `force`, its process gets no time.

        Its StatefulSet makes a new one if the id is wanted again, or not the highest. If it
        `returns`, its StatefulSet is not scaled meanwhile: one that is rolling an upgrade out would
        go on to the next pod before this one is back.
        """
        server = self._server(server_id)
        pod = self._pods.objects.get(server_id)
        server.is_wanted = returns
        if force and not server.force:
            # Also if it was asked to go before.
            server.force, server.deleted_uid = True, ""
        if not server.is_stopped:
            server.is_stopped = True
            server.uid = "" if pod is None else pods.uid_of(pod)
        self._wake.set()

    async def run(
        self,
        controller: tuple[str, int],
        tell: Tell,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until cancelled; the pods go on."""
        self._tell = tell
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mirror.run)
            nursery.start_soon(self._pods.run)
            task_status.started()
            await self._follow()

    # --- what is seen --------------------------------------------------------------------------

    def _on_set(self, name: str, document: Document | None) -> None:
        one = None if document is None else ServerSet.of(document)
        if one is not None:
            self._sets[name] = one
        elif self._sets.pop(name, None) is not None:
            self._log.warning("a StatefulSet has gone", extra={"name_of_set": name})
        self._wake.set()

    def _on_pod(self, name: str, pod: Document | None) -> None:
        server = self._servers.get(name)
        if server is None:
            return
        self._wake.set()
        if server.is_stopped:
            return
        reason = "its pod was deleted" if pod is None else pods.end_of(pod)
        if reason is not None and server.is_wanted:
            self._tell(ProcessDied(name, reason, is_sure=False))
        if pod is not None:
            self._note_waits(name, server, pods.waits_for(pod) or "")

    def _note_waits(self, name: str, server: _Server, waits: str) -> None:
        if waits != server.waits:
            server.waits = waits
            self._tell(ServerWaits(name, waits))

    # --- making it so --------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Make what is wanted so, whenever something has changed."""
        backoff, told = Backoff(), ""
        while True:
            self._wake = trio.Event()
            try:
                if self._mirror.is_fresh and self._pods.is_fresh:
                    await self._make_so()
                    backoff.reset()
                    told = ""
                with trio.move_on_after(_LOOK_INTERVAL_S):
                    await self._wake.wait()
            except ConflictError:
                # It has changed meanwhile, which is heard soon.
                await trio.sleep(backoff.next_s())
            except ApiError as error:
                if str(error) != told:
                    told = str(error)
                    self._log.warning("not scaled", extra={"error": told})
                await trio.sleep(backoff.next_s(error.retry_after_s))

    async def _make_so(self) -> None:
        for name, server in list(self._servers.items()):
            if server.is_stopped:
                await self._end(name, server)
        for one in list(self._sets.values()):
            replicas = self._replicas(one)
            if replicas != one.replicas:
                await self._scale(one, replicas)
        for name, server in list(self._servers.items()):
            pod = self._pods.objects.get(name)
            if pod is not None and server.is_wanted and not server.is_stopped:
                # It may have waited for long before anybody wanted it.
                self._note_waits(name, server, pods.waits_for(pod) or "")
            await self._ask_for_missing(name, server)

    def _replicas(self, one: ServerSet) -> int:
        """Return how many replicas a set needs, and may have."""
        needed = max(self._wanted_ordinals(one), default=-1) + 1
        replicas = max(one.replicas, needed)
        while replicas > needed:
            highest = self._servers.get(one.server_id(replicas - 1))
            if highest is None or not highest.is_stopped:
                break  # Nobody has said that it holds nothing.
            replicas -= 1
        return replicas

    async def _scale(self, one: ServerSet, replicas: int) -> None:
        path = self._path(_APPS, "statefulsets", one.name, "scale")
        scale = await self._door.request("GET", path)
        if int((scale.get("spec") or {}).get("replicas") or 0) != one.replicas:
            # Somebody else has scaled it, which the watch will tell.
            raise ConflictError(f"{one.name} is being scaled by somebody else", 409)
        # With the version that was read: nobody has scaled it in between.
        scale["spec"] = {**(scale.get("spec") or {}), "replicas": replicas}
        await self._door.request("PUT", path, scale)
        self._log.info(
            "StatefulSet scaled", extra={"set": one.name, "from": one.replicas, "to": replicas}
        )
        known = self._sets.get(one.name)
        if known is not None:
            self._sets[one.name] = ServerSet(**{**vars(known), "replicas": replicas})

    async def _end(self, name: str, server: _Server) -> None:
        """Go on with the end of a server; when it has come, tell it."""
        pod = self._pods.objects.get(name)
        uid = "" if pod is None else pods.uid_of(pod)
        one = self._set_of(name)
        ordinal = None if one is None else one.ordinal(name)
        is_cut = one is None or ordinal is None or ordinal >= one.replicas
        if pod is not None and not server.uid:
            server.uid = uid  # It was not there yet when it was told to go.
        has_gone = uid != server.uid or (pod is not None and pods.end_of(pod) is not None)
        if has_gone or (pod is None and (is_cut or server.is_wanted)):
            server.is_stopped, server.force, server.uid = False, False, ""
            server.waits, server.deleted_uid = "", ""
            self._tell(ProcessDied(name, "its pod has gone"))
        elif pod is not None and (server.force or server.is_wanted):
            await self._delete(name, server, pod)

    async def _delete(self, name: str, server: _Server, pod: Document) -> None:
        uid = pods.uid_of(pod)
        if server.deleted_uid == uid or (pods.is_ending(pod) and not server.force):
            return
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
        }
        force = server.force
        if force:
            # Its machine may be gone, and nobody there who could confirm the end.
            options["gracePeriodSeconds"] = 0
        try:
            await self._door.request("DELETE", self._path("api/v1", "pods", name), options)
        except NotFoundError:
            pass  # It has gone, which the watch tells.
        except ConflictError:
            return  # There is another one already, or it has changed: the next look tells.
        if server.force == force:
            # Else it is to go at once since this was asked for.
            server.deleted_uid = uid

    async def _ask_for_missing(self, name: str, server: _Server) -> None:
        """Find out why a pod has not even been made: it may be more than a quota allows."""
        if not server.is_wanted or server.is_stopped or name in self._pods.objects:
            server.missing_s = None
            return
        now_s = trio.current_time()
        if server.missing_s is None:
            server.missing_s = now_s
        one = self._set_of(name)
        if one is None or server.waits or now_s - server.missing_s < _MISSING_AFTER_S:
            return
        fields = f"involvedObject.kind=StatefulSet,involvedObject.name={one.name},type=Warning"
        answer = await self._door.request(
            "GET", self._path("api/v1", "events"), query={"fieldSelector": fields, "limit": 100}
        )
        said = [str(e.get("message")) for e in answer.get("items") or () if e.get("message")]
        reason = said[-1][:300] if said else f"the StatefulSet {one.name} has not made its pod"
        self._note_waits(name, server, reason)

    def _wanted_ordinals(self, one: ServerSet) -> list[int]:
        found = (one.ordinal(name) for name, s in self._servers.items() if s.is_wanted)
        return [ordinal for ordinal in found if ordinal is not None]

    def _server(self, server_id: str) -> _Server:
        return self._servers.setdefault(server_id, _Server())

    def _set_of(self, server_id: str) -> ServerSet | None:
        return self._sets.get(server_id.rpartition("-")[0])

    def _path(self, api: str, kind: str, name: str = "", part: str = "") -> str:
        return path_of(api, self._door.namespace, kind, name, part)


async def read_sets(door: Door, release: str) -> list[ServerSet]:
    """Return the StatefulSets of a release.

    Raises:
        ApiError: They could not be listed.
    """
    path = path_of(_APPS, door.namespace, "statefulsets")
    found, _ = await door.list(path, pods.selector(release, pods.STORAGE))
    return [one for one in map(ServerSet.of, found) if one is not None]
