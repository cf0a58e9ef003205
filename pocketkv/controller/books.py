"""What the cluster's state consists of, and the few ways in which maps and accounts change. Pure.

`pocketkv.controller.state` says what happens when; here is what keeps epochs, maps, commitments
and accounts in step whatever happens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pocketkv.catalog import Catalog
from pocketkv.controller.accounts import rate_per_hour
from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import UnknownJobError
from pocketkv.controller.fleet import Fleet
from pocketkv.controller.members import JobUsage, Report
from pocketkv.controller.placements import Placements
from pocketkv.controller.policy import (
    NO_SUPPLY,
    NOTHING,
    Commitment,
    Decision,
    Resident,
    Rooms,
    Supply,
    decide,
)
from pocketkv.controller.tenants import Leases, Tenant
from pocketkv.controller.transit import planned_slots, reserved
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, assign_slots
from pocketkv.terms import Terms


class Beyond:
    """What jobs use of one server beyond what they keep there, which is not free for others either.

    It is kept job by job: a server may have thousands, and one of them changes at a time.

    Attributes:
        usage: What the server has reported.
        total_bytes: That of all jobs that were counted.
    """

    def __init__(self, usage: Mapping[str, JobUsage]) -> None:
        self.usage = usage
        self.total_bytes = 0
        self._jobs: dict[str, int] = {}

    def count(self, job_id: str, kept: Commitment | None) -> None:
        """Count a job anew; `kept` is what it keeps there, None if it has nothing to do with it."""
        self.total_bytes -= self._jobs.pop(job_id, 0)
        used = self.usage.get(job_id)
        if kept is None or used is None or used.used_bytes <= kept.capacity_bytes:
            return
        self._jobs[job_id] = used.used_bytes - kept.capacity_bytes
        self.total_bytes += self._jobs[job_id]


class Books:
    """Jobs, maps, accounts and the epoch.

    Args:
        catalog: What servers cost and can do.
        fleet: Storage servers.
        epoch: The newest that an earlier life gave to anything.

    Attributes:
        epoch: The newest epoch that was given to anything.
        fleet: Storage servers.
        tenants: By job id, `default` among them.
        placements: The maps, by job id.
        rooms: What is free on every server; as of the last decision or `_refresh_rooms`.
        supply: Servers that could be started, for jobs to ask for.
        unsettled: Jobs that a better plan might be had for, the most urgent first; with whether
            there are servers that they might spread over.
        placeless: Jobs that are to have slots and have none.
        is_started: Whether jobs are given servers.
    """

    def __init__(self, catalog: Catalog, fleet: Fleet, epoch: int) -> None:
        self.catalog = catalog
        self.fleet = fleet
        self.epoch = epoch
        self.tenants: dict[str, Tenant] = {}
        self.placements = Placements()
        self.rooms = Rooms()
        self.supply: Supply = NO_SUPPLY
        self.unsettled: dict[str, bool] = {}
        self.placeless: set[str] = set()
        self.is_started = False
        self._leases = Leases()
        self._beyond: dict[str, Beyond] = {}

    def tenant(self, job_id: str) -> Tenant:
        """Return a job's tenant.

        Raises:
            UnknownJobError: there is none.
        """
        tenant = self.tenants.get(job_id)
        if tenant is None:
            raise UnknownJobError(job_id)
        return tenant

    def used_bytes(self, job_id: str) -> dict[str, int]:
        """Return what a job uses, by server, as last reported by the servers of its map."""
        usage = {}
        for server_id in self.placements[job_id].owners():
            member = self.fleet.members.get(server_id)
            if member is not None and job_id in member.report.jobs:
                usage[server_id] = member.report.jobs[job_id].used_bytes
        return usage

    def s3_bytes(self, job_id: str) -> int:
        """Return what a job has in S3, as last reported by the servers of its map."""
        members = map(self.fleet.members.get, self.placements[job_id].owners())
        return sum(
            member.report.jobs[job_id].s3_bytes
            for member in members
            if member is not None and job_id in member.report.jobs
        )

    def _decide_new(self, hints: Hints) -> Decision:
        """Return where a job that has no slots should be."""
        self._refresh_rooms()
        return decide(hints, self.catalog, self.rooms, supply=self.supply)

    def own(self, job_id: str) -> dict[str, Commitment]:
        """Return what a job keeps of its servers, or uses there if that is more, by server."""
        used = self.used_bytes(job_id)
        return {
            name: replace(kept, capacity_bytes=max(kept.capacity_bytes, used.get(name, 0)))
            for name, kept in self.placements.kept(job_id).items()
        }

    def resident(self, job_id: str) -> Resident:
        """Return a placed job as `plan_drain` and `relieve` want it, when its moves are over."""
        slots = planned_slots(self.placements[job_id])
        return Resident(job_id, self.tenants[job_id].hints, slots, self.own(job_id))

    def _refresh_rooms(self) -> None:
        """Have `rooms` say what servers and jobs have become."""
        for server_id in self.fleet.changed:
            self._refresh_room(server_id, ())
        for server_id, job_ids in self.placements.changed.items():
            self._refresh_room(server_id, job_ids)
        self.fleet.changed.clear()
        self.placements.changed.clear()

    def _refresh_room(self, server_id: str, job_ids: Iterable[str]) -> None:
        """Have a server's room count what these jobs keep by now, and what it has reported."""
        member = self.fleet.members.get(server_id)
        if member is None or member.is_stale:
            self.rooms.remove(server_id)
            self._beyond.pop(server_id, None)
            return
        usage = member.report.jobs
        beyond = self._beyond.get(server_id)
        if beyond is None or beyond.usage is not usage:
            beyond = self._beyond[server_id] = Beyond(usage)
            job_ids = usage
        for job_id in job_ids:
            beyond.count(job_id, self.placements.kept(job_id).get(server_id))
        taken = self.placements.committed.get(server_id, NOTHING) + Commitment(beyond.total_bytes)
        self.rooms.put(member.server, taken, member.condition)

    def _use_after_move(self, server_id: str, report: Report, job_id: str) -> None:
        """Have a server's report, in which only this job has become another since the last one."""
        member = self.fleet.members[server_id]
        beyond = self._beyond.get(server_id)
        if beyond is not None and beyond.usage is member.report.jobs:
            beyond.usage = report.jobs
            beyond.count(job_id, self.placements.kept(job_id).get(server_id))
        self.fleet.members[server_id] = replace(member, report=report)
        self.fleet.changed.add(server_id)

    def _place(self, job_id: str, decision: Decision, now_ms: int, changes: Changes) -> None:
        """Make a decision the map of a job that has no slots yet."""
        slots = decision.slots if self.is_started else {}
        ranges = assign_slots(slots, None) if slots else ()
        quotas = {name: quota for name, quota in decision.quotas.items() if name in slots}
        weights = {name: float(count) for name, count in slots.items()}
        self._put(PlacementMap(job_id, self.epoch, ranges, quotas, weights), now_ms, changes)
        self._note_shortages(job_id, decision, changes)

    def _put(self, placement: PlacementMap, now_ms: int, changes: Changes) -> None:
        """Have a job's map, under a new epoch, and tell everybody."""
        self._stamp(changes)
        self._keep(replace(placement, epoch=self.epoch))
        self._account(placement.job_id, now_ms)
        changes.placements.add(placement.job_id)
        changes.jobs.add(placement.job_id)

    def _note_shortages(self, job_id: str, decision: Decision, changes: Changes) -> None:
        """Remember what a job gets too little of, and say so if that is new."""
        before = self.tenants[job_id].shortages
        self.tenants[job_id] = replace(
            self.tenants[job_id], shortages=decision.shortages, asks=decision.asks
        )
        if self.is_started and decision.shortages != before:
            for shortage in decision.shortages:
                changes.log(logging.WARNING, "job gets too little", job=job_id, short=str(shortage))

    def _stamp(self, changes: Changes) -> None:
        """Give this event an epoch, if it has none yet."""
        if not changes.stamped:
            self.epoch += 1
            changes.stamped = True

    def _keep(self, placement: PlacementMap) -> None:
        """Have a map, and know what its job keeps of which servers."""
        hints = self.tenants[placement.job_id].hints
        self.placements.put(placement, reserved(hints, self.catalog, placement))
        if placement.ranges or placement.read_only:
            self.placeless.discard(placement.job_id)
        else:
            self.placeless.add(placement.job_id)

    def _set_tenant(self, job_id: str, tenant: Tenant) -> None:
        self.tenants[job_id] = tenant
        if tenant.job is not None and tenant.job.lease_expires_ms is not None:
            self._leases.put(job_id, tenant.job.lease_expires_ms)

    def _set_terms(self, terms: Terms, changes: Changes) -> None:
        """Have a job's terms, under a new epoch, and tell everybody."""
        self._stamp(changes)
        job_id = terms.job_id
        self.tenants[job_id] = replace(self.tenants[job_id], terms=replace(terms, epoch=self.epoch))
        changes.terms.add(job_id)
        changes.jobs.add(job_id)

    def _account(self, job_id: str, now_ms: int) -> None:
        """Have the job pay for what it has and uses now."""
        tenant = self.tenants[job_id]
        placement = self.placements[job_id]
        servers = {name: self.fleet.members[name].server for name in placement.owners()}
        used = self.used_bytes(job_id)
        s3_bytes = self.s3_bytes(job_id)
        rate = rate_per_hour(tenant.hints, self.catalog, placement, servers, used, s3_bytes)
        self.tenants[job_id] = replace(tenant, account=tenant.account.at_rate(rate, now_ms))

    def _end(self, job_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        """Forget a job with all that it has."""
        tenant = self.tenants.pop(job_id)
        self._stamp(changes)
        self.placements.remove(job_id)
        self.unsettled.pop(job_id, None)
        self.placeless.discard(job_id)
        changes.jobs.discard(job_id)
        changes.placements.discard(job_id)
        changes.terms.discard(job_id)
        changes.ended.append(job_id)
        cost = round(tenant.account.total(now_ms), 6)
        changes.log(logging.INFO, "job ended", job=job_id, reason=reason, cost_usd=cost)

    def _validate_rooms(self) -> None:
        """Check that what is known of rooms is what it would be if counted anew; for tests."""
        self._refresh_rooms()
        known, self.rooms = self.rooms, Rooms(self.rooms.unhinted_servers)
        self._beyond.clear()
        self.fleet.changed.update(self.fleet.members)
        self._refresh_rooms()
        assert {name: known[name] for name in known} == {n: self.rooms[n] for n in self.rooms}
        known.validate()
