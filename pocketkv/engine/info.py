"""The text of INFO: Redis's sections and field names, and a section of our own.

What is about keys, their memory and clients is about the connection's own job on this node; a
router adds up what its storage servers say (`pocketkv.router.info`). What a node counts only as a
whole (processor time, resident memory, calls by command, errors by code) is told as a whole; no
other job is named. What has no counterpart here (saving, replication) shows the values of a Redis
that does not do it, since clients read them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv import __version__, limits
from pocketkv.engine.client_list import visible_sessions
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.medium import MediumFigures
from pocketkv.engine.node import REDIS_VERSION, Node
from pocketkv.engine.stats import CommandStats
from pocketkv.engine.topology import Topology
from pocketkv.resp import parser

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

Fields: TypeAlias = "dict[str, object]"

_DAY_S: Final = 24 * 3600
_LRU_CLOCK_MASK: Final = 2**24 - 1
_NO_REPLICATION_ID: Final = "0" * 40
_PERCENTILES: Final = b"50 99 99.9"


def human_bytes(amount: int) -> str:
    """An amount of memory as the ``_human`` fields show it."""
    if amount < 1024:
        return f"{amount}B"
    units = "KMGTP"
    power = min((amount.bit_length() - 1) // 10, len(units))
    return f"{amount / 1024**power:.2f}{units[power - 1]}"


def run_id(session: Session) -> str:
    """40 hexadecimal digits that no other run of a server has."""
    node = session.node
    text = f"{node.id} {node.started_ms} {node.process.pid}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _server(session: Session) -> Fields:
    node = session.node
    uptime_s = max(0, node.clock.now_ms - node.started_ms) // 1000
    return {
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": "0" * 16,
        "redis_mode": "cluster" if node.clustered else "standalone",
        "os": node.process.operating_system,
        "arch_bits": 64,
        "multiplexing_api": "epoll",
        "process_id": node.process.pid,
        "process_supervised": "no",
        "run_id": run_id(session),
        "tcp_port": node.port,
        "server_time_usec": node.clock.now_ms * 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // _DAY_S,
        "hz": 10,
        "configured_hz": 10,
        "lru_clock": node.clock.now_s & _LRU_CLOCK_MASK,
        "executable": "",
        "config_file": "",
        "io_threads_active": 0,
    }


def _clients(session: Session) -> Fields:
    visible = visible_sessions(session)
    tracking = session.space.tracking
    inputs = [s.transport.input_bytes for s in visible]
    outputs = [s.transport.outbox.pending_bytes for s in visible]
    return {
        "connected_clients": len(visible),
        "cluster_connections": 0,
        "maxclients": limits.CONNECTIONS_MAX,
        "client_recent_max_input_buffer": max(inputs, default=0),
        "client_recent_max_output_buffer": max(outputs, default=0),
        "blocked_clients": sum(1 for s in visible if s.blocked is not None) + _held(session),
        "tracking_clients": 0 if tracking is None else len(tracking.clients),
        "clients_in_timeout_table": 0,
    }


def _memory(session: Session) -> Fields:
    space = session.space
    process = session.node.process
    amounts = {
        "used_memory": space.used_bytes,
        "used_memory_rss": process.rss_bytes,
        "used_memory_peak": process.rss_peak_bytes,
        "total_system_memory": process.machine_memory_bytes,
        "maxmemory": session.node.memory_limit_bytes(session.job_id),
    }
    fields: Fields = {}
    for name, amount in amounts.items():
        fields[name] = amount
        fields[f"{name}_human"] = human_bytes(amount)
    keys = sum(db.visible for db in space.databases.values())
    return {
        **fields,
        "used_memory_overhead": 0,
        "used_memory_startup": 0,
        "used_memory_dataset": space.used_bytes,
        "used_memory_dataset_perc": "100.00%" if keys else "0.00%",
        "used_memory_lua": 0,
        "used_memory_scripts": 0,
        "number_of_cached_scripts": 0 if space.scripts is None else len(space.scripts.known),
        "maxmemory_policy": session.node.settings.maxmemory_policy,
        "mem_not_counted_for_evict": 0,
        "mem_clients_normal": sum(
            s.transport.input_bytes + s.transport.outbox.pending_bytes
            for s in visible_sessions(session)
        ),
        "mem_allocator": "libc",
        **_fragmentation(session.node),
        "lazyfree_pending_objects": 0,
        **_spilling(session),
    }


def _spilling(session: Session) -> Fields:
    """What of the job was moved out of memory, where there is somewhere to move it."""
    spilling = session.node.keyspace.spilling
    if spilling is None:
        return {}
    space = session.space
    return {
        "spilled_keys": space.spilled_keys,
        "spilled_bytes": space.spilled_bytes,
        "spilled_bytes_human": human_bytes(space.spilled_bytes),
        "spill_moved_out": space.stats.spilled_out,
        "spill_moved_back": space.stats.spilled_back,
        "spill_hits": space.stats.spill_hits,
        "spill_waiting_commands": spilling.waiting,
        "spill_problem": plain_text(spilling.reason.decode(errors="replace")),
    }


def _fragmentation(node: Node) -> Fields:
    """What is resident for each byte that is accounted to any job, extents included."""
    used_bytes = node.keyspace.used_bytes
    rss_bytes = node.process.rss_bytes
    is_running = node.defragmenter is not None and node.defragmenter.running
    return {
        "mem_fragmentation_ratio": f"{rss_bytes / used_bytes if used_bytes else 1:.2f}",
        "mem_fragmentation_bytes": rss_bytes - used_bytes if used_bytes else 0,
        "active_defrag_running": int(is_running),
    }


def _persistence(session: Session) -> Fields:
    return {
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": session.space.events,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": session.node.saved_ms // 1000,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "rdb_saves": 0,
        "aof_enabled": 0,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok" if session.node.write_error is None else "err",
        "module_fork_in_progress": 0,
    }


def _stats(session: Session) -> Fields:
    node = session.node
    stats = session.space.stats
    defragmenter = node.defragmenter
    # Of connections that are closed, and of those that are open.
    visible = visible_sessions(session)
    received = sum(s.transport.received_bytes for s in visible)
    sent = sum(s.transport.sent_bytes for s in visible)
    return {
        "total_connections_received": node.connections_received,
        "total_commands_processed": stats.commands,
        "total_net_input_bytes": stats.received_bytes + received,
        "total_net_output_bytes": stats.sent_bytes + sent,
        "rejected_connections": node.connections_rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": stats.expired,
        "evicted_keys": stats.evicted,
        "evicted_clients": 0,
        "keyspace_hits": stats.hits,
        "keyspace_misses": stats.misses,
        **_channels(session),
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        **_tracked(session),
        "total_active_defrag_time": 0 if defragmenter is None else defragmenter.spent_ns // 10**6,
        "active_defrag_hits": 0 if defragmenter is None else defragmenter.moved_objects,
        "total_error_replies": sum(node.error_stats.values()),
    }


def _held(session: Session) -> int:
    """How many clients of the job are held by CLIENT PAUSE."""
    pause = session.node.pauses.get(session.job_id)
    return 0 if pause is None else len({id(held[0]) for held in pause.held.values()})


def _channels(session: Session) -> Fields:
    names = ("pubsub_channels", "pubsub_patterns", "pubsubshard_channels")
    pubsub = session.space.pubsub
    kinds = ({}, {}, {}) if pubsub is None else pubsub.subscribers
    return {name: len(of_kind) for name, of_kind in zip(names, kinds, strict=True)}


def _tracked(session: Session) -> Fields:
    tracking = session.space.tracking
    return {
        "tracking_total_keys": 0 if tracking is None else len(tracking.table),
        "tracking_total_items": 0 if tracking is None else tracking.items,
        "tracking_total_prefixes": 0 if tracking is None else len(tracking.prefixes),
    }


def _replication(session: Session) -> Fields:
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": run_id(session),
        "master_replid2": _NO_REPLICATION_ID,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _cpu(session: Session) -> Fields:
    process = session.node.process
    return {
        "used_cpu_sys": f"{process.cpu_system_s:.6f}",
        "used_cpu_user": f"{process.cpu_user_s:.6f}",
        "used_cpu_sys_children": "0.000000",
        "used_cpu_user_children": "0.000000",
    }


def _modules(_session: Session) -> Fields:
    return {}


def _command_stats(session: Session) -> Fields:
    return {
        f"cmdstat_{name}": _call_counts(stats)
        for name, stats in sorted(session.node.command_stats.items())
    }


def _call_counts(stats: CommandStats) -> str:
    usec = stats.total_ns // 1000
    per_call = stats.total_ns / 1000 / stats.calls if stats.calls else 0.0
    return (
        f"calls={stats.calls},usec={usec},usec_per_call={per_call:.2f},"
        f"rejected_calls={stats.rejected},failed_calls={stats.failed}"
    )


def _error_stats(session: Session) -> Fields:
    counts = sorted(session.node.error_stats.items())
    return {f"errorstat_{code}": f"count={count}" for code, count in counts}


def _latency_stats(session: Session) -> Fields:
    fields: Fields = {}
    chosen = session.node.settings.unused
    if chosen.get("latency-tracking", b"yes") == b"no":
        return fields
    shown = chosen.get("latency-tracking-info-percentiles", _PERCENTILES)
    shares = [float(share) for share in shown.split()]
    for name, stats in sorted(session.node.command_stats.items()):
        if stats.calls and shares:
            percentiles = [f"p{share:g}={percentile_us(stats, share):.3f}" for share in shares]
            fields[f"latency_percentiles_usec_{name}"] = ",".join(percentiles)
    return fields


def percentile_us(stats: CommandStats, share: float) -> float:
    """The latency that `share` per cent of a command's calls do not exceed, in microseconds."""
    wanted = stats.calls * share / 100
    seen = 0
    for exponent, count in enumerate(stats.buckets):
        seen += count
        if count and seen >= wanted:
            return (1 << exponent) / 1000
    return 0.0


