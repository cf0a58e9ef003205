"""Tiers that follow their load: the books of the cluster, and what scaling decides on them. Pure.

Once a second the autoscaler is shown what servers report and jobs need. Growth changes the plan,
and the fleet requests what it lacks. A server that is to go is drained first; only when no job is
placed on it does it leave the plan, and stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from pocketkv.catalog import Catalog
from pocketkv.controller.changes import Changes
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.fleet import Fleet, Member
from pocketkv.controller.loads import ServerLoad, TierView, servers_asked
from pocketkv.controller.policy import Commitment
from pocketkv.controller.retention import RetainingBooks
from pocketkv.controller.scaling import (
    CONSIDER_INTERVAL_MS,
    Autoscaler,
    Decision,
    Grow,
    Hold,
    Relieve,
    Shrink,
)
from pocketkv.placement import ServerState
from pocketkv.scaling_rules import ScalingRules

# A machine whose hypervisor takes everything can still do something.
_CPU_MIN: Final = 0.1
_NOTHING: Final = Commitment()


class ElasticBooks(RetainingBooks):
    """Books whose tiers grow and shrink.

    Args:
        rules: How far; None: not at all by themselves.
        may_leave: Of servers of a tier that could be stopped, which of them the backend can stop
            next.

    Attributes:
        scaler: What decides; None: nothing does.
        drains: Servers that are leaving because of a decision, and why.
        relieving: Servers that are used much more than their tier.
    """

    def __init__(
        self,
        catalog: Catalog,
        fleet: Fleet,
        epoch: int,
        rules: ScalingRules | None,
        may_leave: Callable[[str, Sequence[str]], Sequence[str]],
    ) -> None:
        super().__init__(catalog, fleet, epoch)
        self.scaler = None if rules is None else Autoscaler(rules)
        self.drains: dict[str, str] = {}
        self.relieving: dict[str, Relieve] = {}
        self._may_leave = may_leave
        self._considered_ms = 0

    # --- what there is -------------------------------------------------------------------------

    def tier_views(self) -> list[TierView]:
        """Return each tier of the catalog as scaling sees it."""
        asked = self._asked()
        return [self._tier_view(tier.name, asked.get(tier.name, 0)) for tier in self.catalog.tiers]

    def _tier_view(self, tier: str, asked: int) -> TierView:
        members = [m for _, m in sorted(self.fleet.members.items()) if m.server.tier == tier]
        could_go = [m.server.id for m in members if self._could_go(m)]
        may_go = set(self._may_leave(tier, could_go)) if could_go else set()
        return TierView(
            tier,
            servers=tuple(_load(m, may_go=m.server.id in may_go) for m in members),
            wanted=self.fleet.wanted.get(tier, 0),
            requested=len(self.fleet.requested(tier)),
            managed=len(self.fleet.managed(tier)),
            asked=asked,
            is_known=all(m.rates.since is not None for m in members),
            has_jobs=any(self.placements.jobs_on(m.server.id) for m in members),
            price_per_hour=self.catalog.tier(tier).server_price_per_hour,
        )

    def _could_go(self, member: Member) -> bool:
        """Return whether a server can be drained: keys cannot be moved yet."""
        is_up = member.managed and member.server.state is ServerState.UP
        return is_up and not member.report.keys

    def _asked(self) -> dict[str, int]:
        """Return how many servers of each scaled tier jobs need for what they were promised."""
        if self.scaler is None:
            return {}
        lacks: dict[str, dict[str, int]] = {tier: {} for tier in self.scaler.rules.tiers}
        for tenant in self.tenants.values():
            for shortage in tenant.shortages:
                tier = next((name for name in shortage.tiers if name in lacks), None)
                if tier is not None:
                    missing = shortage.wanted - shortage.available
                    lack = lacks[tier]
                    lack[shortage.resource] = lack.get(shortage.resource, 0) + missing
        return {tier: self._servers_for(tier, lack) for tier, lack in lacks.items()}

    def _servers_for(self, tier: str, lack: dict[str, int]) -> int:
        """Return how many servers of a tier hold what jobs have there and what they lack."""
        servers = [m.server for m in self.fleet.members.values() if m.server.tier == tier]
        kept = [self.placements.committed.get(s.id, _NOTHING) for s in servers]
        reference = self.catalog.tier(tier)
        # What servers say of themselves, if there are some to ask.
        count = len(servers)
        capacity = sum(s.capacity_bytes for s in servers) / count if count else 0
        bandwidth = sum(s.bandwidth_bytes_s for s in servers) / count if count else 0
        needs = servers_asked(
            [
                (
                    sum(k.capacity_bytes for k in kept) + lack.get("capacity", 0),
                    capacity or reference.capacity_bytes,
                ),
                (
                    sum(k.throughput_bytes_s for k in kept) + lack.get("throughput", 0),
                    bandwidth or reference.bandwidth_bytes_s,
                ),
            ]
        )
        return max(needs, 1 if lack.get("servers") else 0)

    def check_scale(self, tier: str, count: int) -> None:
        """Check that a tier may be planned to have so many servers.

        Raises:
            RefusedError: It may not.
        """
        if self.scaler is None:
            return
        rules = self.scaler.rules
        limits = rules.tiers.get(tier)
        if limits is not None and count not in limits:
            raise RefusedError(f"{tier} is scaled between {limits.least} and {limits.most} servers")
        views = {view.tier: view for view in self.tier_views()}
        more = count - self.fleet.wanted.get(tier, 0)
        servers = sum(view.count for view in views.values()) + more
        if more > 0 and rules.servers_max is not None and servers > rules.servers_max:
            raise RefusedError(
                f"the cluster would have {servers} servers, and {rules.servers_max} at most"
            )
        usd = sum(view.count * view.price_per_hour for view in views.values())
        usd += more * (views[tier].price_per_hour if tier in views else 0.0)
        most_usd = rules.cost_per_hour_max_usd
        if more > 0 and most_usd is not None and usd > most_usd:
            raise RefusedError(
                f"the cluster would cost {usd:.2f} USD per hour, and {most_usd:.2f} at most"
            )

    # --- deciding ------------------------------------------------------------------------------

    def _scale(self, now_ms: int, changes: Changes) -> None:
        """Go on with drains; once a second, see whether tiers should grow or shrink."""
        self._follow_drains(now_ms, changes)
        if self.scaler is None or not self.is_started:
            return
        if now_ms - self._considered_ms < CONSIDER_INTERVAL_MS:
            return
        self._considered_ms = now_ms
        for decision in self.scaler.consider(self.tier_views(), now_ms):
            self._follow(decision, now_ms, changes)
        self.relieving = {
            name: decision
            for name, decision in self.relieving.items()
            if self.scaler.is_hot(decision.tier, name)
        }

    def _follow(self, decision: Decision, now_ms: int, changes: Changes) -> None:
        tier, reason = decision.tier, decision.reason
        match decision:
            case Grow(servers=servers):
                self.fleet.wanted[tier] = servers
                changes.facts = True
                changes.log(logging.INFO, "tier grows", tier=tier, wanted=servers, reason=reason)
            case Shrink(server_id=server_id):
                changes.log(
                    logging.INFO, "tier shrinks", tier=tier, server=server_id, reason=reason
                )
                self.begin_drain(server_id, reason, now_ms, changes)
            case Relieve(server_id=server_id):
                if server_id not in self.relieving:
                    changes.log(
                        logging.INFO, "server is hot", tier=tier, server=server_id, reason=reason
                    )
                self.relieving[server_id] = decision
            case Hold():
                changes.log(logging.WARNING, "tier is not scaled", tier=tier, reason=reason)

    # --- draining ------------------------------------------------------------------------------

    def begin_drain(self, server_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        """Have a server give its slots away, and leave the plan and stop when it has none.

        Raises:
            UnknownServerError: There is none of this id.
        """
        member = self.fleet.member(server_id)
        self._set_server_state(member, ServerState.DRAINING, changes)
        self.drains[server_id] = reason
        self.unsettled.update(self.placements.jobs_on(server_id))

    def _resume_drains(self) -> None:
        """Go on with the drains of an earlier life of the controller."""
        for server_id, member in self.fleet.members.items():
            if member.managed and member.server.state is ServerState.DRAINING:
                self.drains[server_id] = "it began before the controller was started anew"
                self.unsettled.update(self.placements.jobs_on(server_id))

    def _follow_drains(self, now_ms: int, changes: Changes) -> None:
        """Stop the servers that have been drained; give up those that cannot be."""
        for server_id in list(self.drains):
            member = self.fleet.members.get(server_id)
            jobs = self.placements.jobs_on(server_id)
            if member is None:
                del self.drains[server_id]
            elif not jobs:
                reason = self.drains.pop(server_id)
                tier = member.server.tier
                self.fleet.wanted[tier] = max(0, self.fleet.wanted.get(tier, 0) - 1)
                changes.facts = True
                changes.log(logging.INFO, "server drained", server=server_id, reason=reason)
                self._stop(server_id, now_ms, changes)
            elif not self.unsettled.intersection(jobs):
                # Each of them was asked, and has keys there by now.
                del self.drains[server_id]
                self._set_server_state(member, ServerState.UP, changes)
                changes.log(
                    logging.WARNING,
                    "drain given up",
                    server=server_id,
                    jobs=len(jobs),
                    reason=f"it holds data of {', '.join(jobs[:3])}",
                )


def _load(member: Member, *, may_go: bool) -> ServerLoad:
    """Return what a server does, beside what it could, by its last reports."""
    server, report, rates = member.server, member.report, member.rates
    load = {
        "cpu": report.cpu,
        "network": rates.network_bytes_s,
        "capacity": float(report.used_bytes),
    }
    can = {
        "cpu": max(_CPU_MIN, 1.0 - report.steal),
        "network": float(server.bandwidth_bytes_s),
        "capacity": float(server.capacity_bytes),
    }
    if server.tier != "dram":
        load |= {"disk": rates.disk_bytes_s, "index": float(report.index_bytes)}
        can |= {"disk": float(server.bandwidth_bytes_s), "index": float(report.memory_bytes)}
    return ServerLoad(
        server.id,
        load,
        can,
        held_bytes=report.used_bytes,
        may_go=may_go,
        is_leaving=server.state is ServerState.DRAINING,
    )
