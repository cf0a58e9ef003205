"""What JOB, TIER, SERVER, MOVE and EVENTS commands show of the state, as replies. Pure.

Tokens are shown by ``JOB.REGISTER`` alone, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pocketkv.catalog import S3_NAME, MachineType
from pocketkv.controller.accounts import rates_per_hour
from pocketkv.controller.events import ClusterEvent
from pocketkv.controller.fleet import Member
from pocketkv.controller.loads import TierView
from pocketkv.controller.members import JobUsage
from pocketkv.controller.placements import held_slots
from pocketkv.controller.policy import NOTHING, machine_of
from pocketkv.controller.state import ClusterState
from pocketkv.controller.tenants import Tenant
from pocketkv.jobs import infer
from pocketkv.placement import PlacementMap, is_store
from pocketkv.resp.replies import Reply


def url(state: ClusterState, router_id: str | None, job_id: str, token: str) -> bytes | None:
    """Return a job's URL, at this router or else at any; None if no router has joined."""
    router = state.routers.get(router_id or "") or next(
        (router for _, router in sorted(state.routers.items())), None
    )
    if router is None:
        return None
    host = f"[{router.host}]" if ":" in router.host else router.host
    return f"redis://{job_id}:{token}@{host}:{router.port}".encode()


def placed(state: ClusterState, job_id: str) -> dict[bytes, Reply]:
    """Return where a job is, and what it has there.

    Raises:
        UnknownJobError: It has ended.
    """
    tenant = state.tenant(job_id)
    placement = state.placements[job_id]
    members = state.fleet.members
    ranges: list[Reply] = []
    for r in placement.ranges:
        host, port = members[r.server_id].server.public_address
        ranges.append([r.start, r.end, host.encode(), port, r.server_id.encode()])
    lease_s = None if tenant.job is None else tenant.job.hints.lease_s or None
    return {
        b"placement": ranges,
        b"epoch": placement.epoch,
        b"tiers": _tiers_of(state, placement),
        b"quota_bytes": _quota(placement),
        b"lease_s": lease_s,
        b"short": _short(state, tenant),
    }


def _short(state: ClusterState, tenant: Tenant) -> list[Reply]:
    """Return what a job lacks, and what the servers that would help wait for."""
    tiers = {tier for shortage in tenant.shortages for tier in shortage.tiers}
    waits = (waiting for tier in sorted(tiers) for waiting in _waiting(state, tier))
    return [*(str(shortage).encode() for shortage in tenant.shortages), *waits]


def _waiting(state: ClusterState, tier: str) -> list[bytes]:
    """Return what the servers of a tier that cannot start yet wait for, a line each."""
    waits = state.fleet.waits
    names = [name for name in state.fleet.requested(tier) if name in waits]
    return [f"{name} waits: {waits[name]}".encode("utf-8", "replace") for name in names]


def _tiers_of(state: ClusterState, placement: PlacementMap) -> list[Reply]:
    """Return the tiers that a job is on."""
    members = state.fleet.members
    return [t.encode() for t in dict.fromkeys(members[n].server.tier for n in placement.owners())]


def _quota(placement: PlacementMap) -> int | None:
    """Return what a job may use in all, None if that is not limited."""
    quotas = [quota for quota in placement.quotas.values() if quota is not None]
    return sum(quotas) if quotas else None


def job(state: ClusterState, job_id: str, now_ms: int) -> dict[bytes, Reply]:
    """Return all that is known of a job.

    Raises:
        UnknownJobError: There is none.
    """
    demand = infer(state.tenant(job_id).hints, state.catalog)
    return {
        **_summary(state, job_id, now_ms),
        b"hints": _hints(state, job_id),
        b"demand": {
            b"capacity_bytes": demand.capacity_bytes,
            b"throughput_bytes_s": demand.throughput_bytes_s,
            b"latency": demand.latency.value.encode(),
            b"tiers": [tier.encode() for tier in demand.tiers],
        },
        **placed(state, job_id),
        b"retention": _retention(state, job_id),
        b"moves": _moves_of(state, job_id, now_ms),
        b"waiting_slots": sum(len(stretch) for stretch in state.waiting(job_id)),
        b"tier_costs": _tier_costs(state, job_id),
        b"servers": _job_servers(state, job_id),
    }