def _cluster(session: Session) -> Fields:
    return {"cluster_enabled": 1 if session.node.clustered else 0}


def _visible_expires(db: Database) -> int:
    """How many keys expire of those in slots that are this server's."""
    if not db.foreign:
        return db.expires_count
    given = db.space.given
    return sum(len(expires) for slot, expires in db.expires.items() if given[slot])


def _keyspace(session: Session) -> Fields:
    return {
        f"db{index}": f"keys={db.visible},expires={_visible_expires(db)},avg_ttl=0"
        for index, db in sorted(session.space.databases.items())
        if db.visible
    }


def _pocketkv(session: Session) -> Fields:
    node = session.node
    topology: Topology = node.topology
    placement = topology.placements.get(session.job_id)
    space = session.space
    return {
        "pocketkv_version": __version__,
        "pocketkv_role": node.role,
        "pocketkv_tier": node.tier,
        "pocketkv_medium": node.medium,
        "pocketkv_core": running_core(),
        "pocketkv_job": session.job_id,
        "pocketkv_job_epoch": 0 if placement is None else placement.epoch,
        "pocketkv_job_used_bytes": space.used_bytes,
        "pocketkv_job_incoming_bytes": space.incoming_bytes,
        "pocketkv_job_quota_bytes": "none" if space.quota_bytes is None else space.quota_bytes,
        "pocketkv_job_refused_writes": space.stats.refused_oom,
        "pocketkv_job_slots": sum(space.owned),
        "pocketkv_map_epoch": topology.epoch,
        **_extents(node.keyspace),
        **_moves(node),
    }


