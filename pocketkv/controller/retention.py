"""What becomes of a job that has ended and retains keys. Pure.

Such a job is not forgotten: from its end on it is only read. Its servers are told, by its map, to
send what they retain of it to what is to keep it, and go on to be read meanwhile. That is the
store (S3) that all of them have, if they have one; or else a server of the slowest file tier that
has room. Each tells when it is done; after the last one, all slots of the job are on one server,
and the others free everything. It stays so until the job is purged.

Whatever fails is begun anew: a server that died before it was done takes its keys with it, which
are counted; if the server that is to keep them is lost or has no room, the others send all they
have, which they still do, to another. Once everything is on one server, the job waits for it
however long it is away: its keys are on its medium. A store is never given up, however long it is
away, and whoever has the same store can read it: when the server that does so dies, another one
takes its place. What a job had left in a store is deleted by one of these servers, which are asked
to do so until one has told that it has (`purges`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from pocketkv.catalog import TIER_NAMES, Catalog
from pocketkv.controller.books import Books
from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import RefusedError, UnknownJobError
from pocketkv.controller.fleet import Fleet, Member
from pocketkv.controller.messages import (
    JobPurged,
    JobRetains,
    JobRetired,
    JobRetireRefused,
    StorePurged,
)
from pocketkv.controller.placements import held_slots
from pocketkv.controller.tenants import Retention, Tenant
from pocketkv.jobs import DEFAULT_JOB_ID, Phase
from pocketkv.placement import PlacementMap, Server, SlotRange, assign_slots, is_store
from pocketkv.slots import SLOT_COUNT

# Tiers whose media outlive jobs, those that are preferred first.
FILE_TIERS: Final = tuple(name for name in reversed(TIER_NAMES) if name != "dram")


class RetainingBooks(Books):
    """Books in which jobs may leave keys behind.

    Attributes:
        retiring: Jobs whose keys are on their way to what keeps them.
        purges: What jobs that are no more have left in stores: the store, by job id.
    """

    def __init__(self, catalog: Catalog, fleet: Fleet, epoch: int) -> None:
        super().__init__(catalog, fleet, epoch)
        self.retiring: set[str] = set()
        self.purges: dict[str, str] = {}

    # --- events --------------------------------------------------------------------------------

    def _on_retains(self, event: JobRetains, now_ms: int, changes: Changes) -> None:
        tenant = self._active(event.job_id)
        if event.job_id == DEFAULT_JOB_ID:
            raise RefusedError(f"the job '{DEFAULT_JOB_ID}' never ends")
        has_files = any(m.server.tier in FILE_TIERS for m in self.fleet.members.values())
        if not has_files and self._store(event.job_id) is None:
            raise RefusedError(
                "keys cannot be retained: the cluster has no storage server with files"
                f" ({', '.join(FILE_TIERS)}) that could keep them, and not all servers of the job"
                " have a store (--retain)"
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
        if is_store(event.target):
            return  # It is waited for.
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
        self._end_retained(event.job_id, "purged", now_ms, changes)

    def _on_store_purged(self, event: StorePurged, now_ms: int, changes: Changes) -> None:
        store = self.purges.pop(event.job_id, None)
        if store is not None:
            changes.facts = True
            changes.log(logging.INFO, "retained keys deleted", job=event.job_id, store=store)

    def purges_of(self, member_id: str) -> list[str]:
        """Return the jobs whose keys this member is to delete from its store.

        Of all members that have a store, one is told: the others would do it a second time.
        """
        member = self.fleet.members.get(member_id)
        if member is None or not member.retain:
            return []
        others = [m for m in self.fleet.members.values() if m.retain == member.retain]
        if member_id != min((m.server.id for m in others if m.connected), default=None):
            return []
        return sorted(job_id for job_id, store in self.purges.items() if store == member.retain)

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
        self.unsettled.pop(job_id, None)
        self.retiring.add(job_id)
        target = self._keeper(job_id, ())
        changes.log(logging.INFO, "job retires", job=job_id, reason=reason, target=target)
        self._redirect(job_id, retention, target, now_ms, changes)

    def _end_retained(self, job_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        """Forget a job that had ended, and have deleted what it may have left in a store."""
        retention = self.tenants[job_id].retention
        assert retention is not None  # The callers have looked.
        self.retiring.discard(job_id)
        if retention.target is not None and is_store(retention.target):
            self.purges[job_id] = retention.target
            changes.facts = True
        self._end(job_id, reason, now_ms, changes)

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
            self._end_retained(job_id, "it retained nothing that is left", now_ms, changes)
            return
        if retention.target is not None and is_store(retention.target):
            member = self._reader(retention.target)
        else:
            member = self.fleet.members.get(retention.target or "")
        self._publish(job_id, self._all_slots(member), now_ms, changes)
        changes.log(
            logging.INFO,
            "job retained",
            job=job_id,
            target=retention.target,
            server=None if member is None else member.server.id,
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
            if retention is None:
                continue
            if self._awaits_reader(job_id, retention) and retention.target == member.retain:
                self._settle_retained(job_id, now_ms, changes)
            if retention.target != server_id:
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
            keeper = self.fleet.members.get(retention.target or "")
            if not self.placements[job_id].ranges:
                continue
            if keeper is not None and keeper.drain is None:
                continue
            if is_store(retention.target):
                continue
            target = self._keeper(job_id, ())
            if target is not None and target != retention.target:
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
        self,
        job_id: str,
        server_id: str,
        keys: int,
        reason: str,
        changes: Changes,
        *,
        is_counted: bool = True,
    ) -> None:
        """Count keys as lost, and say so; or that there may be some which nobody has counted."""
        tenant = self.tenants[job_id]
        self.tenants[job_id] = replace(tenant, lost_keys=tenant.lost_keys + keys)
        changes.jobs.add(job_id)
        changes.log(
            logging.ERROR if keys or not is_counted else logging.WARNING,
            "data lost",
            job=job_id,
            server=server_id,
            keys=keys if is_counted else "unknown",
            reason=reason,
        )

    def _count_losses(self, member: Member, reason: str, changes: Changes) -> None:
        for job_id in self.placements.jobs_on(member.server.id):
            retention = self.tenants[job_id].retention
            if retention is not None and is_store(retention.target) and not retention.pending:
                continue  # It has only read them.
            keys = self._keys_at_stake(job_id, member)
            self._lose_keys(
                job_id, member.server.id, keys, reason, changes, is_counted=member.is_counted
            )

    # --- choosing and telling ------------------------------------------------------------------

    def _store(self, job_id: str) -> str | None:
        """Return the store that all servers of a job have; None if there is no such."""
        owners = self.placements[job_id].owners()
        stores = {self.fleet.members[name].retain for name in owners}
        return stores.pop() or None if len(stores) == 1 else None

    def _reader(self, store: str, leaving: Collection[str] = ()) -> Member | None:
        """Return the server that is to read what is in a store; None if there is none.

        What is read takes nothing but memory for the index, and is not what a server held before
        it was out.
        """
        able = [
            member.server
            for name, member in self.fleet.members.items()
            if member.retain == store and member.drain is None and name not in leaving
        ]
        most = max(able, key=lambda s: (self._free_bytes(s), s.id), default=None)
        return None if most is None else self.fleet.members[most.id]

    def _awaits_reader(self, job_id: str, retention: Retention) -> bool:
        """Return whether all of a job's keys are in a store, and nobody reads them."""
        is_there = is_store(retention.target) and not retention.pending
        return is_there and not self.placements[job_id].ranges

    def _keeper(self, job_id: str, refused: Iterable[str]) -> str | None:
        """Return what is to keep what a job left, a store or a server; None if there is none.

        A server is of the slowest tier where one has room for all that the job uses; if none has,
        it is the one that has most: what is retained may be less.
        """
        store = self._store(job_id)
        if store is not None:
            return store
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
            kept_in=retention.target
            if is_store(retention.target) and not retention.pending
            else None,
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
        if is_store(retention.target) and not retention.pending:
            assert retention.target is not None
            assert placement.kept_in == retention.target
            assert len(owners) <= 1
            assert owners or self._reader(retention.target) is None
            assert all(self.fleet.members[name].retain == retention.target for name in owners)
        elif not owners:
            assert retention.target not in self.fleet.members
        elif retention.pending:
            assert set(retention.pending) <= set(owners)
        else:
            assert owners == (retention.target,)
