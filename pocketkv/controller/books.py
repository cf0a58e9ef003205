"""What the cluster's state consists of, and the few ways in which maps and accounts change. Pure.

`pocketkv.controller.state` says what happens when; here is what keeps epochs, maps, commitments
and accounts in step whatever happens.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from pocketkv.catalog import Catalog
from pocketkv.controller.accounts import rate_per_hour
from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import UnknownJobError
from pocketkv.controller.fleet import Fleet
from pocketkv.controller.placements import Placements
from pocketkv.controller.policy import Decision
from pocketkv.controller.tenants import Leases, Tenant
from pocketkv.controller.transit import reserved
from pocketkv.placement import PlacementMap, assign_slots


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
        self.unsettled: dict[str, bool] = {}
        self.placeless: set[str] = set()
        self.is_started = False
        self._leases = Leases()

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
        self.tenants[job_id] = replace(self.tenants[job_id], shortages=decision.shortages)
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

    def _account(self, job_id: str, now_ms: int) -> None:
        """Have the job pay for what it has and uses now."""
        tenant = self.tenants[job_id]
        placement = self.placements[job_id]
        servers = {name: self.fleet.members[name].server for name in placement.owners()}
        used = self.used_bytes(job_id)
        rate = rate_per_hour(tenant.hints, self.catalog, placement, servers, used)
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
        changes.ended.append(job_id)
        cost = round(tenant.account.total(now_ms), 6)
        changes.log(logging.INFO, "job ended", job=job_id, reason=reason, cost_usd=cost)