def _moves(node: Node) -> Fields:
    """What slots came and went, on a server of a cluster. A job sees figures of all jobs."""
    if node.moves is None:
        return {}
    figures = node.moves.figures()
    return {
        f"pocketkv_moves_{name}": f"{value:.6f}" if isinstance(value, float) else value
        for name, value in dataclasses.asdict(figures).items()
    }


def _extents(keyspace: Keyspace) -> Fields:
    """How the medium of large strings is used, where there is one."""
    if keyspace.extents is None:
        return {}
    figures = keyspace.extents.figures()
    return {
        "pocketkv_extents_used_bytes": figures.used_bytes,
        "pocketkv_extents_reserved_bytes": figures.reserved_bytes,
        "pocketkv_extents_warm_bytes": figures.warm_bytes,
        "pocketkv_extents_spent_bytes": figures.spent_bytes,
    }


def _tiers(session: Session) -> Fields:
    """What holds the values, and what is known of it. A job sees figures of the whole server."""
    node = session.node
    if node.role != "storage":
        return {}
    fields: Fields = {"tier_medium": node.medium or "memory"}
    if node.medium_figures is None:
        return fields
    figures = node.medium_figures()
    capacity_bytes = figures.capacity_bytes
    return {
        **fields,
        "tier_directory": plain_text(figures.directory),
        "tier_capacity_bytes": "none" if capacity_bytes is None else capacity_bytes,
        **{f"tier_{name}": getattr(figures, name) for name in _TIER_AMOUNTS},
        "tier_resident_collections": len(node.keyspace.residents),
        "tier_evictions": node.keyspace.evictions,
        "tier_failing": int(bool(figures.error)),
        "tier_error": plain_text(figures.error),
        "tier_write_errors": node.write_errors,
        "tier_last_write_error": plain_text(node.last_write_error),
        "tier_last_write_error_time": node.last_write_error_ms // 1000,
    }


