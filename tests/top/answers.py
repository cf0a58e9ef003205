"""What a small cluster answers."""

from __future__ import annotations

from typing import Any

from pocketkv.top.figures import Answers

MIB = 1024 * 1024


def server(**fields: Any) -> dict[str, Any]:
    return {
        "id": "5d8fbeb68cabe088",
        "tier": "dram",
        "state": "up",
        "host": "127.0.0.1",
        "port": 7001,
        "cpu": 0.25,
        "received_bytes": 0,
        "sent_bytes": 0,
        "bandwidth_bytes_s": 100 * MIB,
        "used_bytes": 64 * MIB,
        "capacity_bytes": 256 * MIB,
        "keys": 12_345,
        "jobs": 2,
        "connections": 3,
        "heard_ms_ago": 400,
        "medium_error": "",
        **fields,
    }


def job(**fields: Any) -> dict[str, Any]:
    return {
        "id": "shuffle-1",
        "phase": "active",
        "tiers": ["dram"],
        "server_count": 2,
        "used_bytes": 10 * MIB,
        "quota_bytes": 100 * MIB,
        "keys": 7,
        "commands": 0,
        "lost_keys": 0,
        "lease_left_s": 59.6,
        "cost_usd": 0.25,
        "short": [],
        **fields,
    }


def tier(**fields: Any) -> dict[str, Any]:
    return {
        "tier": "dram",
        "servers": 2,
        "wanted": 3,
        "servers_min": 1,
        "servers_max": 8,
        "used_bytes": 64 * MIB,
        "capacity_bytes": 512 * MIB,
        "committed_bytes": 384 * MIB,
        "bandwidth_bytes_s": 200,
        "committed_bytes_s": 20,
        "cost_usd_per_hour": 1.008,
        **fields,
    }


MOVE = {
    "job": "shuffle-1",
    "start": 0,
    "end": 99,
    "source": "5d8fbeb68cabe088",
    "target": "d397b42456895d33",
    "done_bytes": MIB,
    "total_bytes": 4 * MIB,
}

EVENT = {"id": 7, "time_ms": 1_000, "kind": "tier grows", "fields": {"tier": "dram", "wanted": 3}}


def answers(taken_s: float = 10.0, **fields: Any) -> Answers:
    told = {
        "tiers": [tier()],
        "servers": [server()],
        "jobs": [job()],
        "moves": [MOVE],
        "events": [EVENT],
    }
    return Answers(taken_s, **{**told, **fields})