def jobs(state: ClusterState, now_ms: int) -> list[Reply]:
    """Return a summary of each job, the job `default` among them."""
    return [_summary(state, job_id, now_ms) for job_id in sorted(state.tenants)]


def _summary(state: ClusterState, job_id: str, now_ms: int) -> dict[bytes, Reply]:
    tenant = state.tenant(job_id)
    placement = state.placements[job_id]
    servers = placement.owners()
    usages = [
        usage
        for name in servers
        if (usage := state.fleet.members[name].report.jobs.get(job_id)) is not None
    ]
    one = tenant.job
    expires_ms = None if one is None else one.lease_expires_ms
    return {
        b"id": job_id.encode(),
        b"name": (job_id if one is None else one.name).encode(),
        b"phase": b"active" if one is None else one.phase.value.encode(),
        b"created_ms": None if one is None else one.created_ms,
        b"lease_left_s": None if expires_ms is None else max(0, expires_ms - now_ms) / 1000,
        b"used_bytes": sum(usage.used_bytes for usage in usages),
        b"s3_bytes": sum(usage.s3_bytes for usage in usages),
        b"quota_bytes": _quota(placement),
        b"keys": sum(usage.keys for usage in usages),
        b"commands": sum(usage.commands for usage in usages),
        b"retained_keys": _retained_keys(tenant, usages),
        b"lost_keys": tenant.lost_keys,
        b"server_count": len(servers),
        b"tiers": _tiers_of(state, placement),
        b"short": _short(state, tenant),
        b"cost_usd": tenant.account.total(now_ms),
        b"cost_usd_per_hour": tenant.account.rate_per_hour,
    }


def _retained_keys(tenant: Tenant, usages: list[JobUsage]) -> int:
    retention = tenant.retention
    if retention is not None and is_store(retention.target) and not retention.pending:
        # No server has them any more.
        return retention.keys
    return sum(usage.retained_keys for usage in usages)


def _hints(state: ClusterState, job_id: str) -> dict[bytes, Reply]:
    hints = state.tenant(job_id).hints
    return {
        b"lambdas": hints.lambdas,
        b"capacity_bytes": hints.capacity_bytes,
        b"throughput_bytes_s": hints.throughput_bytes_s,
        b"latency": None if hints.latency is None else hints.latency.value.encode(),
        b"tiers": None if hints.tiers is None else [tier.encode() for tier in hints.tiers],
        b"lease_s": hints.lease_s,
    }


def _retention(state: ClusterState, job_id: str) -> dict[bytes, Reply] | None:
    """Return what became of the keys that a job retained; None while it has not ended."""
    retention = state.tenant(job_id).retention
    if retention is None:
        return None
    owners = state.placements[job_id].owners()
    server, store = retention.target, None
    if is_store(server):
        # Who reads them there, once all of them are.
        server, store = owners[0] if owners and not retention.pending else None, server
    return {
        b"server": None if server is None else server.encode(),
        b"store": None if store is None else store.encode(),
        b"is_there": bool(owners),
        b"keys": retention.keys,
        b"moving_from": [name.encode() for name in retention.pending],
    }


def moves(state: ClusterState, now_ms: int) -> list[Reply]:
    """Return each move that is under way, with how far it is."""
    return [
        found for job_id in sorted(state.in_transit) for found in _moves_of(state, job_id, now_ms)
    ]


def _moves_of(state: ClusterState, job_id: str, now_ms: int) -> list[Reply]:
    found: list[Reply] = []
    for move in state.placements[job_id].moves:
        order = state.orders[job_id, move.id]
        source = state.fleet.members[move.source]
        done, whole = source.report.moves.get(job_id, {}).get(move.id, (0, order.moved_bytes))
        age_ms = max(0, now_ms - order.since_ms) if order.since_ms else None
        found.append(
            {
                b"id": move.id.encode(),
                b"job": job_id.encode(),
                b"slots": [move.start, move.end],
                b"source": move.source.encode(),
                b"target": move.target.encode(),
                b"done_bytes": done,
                b"bytes": whole,
                b"ordered_ms_ago": age_ms,
            }
        )
    return found