_TIER_AMOUNTS: Final = tuple(
    one.name
    for one in dataclasses.fields(MediumFigures)
    if one.name not in {"directory", "capacity_bytes", "error"}
)


def plain_text(text: str) -> str:
    """A text of the system as a field may have it.

    Clients take a field with a comma or an equals sign for a list, and a line break ends it; such
    characters become ``%2C`` and the like.
    """
    return "".join(map(_plain_letter, text))


def _plain_letter(letter: str) -> str:
    if letter.isprintable() and letter not in ",=%":
        return letter
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))


def running_core() -> str:
    """Whether the request parser, the hottest of the hot path, is ``compiled`` or ``python``."""
    return "python" if str(parser.__file__).endswith(".py") else "compiled"


_SECTIONS: Final[dict[str, tuple[str, Callable[[Session], Fields]]]] = {
    "server": ("Server", _server),
    "clients": ("Clients", _clients),
    "memory": ("Memory", _memory),
    "persistence": ("Persistence", _persistence),
    "stats": ("Stats", _stats),
    "replication": ("Replication", _replication),
    "cpu": ("CPU", _cpu),
    "modules": ("Modules", _modules),
    "commandstats": ("Commandstats", _command_stats),
    "errorstats": ("Errorstats", _error_stats),
    "latencystats": ("Latencystats", _latency_stats),
    "cluster": ("Cluster", _cluster),
    "keyspace": ("Keyspace", _keyspace),
    "pocketkv": ("Pocketkv", _pocketkv),
    "tiers": ("Tiers", _tiers),
}
_DEFAULT: Final = frozenset(_SECTIONS) - {"commandstats", "latencystats"}
_ALL: Final = frozenset(_SECTIONS)
_GROUPS: Final = {"default": _DEFAULT, "all": _ALL, "everything": _ALL}


def info_text(session: Session, sections: list[bytes]) -> bytes:
    """The text of the sections that are asked for, in Redis's order; no names mean the default.

    Names are compared without case; one that there is not adds nothing.
    """
    wanted: set[str] = set()
    for name in sections or [b"default"]:
        text = name.decode("latin-1").lower()
        wanted |= _GROUPS.get(text, {text})
    blocks: list[str] = []
    for section, (title, gather) in _SECTIONS.items():
        if section in wanted:
            lines = [f"{field}:{value}\r\n" for field, value in gather(session).items()]
            blocks.append(f"# {title}\r\n" + "".join(lines))
    return "\r\n".join(blocks).encode("utf-8", "replace")
