"""Tiers that follow their load: the books of the cluster, and what scaling decides on them. Pure.

Once a second the autoscaler is shown what servers report and jobs need. Growth changes the plan,
and the fleet requests what it lacks; servers that drain are called back first. A server that is to
go leaves the plan and is drained, and stops when no job is placed on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pocketkv.catalog import Catalog
from pocketkv.controller.changes import Changes
from pocketkv.controller.draining import DrainingBooks
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.fleet import Fleet, Member
from pocketkv.controller.loads import ServerLoad, TierView, servers_asked
from pocketkv.controller.messages import TierScaled
from pocketkv.controller.policy import (
    NOTHING,
    Commitment,
    growth,
    placing,
    relieve,
    share_of,
    supply_of,
)
from pocketkv.controller.policy import ServerLoad as PolicyLoad
from pocketkv.controller.scaling import (
    CONSIDER_INTERVAL_MS,
    Autoscaler,
    Decision,
    Grow,
    Hold,
    Relieve,
    Shrink,
)
from pocketkv.controller.transit import planned_commitments
from pocketkv.placement import ServerState
from pocketkv.scaling_rules import ScalingRules

# A machine whose hypervisor takes everything can still do something.
_CPU_MIN: Final = 0.1


class ElasticBooks(DrainingBooks):
    """Books whose tiers grow and shrink.

    Args:
        rules: How far; None: not at all by themselves.
        may_leave: Of servers of a tier that could be stopped, which of them the backend can stop
            next.

    Attributes:
        scaler: What decides; None: nothing does.
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
        self.relieving: dict[str, Relieve] = {}
        self._may_leave = may_leave
        self._considered_ms = 0
        # Servers that there were when it was last reckoned what could be started.
        self._supplied = -1

    # --- what there is -------------------------------------------------------------------------

    def tier_views(self) -> list[TierView]:
        """Return each tier of the catalog as scaling sees it."""
        asked = self._asked()
        return [self._tier_view(tier.name, asked.get(tier.name, 0)) for tier in self.catalog.tiers]

    def _tier_view(self, tier: str, asked: int) -> TierView:
        # What others started and drain is nothing that the plan counts with.
        members = [
            m
            for _, m in sorted(self.fleet.members.items())
            if m.server.tier == tier and (m.managed or m.drain is None)
        ]
        leaving = sum(m.drain is not None for m in members)
        could_go = [m.server.id for m in members if m.managed and m.drain is None]
        may_go = set(self._may_leave(tier, could_go)) if could_go else set()
        return TierView(
            tier,
            servers=tuple(_load(m, may_go=m.server.id in may_go) for m in members),
            wanted=self.fleet.wanted.get(tier, 0) + leaving,
            requested=len(self.fleet.requested(tier)),
            managed=len(self.fleet.managed(tier)),
            asked=asked,
            is_known=all(m.rates.since is not None for m in members),
            has_jobs=any(self.placements.jobs_on(m.server.id) for m in members),
            price_per_hour=self.catalog.tier(tier).server_price_per_hour,
        )

    def _asked(self) -> dict[str, int]:
        """Return how many servers of each scaled tier jobs need for what they were promised."""
        if self.scaler is None:
            return {}
        asks = (ask for tenant in self.tenants.values() for ask in tenant.asks)
        more = dict.fromkeys(self.scaler.rules.tiers, 0)
        for (tier, _), count in growth(asks, self.supply).items():
            more[tier] += count
        twice: dict[str, Commitment] = {}
        for job_id in self.in_transit:
            hints, placement = self.tenants[job_id].hints, self.placements[job_id]
            planned = planned_commitments(hints, self.catalog, placement)
            for name, kept in self.placements.kept(job_id).items():
                surplus = kept - planned.get(name, NOTHING)
                twice[name] = twice.get(name, NOTHING) + surplus
        return {tier: self._servers_for(tier, count, twice) for tier, count in more.items()}

    def _servers_for(self, tier: str, more: int, twice: Mapping[str, Commitment]) -> int:
        """Return how many servers of a tier hold what jobs have there, `more` are asked for.

        What is on its way is kept at both ends, and `twice` by those that it goes away from.
        """
        servers = [m.server for m in self.fleet.members.values() if m.server.tier == tier]
        count = len(servers)
        if count == 0:
            return more
        kept = [
            self.placements.committed.get(s.id, NOTHING) - twice.get(s.id, NOTHING) for s in servers
        ]
        holding = servers_asked(
            [
                (
                    sum(k.capacity_bytes for k in kept),
                    sum(s.capacity_bytes for s in servers) / count,
                ),
                (
                    sum(k.throughput_bytes_s for k in kept),
                    sum(s.bandwidth_bytes_s for s in servers) / count,
                ),
            ]
        )
        return max(holding, count + more if more else 0)

    def _refresh_rooms(self) -> None:
        super()._refresh_rooms()
        if len(self.fleet.members) != self._supplied:
            self._refresh_supply()

    def _refresh_supply(self) -> None:
        """See what could be started, for jobs to ask for."""
        self._supplied = len(self.fleet.members)
        if self.scaler is None:
            return
        rules = self.scaler.rules
        servers = self.fleet.servers()
        most = {tier: limits.most for tier, limits in rules.tiers.items()}
        if rules.servers_max is not None:
            left = max(0, rules.servers_max - len(servers))
            most = {
                tier: min(count, sum(s.tier == tier for s in servers) + left)
                for tier, count in most.items()
            }
        budget = rules.cost_per_hour_max_usd
        self.supply = supply_of(self.catalog, servers, most, math.inf if budget is None else budget)

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

    def _on_scaled(self, event: TierScaled, now_ms: int, changes: Changes) -> None:
        if self.has_backend:
            self.check_scale(event.tier, event.count)
        super()._on_scaled(event, now_ms, changes)
        if self.scaler is not None:
            self.scaler.note_change(event.tier, now_ms)

    # --- deciding ------------------------------------------------------------------------------

    def _scale(self, now_ms: int, changes: Changes) -> None:
        """Once a second, see whether tiers should grow or shrink."""
        if self.scaler is None or not self.is_started:
            return
        if now_ms - self._considered_ms < CONSIDER_INTERVAL_MS:
            return
        self._considered_ms = now_ms
        self._refresh_supply()
        for decision in self.scaler.consider(self.tier_views(), now_ms):
            self._follow(decision, now_ms, changes)
        self.relieving = {
            name: decision
            for name, decision in self.relieving.items()
            if self.scaler.is_hot(decision.tier, name)
        }
        self.hot = frozenset(self.relieving)

    def _follow(self, decision: Decision, now_ms: int, changes: Changes) -> None:
        tier, reason = decision.tier, decision.reason
        match decision:
            case Grow(servers=servers):
                # The scaler counts those that are leaving as well.
                wanted = servers - sum(m.drain is not None for m in self.fleet.managed(tier))
                self._set_wanted(tier, wanted, changes)
                changes.log(logging.INFO, "tier grows", tier=tier, wanted=wanted, reason=reason)
                self._call_back(tier, wanted, changes)
            case Shrink(server_id=server_id):
                changes.log(
                    logging.INFO, "tier shrinks", tier=tier, server=server_id, reason=reason
                )
                try:
                    self.begin_drain(server_id, reason, now_ms, changes)
                except RefusedError as error:
                    changes.log(logging.WARNING, "tier is not scaled", tier=tier, reason=str(error))
            case Relieve(server_id=server_id):
                if server_id not in self.relieving:
                    changes.log(
                        logging.INFO, "server is hot", tier=tier, server=server_id, reason=reason
                    )
                self.relieving[server_id] = decision
                self._relieve(decision, now_ms, changes)
            case Hold():
                changes.log(logging.WARNING, "tier is not scaled", tier=tier, reason=reason)

    def _relieve(self, decision: Relieve, now_ms: int, changes: Changes) -> None:
        """Have slots move away from a hot server."""
        assert self.scaler is not None  # It has decided it.
        self._refresh_rooms()
        # What is on its way already has not helped yet, and may be enough.
        residents = [
            self.resident(job_id)
            for job_id in self.placements.jobs_on(decision.server_id)
            if self.tenants[job_id].retention is None and job_id not in self.in_transit
        ]
        members = self.fleet.members.values()
        loads = {
            m.server.id: _policy_load(m)
            for m in members
            if m.server.tier == decision.tier and m.drain is None and m.rates.since is not None
        }
        relief = relieve(residents, loads, self.rooms, mark=self.scaler.rules.grow_above)
        for job_id, slots in sorted(relief.slots.items()):
            self.want(job_id, self._decision_of(job_id, slots), now_ms, changes, decision.reason)

    def _decision_of(self, job_id: str, slots: Mapping[str, int]) -> placing.Decision:
        """Return the decision that a job is to have these slots, with nothing else changed."""
        tenant, own = self.tenants[job_id], self.own(job_id)
        capacity_bytes = tenant.hints.capacity_bytes
        quotas: dict[str, int | None] = dict.fromkeys(slots)
        if capacity_bytes:
            for name, n in slots.items():
                free_bytes = self.rooms[name].free_bytes + own.get(name, NOTHING).capacity_bytes
                quotas[name] = min(share_of(capacity_bytes, n), free_bytes)
        return placing.Decision(slots, quotas, tenant.shortages, tenant.asks)


def _policy_load(member: Member) -> PolicyLoad:
    """Return a server's load with what each job has of it, by its last two reports."""
    report = member.report
    used = {job_id: usage.used_bytes for job_id, usage in report.jobs.items()}
    cpu = report.cpu / max(_CPU_MIN, 1.0 - report.steal)
    return PolicyLoad.shared(
        cpu, member.rates.network_bytes_s, report.used_bytes, member.job_commands, used
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