def _drain_of(state: ClusterState, member: Member, now_ms: int) -> dict[bytes, Reply] | None:
    """Return how far a server's drain is; None if it does not drain."""
    drain, server_id = member.drain, member.server.id
    if drain is None:
        return None
    jobs = state.placements.jobs_on(server_id)
    held = sum(held_slots(state.placements[job_id])[server_id] for job_id in jobs)
    return {
        b"reason": drain.reason.encode(),
        b"since_ms_ago": max(0, now_ms - drain.since_ms),
        b"jobs_left": len(jobs),
        b"slots_left": held,
        b"is_done": drain.is_done,
        b"obstacle": state.obstacle(server_id).encode("utf-8", "replace"),
    }


def _tier_costs(state: ClusterState, job_id: str) -> list[Reply]:
    """Return what the job's share of each tier, and S3, costs, by the newest reports."""
    placement = state.placements[job_id]
    servers = {name: state.fleet.members[name].server for name in placement.owners()}
    hints, used = state.tenant(job_id).hints, state.used_bytes(job_id)
    s3_bytes = state.s3_bytes(job_id)
    costs = rates_per_hour(hints, state.catalog, placement, servers, used, s3_bytes)
    return [
        {b"tier": name.encode(), b"cost_usd_per_hour": costs[name]}
        for name in (*(tier.name for tier in state.catalog.tiers), S3_NAME)
        if name in costs
    ]


def _job_servers(state: ClusterState, job_id: str) -> list[Reply]:
    placement = state.placements[job_id]
    found: list[Reply] = []
    for name, slots in held_slots(placement).items():
        member = state.fleet.members[name]
        usage = member.report.jobs.get(job_id)
        found.append(
            {
                b"id": name.encode(),
                b"tier": member.server.tier.encode(),
                b"slots": slots,
                b"quota_bytes": placement.quotas[name],
                b"used_bytes": 0 if usage is None else usage.used_bytes,
                b"keys": 0 if usage is None else usage.keys,
                b"commands": 0 if usage is None else usage.commands,
            }
        )
    return found


def tiers(state: ClusterState) -> list[Reply]:
    """Return each tier of the catalog."""
    return [_tier(state, view) for view in state.tier_views()]


def tier(state: ClusterState, name: str) -> dict[bytes, Reply]:
    """Return a tier of the catalog."""
    (view,) = (one for one in state.tier_views() if one.tier == name)
    return _tier(state, view)


def _tier(state: ClusterState, view: TierView) -> dict[bytes, Reply]:
    """Return a tier: what there is of it, what is wanted, and what the catalog says."""
    name = view.tier
    members = [m for m in state.fleet.members.values() if m.server.tier == name]
    offered = state.catalog.tier(name)
    committed = [state.placements.committed.get(m.server.id, NOTHING) for m in members]
    prices = [machine_of(state.catalog, m.server).server_price_per_hour for m in members]
    return {
        b"tier": name.encode(),
        b"servers": len(members),
        b"wanted": state.fleet.wanted.get(name, 0) if state.has_backend else None,
        b"requested": view.requested,
        b"waiting": list(_waiting(state, name)),
        **_scaling(state, view),
        b"capacity_bytes": sum(m.server.capacity_bytes for m in members),
        b"used_bytes": sum(m.report.used_bytes for m in members),
        b"committed_bytes": sum(c.capacity_bytes for c in committed),
        b"bandwidth_bytes_s": sum(m.server.bandwidth_bytes_s for m in members),
        b"committed_bytes_s": sum(c.throughput_bytes_s for c in committed),
        b"server_price_usd_per_hour": offered.server_price_per_hour,
        b"cost_usd_per_hour": sum(prices),
        b"machine_type": offered.reference.name.encode(),
        b"machine_types": [_machine_type(one) for one in offered.machines],
    }


