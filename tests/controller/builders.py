"""What the controller's tests are built of: servers, members, a catalog of small figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from pocketkv.catalog import Catalog, MachineType, ObjectStore, Tier
from pocketkv.controller.members import Joining
from pocketkv.jobs import Hints, Job
from pocketkv.placement import Server, ServerState

MIB = 1024 * 1024
# Tests of what happens to jobs that are on several servers need no hints for it.
UNHINTED_SERVERS = 16
GIB = 1024 * MIB


def tier(name: str, capacity_bytes: int, bandwidth_bytes_s: int, price: float) -> Tier:
    machine = MachineType(
        tier=name,
        name=f"{name}-machine",
        capacity_bytes=capacity_bytes,
        bandwidth_bytes_s=bandwidth_bytes_s,
        iops=1000,
        read_latency_us=1,
        price_per_hour=price,
        price_per_gb_month=0.0,
        source="a test",
        dated="2026-01-01",
    )
    return Tier(name, (machine,))


CATALOG = Catalog(
    (
        tier("dram", 4 * GIB, 400 * MIB, 0.4),
        tier("nvme", 100 * GIB, 600 * MIB, 0.6),
        tier("ssd", 200 * GIB, 100 * MIB, 0.2),
        tier("hdd", 400 * GIB, 100 * MIB, 0.1),
    ),
    ObjectStore(0.02, "a test", "2026-01-01"),
)


def server(
    name: str,
    tier_name: str = "dram",
    *,
    capacity_bytes: int = GIB,
    bandwidth_bytes_s: int = 100 * MIB,
    state: ServerState = ServerState.UP,
    machine_type: str = "",
) -> Server:
    return Server(
        id=name,
        tier=tier_name,
        host="127.0.0.1",
        port=7000,
        machine="here",
        capacity_bytes=capacity_bytes,
        bandwidth_bytes_s=bandwidth_bytes_s,
        state=state,
        machine_type=machine_type,
    )


def joining(name: str, tier_name: str = "dram", **fields: Any) -> Joining:
    """What a storage server joins with; `fields` as in MEMBER.JOIN."""
    document = {
        "id": name,
        "role": "storage",
        "tier": tier_name,
        "host": "127.0.0.1",
        "port": 7000,
        "pid": 4711,
        "machine": "here",
        "capacity_bytes": GIB,
        "epoch": 0,
        "generation": "1",
        **fields,
    }
    return Joining.from_json(json.dumps(document))


def router(name: str = "router", **fields: Any) -> Joining:
    return joining(name, role="router", **fields)


def job(name: str = "sort", *, now_ms: int = 0, number: int = 0, **hints: Any) -> Job:
    return Job.registered(name, Hints(**hints), now_ms, number.to_bytes(8, "big"))


def counted_ids() -> Callable[[str], str]:
    """Ids of new servers: the tier and a number."""
    numbers = count(1)
    return lambda tier_name: f"{tier_name}-{next(numbers)}"
