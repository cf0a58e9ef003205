"""The cluster as the controller knows it: servers, jobs, placements, epochs. Pure.

`ClusterState.handle` takes an event and the time and returns instructions; it is the only way in
which anything changes, so that the controller, the simulator and the tests run the same code. An
event that cannot be is refused before anything has changed.

What holds after each event (`validate` checks it): every job has a map; the map covers all slots,
by servers that are in, as soon as one server is in; the epoch only grows, each changed map has
the new one; what has ended holds nothing. Slots that a server held when it died go to others at
once, and what they held is lost: it says how many keys. Otherwise slots change their owner only
when source or target of an order to move them says that it was carried out (`SlotsMoved`).

What changes when is here; how maps, moves, drains and retained keys change is in the books that
the state is made of: `books`, `retention`, `moving`, `draining`.

It does not know whether instructions were carried out; what came of them returns as events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from pocketkv import limits
from pocketkv.catalog import Catalog
from pocketkv.controller.accounts import Account
from pocketkv.controller.changes import Changes
from pocketkv.controller.elastic import ElasticBooks
from pocketkv.controller.errors import RefusedError, SnapshotError
from pocketkv.controller.events import Events
from pocketkv.controller.fleet import BackendTraits, Fleet, Member
from pocketkv.controller.members import ROUTER, JobUsage, Joining, Router
from pocketkv.controller.messages import (
    DrainCancelled,
    Ended,
    Event,
    Instruction,
    JobConfigured,
    JobDeregistered,
    JobPurged,
    JobRegistered,
    JobRenewed,
    JobRetains,
    JobRetired,
    JobRetireRefused,
    JobUpdated,
    Joined,
    Left,
    MoveFailed,
    ProcessDied,
    Reported,
    ServerDrained,
    ServerWaits,
    SlotsMoved,
    Snapshot,
    StartServer,
    StopServer,
    StorePurged,
    Tick,
    TierScaled,
    Update,
    UserSet,
    UsersRemoved,
    WatchServer,
)
from pocketkv.controller.policy import Rooms
from pocketkv.controller.tenants import Tenant
from pocketkv.controller.transit import reserved
from pocketkv.engine.users import RuleError, changed_rules
from pocketkv.jobs import DEFAULT_JOB_ID, infer
from pocketkv.placement import PlacementMap
from pocketkv.scaling_rules import ScalingRules
from pocketkv.terms import Terms, TermsError

# A storage server that has not been heard of for so long is out.
SILENCE_MS: Final = 3_000
# Longer between two ticks means that the controller itself stood still (or its machine did).
TICK_GAP_MAX_MS: Final = 1_000
# So many servers' counts of keys are compared at a time with what is remembered.
COUNTED_SERVERS_MAX: Final = 256
# Jobs wait no longer than this for the servers of the plan when the cluster starts.
START_GRACE_MS: Final = 5_000


class ClusterState(ElasticBooks):
    """The state machine.

    Args:
        catalog: What servers cost and can do.
        new_server_id: Gives the ids of servers to be requested.
        plan: Servers that the backend is to run, by tier; None without a backend. What has
            become of it wins over it, if that is remembered by the same `plan_id`.
        rules: How far the backend's tiers follow their load; None: not at all.
        may_leave: Of servers of a tier that could be stopped, those that the backend can stop.
        traits: What else is peculiar to the backend.
        snapshot: What an earlier life of the controller remembered.
        now_ms: The time.

    Raises:
        SnapshotError: the snapshot is not one.

    Attributes:
        events: What has happened lately: each line for the log.
        has_backend: Whether servers can be started and stopped.
        routers: Connected routers, by id.
    """

    def __init__(
        self,
        catalog: Catalog,
        new_server_id: Callable[[str], str],
        *,
        now_ms: int,
        plan: Mapping[str, int] | None = None,
        plan_id: str = "",
        rules: ScalingRules | None = None,
        may_leave: Callable[[str, Sequence[str]], Sequence[str]] = lambda tier, servers: servers,
        traits: BackendTraits | None = None,
        snapshot: Snapshot | None = None,
        unhinted_servers: int = 1,
    ) -> None:
        snapshot = snapshot or Snapshot()
        super().__init__(catalog, Fleet(new_server_id, traits), snapshot.epoch, rules, may_leave)
        self.rooms = Rooms(unhinted_servers)
        self.has_backend = plan is not None
        self.routers: dict[str, Router] = {}
        self._started_ms = self._ticked_ms = now_ms
        self._counted_ms = now_ms
        try:
            if plan is not None:
                is_known = snapshot.facts.get("plan_id") == plan_id
                self.fleet.plan_id = plan_id
                self.fleet.wanted = dict(snapshot.facts["wanted"] if is_known else plan)
            self.fleet.lost = {str(k): str(v) for k, v in snapshot.facts.get("lost", {}).items()}
            self.events = Events.remembered(snapshot.events, now_ms)
            self.purges = dict(snapshot.facts.get("purges", {}))
            self._remember(snapshot, now_ms)
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"what was remembered is not understood: {error!r}") from error

    def _remember(self, snapshot: Snapshot, now_ms: int) -> None:
        for server_id, record in snapshot.servers.items():
            # Heard of in the future: that is the grace after a restart.
            self.fleet.remember(server_id, record, now_ms + self.fleet.traits.restart_grace_ms)
        for job_id, record in snapshot.jobs.items():
            tenant = Tenant.from_json(record)
            if tenant.job is not None and tenant.job.lease_expires_ms is not None:
                # Nobody could renew a lease while the controller was away.
                least_ms = now_ms + self.fleet.traits.restart_grace_ms + SILENCE_MS
                expires_ms = max(tenant.job.lease_expires_ms, least_ms)
                tenant = replace(tenant, job=replace(tenant.job, lease_expires_ms=expires_ms))
            self._set_tenant(job_id, tenant)
            if tenant.retention is not None and tenant.retention.pending:
                self.retiring.add(job_id)
        for job_id in snapshot.placements:
            placement = PlacementMap.from_json(snapshot.placements[job_id])
            named = {*placement.owners(), *(move.target for move in placement.moves)}
            if job_id not in self.tenants or named - self.fleet.members.keys():
                raise ValueError(f"the map of {job_id!r} names what is not there")
            self._keep(placement)
        if DEFAULT_JOB_ID not in self.tenants:
            self._set_tenant(DEFAULT_JOB_ID, Tenant(None, Account(now_ms)))
        for job_id in self.tenants:
            if job_id not in self.placements:
                self._keep(PlacementMap(job_id, self.epoch, (), {}, {}))
        self.is_started = any(placement.ranges for placement in self.placements.maps())
        # Why they were not where they should be is not remembered, and found out anew.
        self._unsettle(self.tenants, spread=False)

    # --- reading -------------------------------------------------------------------------------

    def full_update(self) -> Update:
        """Return everything, for a member that has just joined."""
        return Update(
            self.epoch,
            full=True,
            servers=self.fleet.servers(),
            placements=self.placements.maps(),
            terms=tuple(t.terms for t in self.tenants.values() if t.terms is not None),
        )

    def watched(self) -> list[WatchServer]:
        """Return what the backend has to watch from an earlier life of the controller."""
        return [
            WatchServer(name, member.pid)
            for name, member in sorted(self.fleet.members.items())
            if member.managed and member.pid is not None
        ]

    # --- events --------------------------------------------------------------------------------

    def handle(self, event: Event, now_ms: int) -> list[Instruction]:
        """Take an event; returns what is to be done about it, in order.

        A report has no consequences of its own: it changes nothing that is remembered or told.

        Raises:
            RefusedError: it cannot be; nothing has changed.
            CatalogError: as RefusedError, since the catalog lacks a tier that a job needs.
        """
        changes = Changes()
        _HANDLERS[type(event)](self, event, now_ms, changes)
        if not isinstance(event, Reported):
            # Nothing but lines for the log comes of a report.
            self._go_on(event, now_ms, changes)
        self.events.add(changes.logs, now_ms)
        return changes.instructions(
            self.epoch, self.fleet, self.tenants, self.placements, self.events, self.purges
        )

    def _go_on(self, event: Event, now_ms: int, changes: Changes) -> None:
        """Do what may be due whatever has happened."""
        if isinstance(event, SlotsMoved | MoveFailed) and not changes.stamped:
            return  # It was told for the second time, as most of them are.
        if not self.is_started:
            self._start_if_complete(now_ms, changes)
        self._place_the_placeless(now_ms, changes)
        self._advance(now_ms, changes)
        self._finish_drains(now_ms, changes)
        if self.has_backend:
            for server_id, tier in self.fleet.request_missing(now_ms):
                changes.records.add(server_id)
                changes.log(logging.INFO, "server requested", server=server_id, tier=tier)
                changes.actions.append(StartServer(server_id, tier))
            for server_id in self.fleet.given_up():
                changes.actions.append(StopServer(server_id))

    # --- members -------------------------------------------------------------------------------

    def _on_joined(self, event: Joined, now_ms: int, changes: Changes) -> None:
        joining = event.member
        if joining.id in self.fleet.stopping:
            raise RefusedError(f"server '{joining.id}' is being stopped")
        if joining.epoch > self.epoch:
            # Our own memory was lost: what members know must not be newer than what we say.
            changes.log(logging.WARNING, "a member knows a newer epoch", epoch=joining.epoch)
            self.epoch = joining.epoch
            self._stamp(changes)
            for placement in self.placements.maps():
                self.placements.replace(replace(placement, epoch=self.epoch))
                changes.placements.add(placement.job_id)
                changes.jobs.add(placement.job_id)
            for tenant in list(self.tenants.values()):
                if tenant.terms is not None:
                    self._set_terms(tenant.terms, changes)
        if joining.role == ROUTER:
            self.routers[joining.id] = Router.joined(joining, now_ms)
        else:
            self._add_server(joining, now_ms, changes)
        changes.log(
            logging.INFO, "member joined", member=joining.id, role=joining.role, tier=joining.tier
        )

    def _add_server(self, joining: Joining, now_ms: int, changes: Changes) -> None:
        known = self.fleet.members.get(joining.id)
        tier = self.catalog.tier(joining.tier)
        bandwidth_bytes_s = tier.machine_or_reference(joining.machine_type).bandwidth_bytes_s
        managed = self.fleet.expects(joining.id) or (known is not None and known.managed)
        if not managed and self.fleet.traits.is_ours(joining.id):
            # Somebody else has made the tier larger, or an earlier life did not come to stop it.
            managed = True
            self._take_into_plan(joining.tier, changes)
        member = Member.joined(joining, bandwidth_bytes_s, managed=managed, now_ms=now_ms)
        if known is not None and known.generation == member.generation:
            member = replace(member, joined_ms=known.joined_ms, report=known.report)
            member = replace(member, rates=known.rates, is_stale=known.is_stale)
            member = replace(member, is_counted=known.is_counted)
            member = member.draining(known.drain)
        elif known is not None:
            self._count_losses(known, "it was started anew", changes)
            is_over = known.drain is None or known.drain.leaves or known.drain.is_done
            member = member.draining(None if is_over else known.drain)
            self._forget_setbacks(joining.id)
        elif self.fleet.lost.pop(joining.id, None) == member.generation:
            member = replace(member, is_stale=True)
        self.fleet.add(member)
        changes.records.add(joining.id)
        if managed and member.pid is not None:
            changes.actions.append(WatchServer(joining.id, member.pid))
        if known is None or known.server != member.server:
            self._stamp(changes)
            changes.servers = True
            self._unsettle_after_growth()
        self._return_retained(member, now_ms, changes)

    def _take_into_plan(self, tier: str, changes: Changes) -> None:
        """Have a tier's plan count one server more, if it does not already."""
        counted = len(self.fleet.staying(tier)) + len(self.fleet.requested(tier))
        if counted >= self.fleet.wanted.get(tier, 0):
            self._set_wanted(tier, counted + 1, changes)

    def _on_left(self, event: Left, now_ms: int, changes: Changes) -> None:
        if self.routers.pop(event.member_id, None) is not None:
            changes.log(logging.INFO, "router left", member=event.member_id)
            return
        member = self.fleet.members.get(event.member_id)
        if member is None:
            return
        self.fleet.disconnect(event.member_id)
        if member.drain is not None and member.drain.leaves and member.drain.is_done:
            self.fleet.remove(event.member_id, now_ms, has_died=False)
            self._stamp(changes)
            changes.servers = True
            changes.records.add(event.member_id)
            changes.log(logging.INFO, "server left", server=event.member_id)
        else:
            changes.log(logging.INFO, "server disconnected", server=event.member_id)

    def _on_reported(self, event: Reported, now_ms: int, changes: Changes) -> None:
        router = self.routers.get(event.member_id)
        if router is not None:
            self.routers[event.member_id] = replace(router, heard_ms=now_ms, report=event.report)
            return
        member = self.fleet.members.get(event.member_id)
        if member is None:
            return
        before = member.report.jobs
        if member.is_stale:
            self._unsettle_after_growth()
        self._note_medium(member, event.report.medium_error, changes)
        self.fleet.hear(event.member_id, now_ms, event.report)
        for job_id, usage in event.report.jobs.items():
            old = before.get(job_id)
            if job_id in self.tenants and (old is None or _costs_else(old, usage)):
                self._account(job_id, now_ms)

    @staticmethod
    def _note_medium(member: Member, error: str, changes: Changes) -> None:
        """Tell when a server's medium begins to fail, and when it has recovered."""
        named = {"server": member.server.id, "tier": member.server.tier}
        before = member.report.medium_error
        if error and error != before:
            changes.log(logging.WARNING, "a server's medium takes no writes", **named, error=error)
        elif before and not error:
            changes.log(logging.INFO, "a server's medium takes writes again", **named)

    def _on_process_died(self, event: ProcessDied, now_ms: int, changes: Changes) -> None:
        server_id = event.server_id
        if server_id in self.fleet.stopping:
            self.fleet.stopped(server_id)
            changes.log(logging.INFO, "server stopped", server=server_id, reason=event.reason)
            return
        member = self.fleet.members.get(server_id)
        if member is None and (not event.is_sure or not self.fleet.expects(server_id)):
            return
        if not event.is_sure and member is not None and member.connected:
            return
        changes.log(logging.ERROR, "server died", server=server_id, reason=event.reason)
        self._lose(server_id, event.reason, now_ms, changes)

    def _on_ended(self, event: Ended, now_ms: int, changes: Changes) -> None:
        member = self.fleet.members.get(event.member_id)
        if member is None or not member.ends_soon:
            return
        self.fleet.hear(event.member_id, now_ms, event.report)
        for job_id in self.placements.jobs_on(event.member_id):
            usage = event.report.jobs.get(job_id, JobUsage())
            changes.log(
                logging.ERROR if usage.keys else logging.WARNING,
                "not everything was moved away in time",
                job=job_id,
                server=event.member_id,
                keys=usage.keys,
                bytes=usage.used_bytes,
            )
        self._lose(event.member_id, "its time to drain was over", now_ms, changes)

    def _on_waits(self, event: ServerWaits, now_ms: int, changes: Changes) -> None:
        server_id, reason = event.server_id, event.reason
        before = self.fleet.waits.pop(server_id, "")
        if not self.fleet.expects(server_id):
            return
        if reason:
            self.fleet.waits[server_id] = reason
            changes.log(logging.WARNING, "server waits", server=server_id, reason=reason)
        elif before:
            changes.log(logging.INFO, "server waits no more", server=server_id)

    # --- jobs ----------------------------------------------------------------------------------

    def _on_registered(self, event: JobRegistered, now_ms: int, changes: Changes) -> None:
        job = event.job
        if job.id in self.tenants:
            raise RefusedError(f"the id '{job.id}' is taken")
        if len(self.tenants) > limits.JOBS_MAX:
            raise RefusedError(f"there are {limits.JOBS_MAX} jobs, and no more can be")
        # The catalog may refuse, so this comes before anything changes.
        decision = self._decide_new(job.hints)
        self._set_tenant(job.id, Tenant(job, Account(now_ms)))
        self._place(job.id, decision, now_ms, changes)
        changes.log(logging.INFO, "job registered", job=job.id, servers=len(decision.slots))

    def _on_updated(self, event: JobUpdated, now_ms: int, changes: Changes) -> None:
        tenant = self._active(event.job_id)
        if tenant.job is None:
            raise RefusedError(f"the job '{event.job_id}' has no hints")
        updated = replace(tenant, job=tenant.job.updated(event.hints, now_ms))
        # The catalog may refuse, so this comes before anything changes.
        infer(updated.hints, self.catalog)
        self._set_tenant(event.job_id, updated)
        changes.jobs.add(event.job_id)
        changes.log(logging.INFO, "job updated", job=event.job_id)
        # What it keeps, and pays for, follows from its hints, whether its map changes or not.
        self._keep(self.placements[event.job_id])
        self._account(event.job_id, now_ms)
        if self.placements[event.job_id].ranges:
            decision = self._decide(event.job_id, now_ms)
            self.want(event.job_id, decision, now_ms, changes, "its hints changed")

    def _on_renewed(self, event: JobRenewed, now_ms: int, changes: Changes) -> None:
        tenant = self._active(event.job_id)
        if tenant.job is None or tenant.job.lease_expires_ms is None:
            return
        self._set_tenant(event.job_id, replace(tenant, job=tenant.job.renewed(now_ms)))
        changes.jobs.add(event.job_id)

    def _on_deregistered(self, event: JobDeregistered, now_ms: int, changes: Changes) -> None:
        if self._active(event.job_id).job is None:
            raise RefusedError(f"the job '{event.job_id}' never ends")
        self._end_or_retain(event.job_id, "deregistered", now_ms, changes)

    # --- what jobs say of themselves -------------------------------------------------------------

    def _terms(self, job_id: str) -> Terms:
        tenant = self._active(job_id)
        return Terms(job_id) if tenant.terms is None else tenant.terms

    def _on_user_set(self, event: UserSet, now_ms: int, changes: Changes) -> None:
        terms = self._terms(event.job_id)
        known = terms.users.get(event.name)
        try:
            rules = changed_rules(event.name, known, event.rules, event.fresh)
            changed = terms.with_user(event.name, rules)
        except (RuleError, TermsError) as error:
            raise RefusedError(f"the user cannot be so: {error}") from error
        self._set_terms(changed, changes)
        changes.log(logging.INFO, "user changed", job=event.job_id, user=event.name)

    def _on_users_removed(self, event: UsersRemoved, now_ms: int, changes: Changes) -> None:
        terms = self._terms(event.job_id)
        if not terms.users.keys().isdisjoint(event.names):
            self._set_terms(terms.without_users(event.names), changes)
            changes.log(logging.INFO, "users removed", job=event.job_id, count=len(event.names))

    def _on_configured(self, event: JobConfigured, now_ms: int, changes: Changes) -> None:
        try:
            changed = self._terms(event.job_id).with_settings(event.settings)
        except TermsError as error:
            raise RefusedError(str(error)) from error
        self._set_terms(changed, changes)
        changes.log(logging.INFO, "job configured", job=event.job_id)

    # --- time ----------------------------------------------------------------------------------

    def _on_tick(self, event: Tick, now_ms: int, changes: Changes) -> None:
        self._refresh_rooms()
        gap_ms = now_ms - self._ticked_ms
        self._ticked_ms = now_ms
        if gap_ms > TICK_GAP_MAX_MS:
            changes.log(logging.WARNING, "the controller stood still", gap_ms=gap_ms)
            self.fleet.forgive(gap_ms)
        for job_id in list(self._leases.due(now_ms)):
            self._on_lease_due(job_id, now_ms, changes)
        for member in self.fleet.silent(now_ms, SILENCE_MS):
            self._on_silence(member, now_ms, changes)
        self._find_keepers(now_ms, changes)
        if now_ms - self._counted_ms >= self.fleet.traits.count_interval_ms:
            # What is lost with a server is counted even if the controller dies with it.
            self._counted_ms = now_ms
            changes.records.update(self.fleet.miscounted(COUNTED_SERVERS_MAX))
        for server_id, tier in self.fleet.overdue(now_ms):
            changes.log(logging.ERROR, "server did not join", server=server_id, tier=tier)
            self._lose(server_id, "it did not join", now_ms, changes)
            returns = self.fleet.stop(server_id)
            changes.actions.append(StopServer(server_id, force=True, returns=returns))
        self._scale(now_ms, changes)

    def _on_lease_due(self, job_id: str, now_ms: int, changes: Changes) -> None:
        tenant = self.tenants.get(job_id)
        if tenant is None or tenant.job is None or tenant.job.lease_expires_ms is None:
            return
        if tenant.job.is_expired(now_ms):
            self._end_or_retain(job_id, "its lease ran out", now_ms, changes)
        else:
            self._leases.put(job_id, tenant.job.lease_expires_ms)

    def _on_silence(self, member: Member, now_ms: int, changes: Changes) -> None:
        server_id = member.server.id
        others = [server for server in self.fleet.up() if server.id != server_id]
        heard = [s for s in others if now_ms - self.fleet.members[s.id].heard_ms <= SILENCE_MS]
        if not heard and self.placements.jobs_on(server_id) and not member.managed:
            # Nobody could take its slots, and it may yet come back with everything.
            return
        changes.log(logging.ERROR, "server is silent", server=server_id)
        self._lose(server_id, "it is silent", now_ms, changes)
        if member.managed:
            returns = self.fleet.stop(server_id)
            changes.actions.append(StopServer(server_id, force=True, returns=returns))

    # --- placing -------------------------------------------------------------------------------

    def _start_if_complete(self, now_ms: int, changes: Changes) -> None:
        """Begin to place jobs when the servers of the plan are there, or have had their time."""
        is_late = now_ms - self._started_ms > START_GRACE_MS
        if self.fleet.up() and (self.fleet.is_complete or is_late):
            self.is_started = True

    def _place_the_placeless(self, now_ms: int, changes: Changes) -> None:
        if not self.is_started or not self.placeless or not self.fleet.up():
            return
        for job_id in sorted(self.placeless):
            decision = self._decide_new(self.tenants[job_id].hints)
            self._place(job_id, decision, now_ms, changes)

    def _lose(self, server_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        """Take a server out whose data is gone, and give its slots to others."""
        member = self.fleet.remove(server_id, now_ms, has_died=True)
        changes.records.add(server_id)
        if member is None:
            if not self.fleet.may_return(server_id):
                self._give_up_retained(server_id, reason, changes)
            return
        self._stamp(changes)
        changes.servers = True
        self._count_losses(member, reason, changes)
        self._forget_setbacks(server_id)
        for job_id in self.placements.jobs_naming(server_id):
            if self.tenants[job_id].retention is not None:
                self._lose_retained(job_id, server_id, now_ms, changes)
            else:
                self._reassign(job_id, server_id, now_ms, changes)

    # --- checking ------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        self.fleet.validate()
        self._validate_rooms()
        assert self.tenants.keys() == set(self.placements)
        assert DEFAULT_JOB_ID in self.tenants
        members = self.fleet.members.keys()
        for placement in self.placements.maps():
            assert placement.epoch <= self.epoch
            assert set(placement.owners()) <= members
            retention = self.tenants[placement.job_id].retention
            assert placement.read_only == (retention is not None)
            self._validate_moves(placement)
            if retention is None:
                assert self.is_started or not placement.ranges
                assert (placement.job_id in self.placeless) == (not placement.ranges)
            else:
                self._validate_retained(placement, retention)
        assert self.orders.keys() == {(job_id, move.id) for job_id, move in self.moves()}
        self.placements.validate(
            reserved(self.tenants[p.job_id].hints, self.catalog, p) for p in self.placements.maps()
        )


_Handler: TypeAlias = "Callable[[ClusterState, Any, int, Changes], None]"

_HANDLERS: Final[Mapping[type, _Handler]] = {
    Joined: ClusterState._on_joined,
    Left: ClusterState._on_left,
    Reported: ClusterState._on_reported,
    ProcessDied: ClusterState._on_process_died,
    ServerWaits: ClusterState._on_waits,
    JobRegistered: ClusterState._on_registered,
    JobUpdated: ClusterState._on_updated,
    JobRenewed: ClusterState._on_renewed,
    JobDeregistered: ClusterState._on_deregistered,
    UserSet: ClusterState._on_user_set,
    UsersRemoved: ClusterState._on_users_removed,
    JobConfigured: ClusterState._on_configured,
    SlotsMoved: ClusterState._on_slots_moved,
    MoveFailed: ClusterState._on_move_failed,
    JobRetains: ClusterState._on_retains,
    JobRetired: ClusterState._on_retired,
    JobRetireRefused: ClusterState._on_retire_refused,
    JobPurged: ClusterState._on_purged,
    StorePurged: ClusterState._on_store_purged,
    TierScaled: ClusterState._on_scaled,
    ServerDrained: ClusterState._on_drained,
    Ended: ClusterState._on_ended,
    DrainCancelled: ClusterState._on_drain_cancelled,
    Tick: ClusterState._on_tick,
}


def _costs_else(old: JobUsage, new: JobUsage) -> bool:
    """Whether a job costs something else by what a server has told of it."""
    return old.used_bytes != new.used_bytes or old.s3_bytes != new.s3_bytes
