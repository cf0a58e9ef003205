"""Servers that are to go, and how many there are to be. Pure.

A drain is moves: the server gets no more slots, what it has moves to those that stay, and when
nothing is left, it stops, if it was the backend's. Before it begins, it is planned as a whole, and
refused with the figures if those that stay have not the room. One that is told to end anyway
(`leaves`) is not refused for that: what fits is saved.

The plan of a tier (`Fleet.wanted`) counts the servers that stay. So a server that drains for good
is taken off the plan; one that leaves by itself is not, and another is started in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.fleet import Drain, Member
from pocketkv.controller.messages import DrainCancelled, ServerDrained, StopServer, TierScaled
from pocketkv.controller.moving import MovingBooks
from pocketkv.controller.policy import plan_drain
from pocketkv.placement import is_store


class DrainingBooks(MovingBooks):
    """Books in which servers go.

    Attributes:
        has_backend: Whether servers can be started and stopped.
    """

    has_backend = False
    # Of servers of a tier that could go, those that the backend can do without first.
    _may_leave: Callable[[str, Sequence[str]], Sequence[str]]

    # --- beginning -----------------------------------------------------------------------------

    def _on_drained(self, event: ServerDrained, now_ms: int, changes: Changes) -> None:
        self.begin_drain(event.server_id, event.reason, now_ms, changes, leaves=event.leaves)

    def begin_drain(
        self, server_id: str, reason: str, now_ms: int, changes: Changes, *, leaves: bool = False
    ) -> None:
        """Have a server give everything away, and then go.

        A managed server is taken off the plan, and stopped when it is empty. One that `leaves`
        by itself is not taken off the plan, so that another is started.

        Raises:
            UnknownServerError: There is none.
            RefusedError: What it has does not fit on those that stay; nothing has changed.
        """
        member = self.fleet.member(server_id)
        if member.drain is not None:
            if leaves and not member.drain.leaves:
                self._set_drain(member, replace(member.drain, leaves=True), changes)
                self._unsettle(self.placements.jobs_naming(server_id), spread=False, is_urgent=True)
            return
        self._check_drains([server_id], leaves=leaves)
        returns = self._returns(member, leaves=leaves)
        if member.managed and not leaves and not returns:
            tier = member.server.tier
            self._set_wanted(tier, max(0, self.fleet.wanted.get(tier, 0) - 1), changes)
        drain = Drain(reason, now_ms, leaves=leaves, returns=returns)
        self._begin_drain(member, drain, now_ms, changes)

    def _returns(self, member: Member, *, leaves: bool) -> bool:
        """Return whether a server that goes is started again under its id."""
        if not member.managed or not self.fleet.traits.restarts_in_place:
            return False
        staying = [m.server.id for m in self.fleet.staying(member.server.tier)]
        return leaves or member.server.id not in self._may_leave(member.server.tier, staying)

    def _begin_drain(self, member: Member, drain: Drain, now_ms: int, changes: Changes) -> None:
        server_id = member.server.id
        self._set_drain(member, drain, changes)
        job_ids = self.placements.jobs_naming(server_id)
        changes.log(
            logging.INFO,
            "server draining",
            server=server_id,
            tier=member.server.tier,
            jobs=len(job_ids),
            bytes=member.report.used_bytes,
            reason=drain.reason,
        )
        self._unsettle(job_ids, spread=False, is_urgent=True)
        for job_id in job_ids:
            retention = self.tenants[job_id].retention
            if retention is None or retention.pending:
                continue
            if is_store(retention.target):
                # It only reads what is in the store, as others can.
                self._settle_retained(job_id, now_ms, changes)
            else:
                # It keeps what the job left: somebody else is to, and gets it like at its end.
                self.retiring.add(job_id)
                self._redirect(job_id, retention, self._keeper(job_id, ()), now_ms, changes)

    def _set_drain(self, member: Member, drain: Drain | None, changes: Changes) -> None:
        self.fleet.add(member.draining(drain))
        self._stamp(changes)
        changes.servers = True
        changes.records.add(member.server.id)

    def _set_wanted(self, tier: str, count: int, changes: Changes) -> None:
        self.fleet.wanted[tier] = count
        changes.facts = True

    # --- planning ------------------------------------------------------------------------------

    def _check_drains(self, leaving: Collection[str], *, leaves: bool = False) -> None:
        """Find out whether those that stay have room for all that these servers have.

        Raises:
            RefusedError: They have not.
        """
        job_ids = sorted({j for name in leaving for j in self.placements.jobs_naming(name)})
        if job_ids and not [s for s in self.fleet.up() if s.id not in leaving]:
            raise RefusedError("there is no other server that could take its slots")
        if leaves:
            return
        active = []
        for job_id in job_ids:
            if self.tenants[job_id].retention is not None:
                self._check_keeper(job_id, leaving)
            else:
                active.append(job_id)
        self._refresh_rooms()
        # What is on its way to a server is reserved there.
        plan = plan_drain(leaving, map(self.resident, active), self.rooms, self.catalog)
        if not plan.fits:
            raise RefusedError(f"there is too little room on the servers that stay: {plan.reason}")

    def _check_keeper(self, job_id: str, leaving: Collection[str]) -> None:
        retention = self.tenants[job_id].retention
        assert retention is not None  # The caller has looked.
        if retention.pending:
            return
        if retention.target is not None and is_store(retention.target):
            if self._reader(retention.target, leaving) is None:
                raise RefusedError(
                    f"no other server has the store that the job '{job_id}' left its keys in"
                )
        elif self._keeper(job_id, leaving) is None:
            raise RefusedError(
                f"no other server with files could keep what the job '{job_id}' retained"
            )

    # --- ending --------------------------------------------------------------------------------

    def _on_drain_cancelled(self, event: DrainCancelled, now_ms: int, changes: Changes) -> None:
        member = self.fleet.member(event.server_id)
        if member.drain is None:
            raise RefusedError(f"server '{event.server_id}' is not draining")
        if member.drain.leaves:
            raise RefusedError(f"server '{event.server_id}' was told to end, and will")
        self._cancel_drain(member, changes)
        if member.managed and not member.drain.returns:
            tier = member.server.tier
            running = len(self.fleet.staying(tier)) + len(self.fleet.requested(tier))
            if running > self.fleet.wanted.get(tier, 0):
                self._set_wanted(tier, running, changes)

    def _cancel_drain(self, member: Member, changes: Changes) -> None:
        server_id = member.server.id
        self._set_drain(member, None, changes)
        changes.log(logging.INFO, "drain given up", server=server_id)
        self._unsettle(self.placements.jobs_naming(server_id), spread=True)
        self._unsettle_after_growth()

    def _finish_drains(self, now_ms: int, changes: Changes) -> None:
        """Let go of servers that have nothing any more."""
        for member in self.fleet.draining():
            drain, server_id = member.drain, member.server.id
            assert drain is not None  # That is what draining means.
            is_empty = not self.placements.jobs_naming(server_id)
            if is_empty and not drain.is_done:
                changes.log(
                    logging.INFO,
                    "server drained",
                    server=server_id,
                    tier=member.server.tier,
                    took_ms=now_ms - drain.since_ms,
                )
            if is_empty and member.managed and self.has_backend:
                self._stop(server_id, now_ms, changes)
            elif is_empty != drain.is_done:
                self.fleet.add(member.draining(replace(drain, is_done=is_empty)))
                changes.records.add(server_id)

    def _stop(self, server_id: str, now_ms: int, changes: Changes) -> None:
        """Have a server that holds nothing stopped."""
        if self.fleet.remove(server_id, now_ms, has_died=False) is not None:
            self._stamp(changes)
            changes.servers = True
        self._forget_setbacks(server_id)
        changes.records.add(server_id)
        changes.actions.append(StopServer(server_id, returns=self.fleet.stop(server_id)))
        changes.log(logging.INFO, "server is to stop", server=server_id)

    # --- how many ------------------------------------------------------------------------------

    def _on_scaled(self, event: TierScaled, now_ms: int, changes: Changes) -> None:
        if not self.has_backend:
            raise RefusedError("this controller starts no servers itself, so it cannot scale them")
        tier, count = event.tier, event.count
        leaving = self._surplus(tier, count)
        try:
            self._check_drains([member.server.id for member in leaving])
        except RefusedError as error:
            raise RefusedError(f"{tier} cannot shrink to {count} servers: {error}") from error
        self._set_wanted(tier, count, changes)
        changes.log(logging.INFO, "tier scaled", tier=tier, wanted=count)
        for member in leaving:
            drain = Drain(f"{tier} is to have {count} servers", now_ms)
            self._begin_drain(member, drain, now_ms, changes)
        self._call_back(tier, count, changes)
        pending = self.fleet.requested(tier)
        still_wanted = max(0, count - len(self.fleet.staying(tier)))
        for server_id in pending[still_wanted:]:
            self._stop(server_id, now_ms, changes)

    def _surplus(self, tier: str, count: int) -> list[Member]:
        """Return which servers of a tier are to go so that `count` stay."""
        staying = {member.server.id: member for member in self.fleet.staying(tier)}
        leaving: list[Member] = []
        while len(staying) > count:
            may_go = [staying[name] for name in self._may_leave(tier, list(staying))]
            if not may_go:
                raise RefusedError(f"{tier} cannot shrink to {count} servers now")
            leaving.append(min(may_go, key=self._cost_of_leaving))
            del staying[leaving[-1].server.id]
        return leaving

    def _cost_of_leaving(self, member: Member) -> tuple[bool, int, int, str]:
        """Order servers: first those that can go at once, then those that hold least."""
        server_id = member.server.id
        is_busy = bool(self.placements.jobs_naming(server_id))
        return is_busy, member.report.used_bytes, -member.joined_ms, server_id

    def _call_back(self, tier: str, count: int, changes: Changes) -> None:
        """Rather than start new servers, keep some that are draining."""
        lacking = count - len(self.fleet.staying(tier))
        for member in self.fleet.draining():
            is_free = member.drain is not None and not member.drain.leaves
            if lacking > 0 and member.managed and member.server.tier == tier and is_free:
                self._cancel_drain(member, changes)
                lacking -= 1

    @property
    def drains(self) -> dict[str, str]:
        """Servers that are draining, and why."""
        return {m.server.id: m.drain.reason for m in self.fleet.draining() if m.drain is not None}

    def obstacle(self, server_id: str) -> str:
        """Return what holds up a drain; empty if nothing does."""
        for job_id in self.placements.jobs_naming(server_id):
            if self.tenants[job_id].retention is not None:
                return f"keys that the job '{job_id}' retained are handed over"
            if self.tenants[job_id].shortages and job_id not in self.in_transit:
                short = self.tenants[job_id].shortages[0]
                return f"the job '{job_id}' finds no room elsewhere: {short}"
            for (name, target), setback in self.setbacks.items():
                if name == job_id and target != server_id:
                    return f"moving slots of '{job_id}' to {target} failed: {setback.reason}"
        return ""
