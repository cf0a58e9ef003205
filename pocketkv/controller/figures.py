"""What metrics tell of the cluster, beside what every process tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketkv.controller.core import Core
from pocketkv.observability.metrics import Figures, Name

EPOCH: Final = Name("cluster_epoch", "gauge", "Newest epoch of anything that members were told.")
LEADING: Final = Name(
    "controller_leading", "gauge", "Whether this controller leads; of all controllers, one should."
)
JOBS: Final = Name("cluster_jobs", "gauge", "Registered jobs, the job default among them.")
MEMBERS: Final = Name("cluster_members", "gauge", "Members that are connected.", ("role",))
TIER_SERVERS: Final = Name("tier_servers", "gauge", "Storage servers that are in.", ("tier",))
TIER_WANTED: Final = Name("tier_servers_wanted", "gauge", "Servers of the plan.", ("tier",))
TIER_CAPACITY: Final = Name(
    "tier_capacity_bytes", "gauge", "What a tier's servers hold at most.", ("tier",)
)
TIER_USED: Final = Name("tier_used_bytes", "gauge", "What a tier's servers hold.", ("tier",))
TIER_COMMITTED: Final = Name(
    "tier_committed_bytes", "gauge", "What jobs were promised of a tier.", ("tier",)
)
TIER_UTILISATION: Final = Name(
    "tier_utilisation",
    "gauge",
    "The part of what a tier's servers can do that they do; scaling goes by the highest.",
    ("tier", "resource"),
)
JOB_COST: Final = Name("job_cost_usd", "gauge", "What a job has cost, by the catalog.", ("job",))
JOB_LOST: Final = Name(
    "job_lost_keys", "gauge", "Keys of a job that were on servers that died.", ("job",)
)


def figures(core: Core) -> Iterator[Figures]:
    """The controller's own metrics, as a source of `NodeMetrics`."""
    state, now_ms = core.state, core.now_ms()
    yield Figures(LEADING).add(1)
    yield Figures(EPOCH).add(state.epoch)
    yield Figures(JOBS).add(len(state.tenants))
    members = Figures(MEMBERS).add(len(state.routers), "router")
    yield members.add(sum(m.connected for m in state.fleet.members.values()), "storage")
    servers, wanted = Figures(TIER_SERVERS), Figures(TIER_WANTED)
    capacity, used, committed = Figures(TIER_CAPACITY), Figures(TIER_USED), Figures(TIER_COMMITTED)
    for tier in state.catalog.tiers:
        found = [m for m in state.fleet.members.values() if m.server.tier == tier.name]
        kept = [state.placements.committed.get(m.server.id) for m in found]
        servers.add(len(found), tier.name)
        wanted.add(state.fleet.wanted.get(tier.name, 0), tier.name)
        capacity.add(sum(m.server.capacity_bytes for m in found), tier.name)
        used.add(sum(m.report.used_bytes for m in found), tier.name)
        committed.add(sum(k.capacity_bytes for k in kept if k is not None), tier.name)
    yield from (servers, wanted, capacity, used, committed)
    utilisation = Figures(TIER_UTILISATION)
    for view in state.tier_views():
        for resource, use in view.uses.items():
            utilisation.add(use, view.tier, resource)
    yield utilisation
    cost, lost = Figures(JOB_COST), Figures(JOB_LOST)
    for job_id, tenant in state.tenants.items():
        cost.add(tenant.account.total(now_ms), job_id)
        lost.add(tenant.lost_keys, job_id)
    yield from (cost, lost)