def _scaling(state: ClusterState, view: TierView) -> dict[bytes, Reply]:
    """Return how a tier is scaled: between what, by which loads, and what was decided last."""
    scaler = state.scaler
    limits = None if scaler is None else scaler.rules.tiers.get(view.tier)
    last: dict[bytes, Reply] | None = None
    if scaler is not None and view.tier in scaler.last:
        time_ms, decision = scaler.last[view.tier]
        kind = type(decision).__name__.lower().encode()
        last = {b"time_ms": time_ms, b"decision": kind, b"reason": decision.reason.encode()}
    uses: dict[Reply, Reply] = {
        resource.encode(): round(use, 4) for resource, use in view.uses.items()
    }
    return {
        b"draining": view.leaving,
        b"needed_by_jobs": None if limits is None else view.asked,
        b"servers_min": None if limits is None else limits.least,
        b"servers_max": None if limits is None else limits.most,
        b"utilisation": uses,
        b"last_decision": last,
    }


def _machine_type(one: MachineType) -> dict[bytes, Reply]:
    """Return what the catalog says of one server on a type of machine."""
    return {
        b"machine_type": one.name.encode(),
        b"capacity_bytes": one.capacity_bytes,
        b"bandwidth_bytes_s": one.bandwidth_bytes_s,
        b"iops": one.iops,
        b"read_latency_us": one.read_latency_us,
        b"cost_usd_per_hour": one.server_price_per_hour,
        b"gb_cost_usd_per_hour": one.gb_price_per_hour,
        b"dated": one.dated.encode(),
    }


def servers(state: ClusterState, now_ms: int) -> list[Reply]:
    """Return each storage server, by tier and id."""
    members = sorted(state.fleet.members.values(), key=lambda m: (m.server.tier, m.server.id))
    found: list[Reply] = []
    ways = [move for _, move in state.moves()]
    moving_in, moving_out = Counter(m.target for m in ways), Counter(m.source for m in ways)
    for member in members:
        server, report = member.server, member.report
        host, port = server.public_address
        kept = state.placements.committed.get(server.id, NOTHING)
        machine = machine_of(state.catalog, server)
        found.append(
            {
                b"id": server.id.encode(),
                b"tier": server.tier.encode(),
                b"state": server.state.value.encode(),
                b"host": host.encode(),
                b"port": port,
                b"metrics_port": member.metrics_port,
                b"pid": member.pid,
                b"machine": server.machine.encode(),
                b"machine_type": machine.name.encode(),
                b"managed": member.managed,
                b"drain": _drain_of(state, member, now_ms),
                b"moves_in": moving_in[server.id],
                b"moves_out": moving_out[server.id],
                b"heard_ms_ago": max(0, now_ms - member.heard_ms),
                b"jobs": len(state.placements.jobs_on(server.id)),
                b"keys": report.keys,
                b"used_bytes": report.used_bytes,
                b"capacity_bytes": server.capacity_bytes,
                b"committed_bytes": kept.capacity_bytes,
                b"rss_bytes": report.rss_bytes,
                b"cpu": report.cpu,
                b"bandwidth_bytes_s": server.bandwidth_bytes_s,
                b"received_bytes": report.received_bytes,
                b"sent_bytes": report.sent_bytes,
                b"received_bytes_s": round(member.rates.received_bytes_s),
                b"sent_bytes_s": round(member.rates.sent_bytes_s),
                b"disk_read_bytes_s": round(member.rates.disk_read_bytes_s),
                b"disk_written_bytes_s": round(member.rates.disk_written_bytes_s),
                b"connections": report.connections,
                b"retain": member.retain.encode(),
                b"medium_error": report.medium_error.encode("utf-8", "replace"),
                b"cost_usd_per_hour": machine.server_price_per_hour,
            }
        )
    return found


def events(found: Iterable[ClusterEvent]) -> list[Reply]:
    """Return events, the oldest first."""
    return [
        {
            b"id": event.id,
            b"time_ms": event.time_ms,
            b"level": event.level.encode(),
            b"kind": event.kind.encode(),
            b"fields": {key.encode(): _value(value) for key, value in event.fields.items()},
        }
        for event in found
    ]


def _value(value: object) -> Reply:
    """Return a field of an event; what is no number is shown as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return str(value).encode("utf-8", "replace")
