"""What becomes of a job that has ended and retains keys. Pure.

Such a job is not forgotten: from its end on it is only read. Its servers are told, by its map, to
send what they retain of it to one server of the slowest file tier that has room, and go on to be
read meanwhile. Each tells when it is done; after the last one, all slots of the job are on that
server, and the others free everything. It stays so until the job is purged.

Whatever fails is begun anew: a server that died before it was done takes its keys with it, which
are counted; if the server that is to keep them is lost or has no room, the others send all they
have, which they still do, to another. Once everything is on one server, the job waits for it
however long it is away: its keys are on its medium.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from pocketkv.catalog import TIER_NAMES, Catalog
from pocketkv.controller.books import Books
from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import RefusedError, UnknownJobError
from pocketkv.controller.fleet import Fleet, Member
from pocketkv.controller.messages import JobPurged, JobRetains, JobRetired, JobRetireRefused
from pocketkv.controller.placements import held_slots
from pocketkv.controller.tenants import Retention, Tenant
from pocketkv.jobs import DEFAULT_JOB_ID, Phase
from pocketkv.placement import PlacementMap, Server, SlotRange, assign_slots
from pocketkv.slots import SLOT_COUNT

# Tiers whose media outlive jobs, those that are preferred first.
FILE_TIERS: Final = tuple(name for name in reversed(TIER_NAMES) if name != "dram")


class RetainingBooks(Books):
    """Books in which jobs may leave keys behind.

    Attributes:
        retiring: Jobs whose keys are on their way to the server that keeps them.
    """

    def __init__(self, catalog: Catalog, fleet: Fleet, epoch: int) -> None:
        super().__init__(catalog, fleet, epoch)
        self.retiring: set[str] = set()

    # --- events --------------------------------------------------------------------------------

    def _on_retains(self, event: JobRetains, now_ms: int, changes: Changes) -> None:
        tenant = self._active(event.job_id)
        if event.job_id == DEFAULT_JOB_ID:
            raise RefusedError(f"the job '{DEFAULT_JOB_ID}' never ends")
        if not any(member.server.tier in FILE_TIERS for member in self.fleet.members.values()):
            raise RefusedError(
                "keys cannot be retained: the cluster has no storage server with files"
                f" ({', '.join(FILE_TIERS)}) that could keep them"
            )
        if not tenant.retains:
            self.tenants[event.job_id] = replace(tenant, retains=True)
            changes.jobs.add(event.job_id)

    def _on_retired(self, event: JobRetired, now_ms: int, changes: Changes) -> None:
        tenant = self.tenants.get(event.job_id)
        retention = None if tenant is None else tenant.retention
        if tenant is None or retention is None or retention.target != event.target:
            return  # It is too late: the job was purged, or its keys go elsewhere by now.
        if event.server_id not in retention.pending:
            return
        retention = replace(
            retention,
            pending=tuple(name for name in retention.pending if name != event.server_id),
            keys=retention.keys + event.keys,
        )
        self.tenants[event.job_id] = replace(
            tenant, retention=retention, lost_keys=tenant.lost_keys + event.lost_keys
        )
        changes.jobs.add(event.job_id)
        changes.log(
            logging.ERROR if event.lost_keys else logging.INFO,
            "retained keys handed over",
            job=event.job_id,
            server=event.server_id,
            target=event.target,
            keys=event.keys,
            lost_keys=event.lost_keys,
        )
        if not retention.pending:
            self._settle_retained(event.job_id, now_ms, changes)

    def _on_retire_refused(self, event: JobRetireRefused, now_ms: int, changes: Changes) -> None:
        tenant = self.tenants.get(event.job_id)
        retention = None if tenant is None else tenant.retention
        if retention is None or retention.target != event.target or not retention.pending:
            return
        changes.log(
            logging.WARNING,
            "retained keys refused",
            job=event.job_id,
            target=event.target,
            reason=event.reason,
        )
        refused = (*retention.refused, event.target)
        target = self._keeper(event.job_id, refused)
        if target is None:
            # All have refused: all are tried again, and this one first.
            self._put_retention(event.job_id, replace(retention, refused=()), changes)
            return
        self._redirect(event.job_id, replace(retention, refused=refused), target, now_ms, changes)

    def _on_purged(self, event: JobPurged, now_ms: int, changes: Changes) -> None:
        tenant = self.tenants.get(event.job_id)
        if tenant is None:
            raise UnknownJobError(event.job_id)
        if tenant.retention is None:
            raise RefusedError(
                f"the job '{event.job_id}' has not ended: JOB.DEREGISTER ends it, and frees what"
                " it does not retain"
            )
        self.retiring.discard(event.job_id)
        self._end(event.job_id, "purged", now_ms, changes)

    def _active(self, job_id: str) -> Tenant:
        """Return a job that has not ended.

        Raises:
            RefusedError: It has, or there is none.
        """
        tenant = self.tenant(job_id)
        if tenant.retention is not None:
            raise RefusedError(
                f"no such job '{job_id}' any more: it has ended, and JOB.PURGE deletes what it"
                " retained"
            )
        return tenant

    # --- the end of a job ----------------------------------------------------------------------

    def _end_or_retain(self, job_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        """End a job; what it retains stays."""
        tenant, placement = self.tenants[job_id], self.placements[job_id]
        if not tenant.retains or tenant.job is None or not placement.ranges:
            self._end(job_id, reason, now_ms, changes)
            return
        job = replace(tenant.job, phase=Phase.RETAINED, lease_expires_ms=None)
        retention = Retention(None, placement.owners())
        self.tenants[job_id] = replace(tenant, job=job, shortages=(), asks=(), retention=retention)
        self.unsettled.discard(job_id)
        self.retiring.add(job_id)
        target = self._keeper(job_id, ())
        changes.log(logging.INFO, "job retires", job=job_id, reason=reason, target=target)
        self._redirect(job_id, retention, target, now_ms, changes)

    def _redirect(
        self,
        job_id: str,
        retention: Retention,
        target: str | None,
        now_ms: int,
        changes: Changes,
    ) -> None:
        """Have everything sent to another server, from the beginning."""
        owners = self.placements[job_id].owners()
        member = self.fleet.members.get(target or "")
        generation = "" if member is None else member.generation
        retention = replace(retention, target=target, pending=owners, keys=0, generation=generation)
        self._put_retention(job_id, retention, changes)
        self._publish(job_id, self.placements[job_id].ranges, now_ms, changes)

    def _settle_retained(self, job_id: str, now_ms: int, changes: Changes) -> None:
        """Everything that could be handed over is: leave it there."""
        self.retiring.discard(job_id)
        retention = self.tenants[job_id].retention
        assert retention is not None  # The callers have looked.
        if not retention.keys:
            self._end(job_id, "it retained nothing that is left", now_ms, changes)
            return
        member = self.fleet.members.get(retention.target or "")
        self._publish(job_id, self._all_slots(member), now_ms, changes)
        changes.log(
            logging.INFO,
            "job retained",
            job=job_id,
            server=retention.target,
            keys=retention.keys,
            lost_keys=self.tenants[job_id].lost_keys,
        )

    @staticmethod
    def _all_slots(member: Member | None) -> tuple[SlotRange, ...]:
        return () if member is None else (SlotRange(0, SLOT_COUNT - 1, member.server.id),)

    # --- servers that come and go --------------------------------------------------------------

    def _lose_retained(self, job_id: str, server_id: str, now_ms: int, changes: Changes) -> None:
        """A server is gone that had slots of a job that has ended."""
        retention = self.tenants[job_id].retention
        assert retention is not None  # The caller has looked.
        placement = self.placements[job_id]
        left = {name: n for name, n in held_slots(placement).items() if name != server_id}
        if retention.target == server_id and not left:
            # It has it all on its medium, so there is nothing to do but to wait for it.
            changes.log(logging.WARNING, "retained keys are away", job=job_id, server=server_id)
            self._publish(job_id, (), now_ms, changes)
            return
        pending = tuple(name for name in retention.pending if name != server_id)
        if retention.target != server_id and not pending:
            self._put_retention(job_id, replace(retention, pending=()), changes)
            self._settle_retained(job_id, now_ms, changes)
            return
        ranges = assign_slots({name: float(n) for name, n in left.items()}, placement)
        self._put_retention(job_id, replace(retention, pending=pending), changes)
        self._publish(job_id, ranges, now_ms, changes)
        if retention.target == server_id:
            target = self._keeper(job_id, retention.refused)
            self._redirect(job_id, retention, target, now_ms, changes)

    def _return_retained(self, member: Member, now_ms: int, changes: Changes) -> None:
        """A server has joined: what it keeps of jobs that have ended can be read again."""
        server_id = member.server.id
        for job_id, tenant in list(self.tenants.items()):
            retention = tenant.retention
            if retention is None or retention.target != server_id:
                continue
            owners = self.placements[job_id].owners()
            if retention.generation != member.generation:
                # What it was given is gone with its medium.
                if set(owners) - {server_id}:
                    self._redirect(job_id, retention, server_id, now_ms, changes)
                    continue
                self._lose_keys(job_id, server_id, retention.keys, "its medium is new", changes)
                retention = replace(retention, generation=member.generation, keys=0)
                self._put_retention(job_id, retention, changes)
            if not owners:
                self._publish(job_id, self._all_slots(member), now_ms, changes)
                changes.log(logging.INFO, "retained keys are back", job=job_id, server=server_id)

    def _give_up_retained(self, server_id: str, reason: str, changes: Changes) -> None:
        """A server will not come back, nor what it kept."""
        for job_id, tenant in list(self.tenants.items()):
            retention = tenant.retention
            if retention is None or retention.target != server_id or not retention.keys:
                continue
            if not self.placements[job_id].ranges:
                self._lose_keys(job_id, server_id, retention.keys, reason, changes)
                self._put_retention(job_id, replace(retention, keys=0), changes)

    def _find_keepers(self, now_ms: int, changes: Changes) -> None:
        """Look for other servers to keep what is on its way to one that is no more."""
        for job_id in sorted(self.retiring):
            retention = self.tenants[job_id].retention
            assert retention is not None  # Or it would not be retiring.
            if retention.target in self.fleet.members or not self.placements[job_id].ranges:
                continue
            target = self._keeper(job_id, ())
            if target is not None:
                self._redirect(job_id, retention, target, now_ms, changes)

    def _keys_at_stake(self, job_id: str, member: Member) -> int:
        """Return how many keys a job loses with a server."""
        usage = member.report.jobs.get(job_id)
        if usage is None:
            return 0
        retention = self.tenants[job_id].retention
        if retention is None:
            return usage.keys
        # Those that it has handed over are elsewhere, and the one that keeps them may come back.
        return usage.retained_keys if member.server.id in retention.pending else 0

    def _lose_keys(
        self, job_id: str, server_id: str, keys: int, reason: str, changes: Changes
    ) -> None:
        """Count keys as lost, and say so."""
        tenant = self.tenants[job_id]
        self.tenants[job_id] = replace(tenant, lost_keys=tenant.lost_keys + keys)
        changes.jobs.add(job_id)
        changes.log(
            logging.ERROR if keys else logging.WARNING,
            "data lost",
            job=job_id,
            server=server_id,
            keys=keys,
            reason=reason,
        )

    def _count_losses(self, member: Member, reason: str, changes: Changes) -> None:
        for job_id in self.placements.jobs_on(member.server.id):
            keys = self._keys_at_stake(job_id, member)
            self._lose_keys(job_id, member.server.id, keys, reason, changes)

    # --- choosing and telling ------------------------------------------------------------------

    def _keeper(self, job_id: str, refused: Iterable[str]) -> str | None:
        """Return the server that is to keep what a job left; None if there is none.

        It is of the slowest tier where one has room for all that the job uses; if none has, it is
        the one that has most: what is retained may be less.
        """
        needed_bytes = sum(self.used_bytes(job_id).values())
        owners = self.placements[job_id].owners()
        offered = [s for s in self.fleet.up() if s.tier in FILE_TIERS and s.id not in refused]
        healthy = [s for s in offered if not self.fleet.members[s.id].report.medium_error]

        def preference(server: Server) -> tuple[bool, int, str]:
            return server.id in owners, self._free_bytes(server), server.id

        for tier in FILE_TIERS:
            roomy = [s for s in healthy if s.tier == tier and self._free_bytes(s) >= needed_bytes]
            if roomy:
                return max(roomy, key=preference).id
        most = max(healthy or offered, key=self._free_bytes, default=None)
        return None if most is None else most.id

    def _free_bytes(self, server: Server) -> int:
        return server.capacity_bytes - self.fleet.members[server.id].report.used_bytes

    def _put_retention(self, job_id: str, retention: Retention, changes: Changes) -> None:
        self.tenants[job_id] = replace(self.tenants[job_id], retention=retention)
        changes.jobs.add(job_id)

    def _publish(
        self, job_id: str, ranges: tuple[SlotRange, ...], now_ms: int, changes: Changes
    ) -> None:
        """Have a map of a job that has ended, under a new epoch."""
        self._stamp(changes)
        retention = self.tenants[job_id].retention
        assert retention is not None  # The callers have looked.
        placement = PlacementMap(
            job_id,
            self.epoch,
            ranges,
            quotas=dict.fromkeys((r.server_id for r in ranges), None),
            weights={},
            read_only=True,
            retire_to=retention.target if retention.pending else None,
        )
        weights = {name: float(n) for name, n in held_slots(placement).items()}
        self._keep(replace(placement, weights=weights))
        self._account(job_id, now_ms)
        changes.placements.add(job_id)
        changes.jobs.add(job_id)

    # --- checking ------------------------------------------------------------------------------

    def _validate_retained(self, placement: PlacementMap, retention: Retention) -> None:
        """Check what must hold of a job that has ended and is not purged."""
        assert (placement.job_id in self.retiring) == bool(retention.pending)
        assert placement.retire_to == (retention.target if retention.pending else None)
        owners = placement.owners()
        if not owners:
            assert retention.target not in self.fleet.members
        elif retention.pending:
            assert set(retention.pending) <= set(owners)
        else:
            assert owners == (retention.target,)
