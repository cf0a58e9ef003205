"""MEMORY: what keys cost, as it is accounted to their job (see `engine.sizes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.client_list import visible_sessions
from pocketkv.engine.commands import KeySpec, command, not_callable
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.info import human_bytes
from pocketkv.engine.sizes import EXPIRY_BYTES, key_cost
from pocketkv.engine.values import value_cost
from pocketkv.resp.replies import OK, Reply, Verbatim

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_ALLOCATOR_STATS: Final = b"Stats not supported for the current allocator"
# Share of its limit from which on a job is told that little is left.
_NEARLY_FULL: Final = 0.9

command(
    "MEMORY",
    arity=-2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about memory.",
)(not_callable)


@command(
    "MEMORY|USAGE",
    arity=-3,
    flags="readonly",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="What a key costs, with its value and expiry, in bytes.",
    usage="key [SAMPLES count]",
    keys=KeySpec(2, 2, 1),
    key_flags="RO",
)
def memory_usage(session: Session, request: list[bytes]) -> Reply:
    """Exact, so there is nothing to sample; null for a key that does not exist."""
    for i in range(3, len(request), 2):
        if request[i].upper() != b"SAMPLES" or i + 1 == len(request):
            raise CommandError(SYNTAX)
        if parse_int(request[i + 1]) < 0:
            raise CommandError(SYNTAX)
    key = request[2]
    value = session.db.glimpse(key)
    if value is None:
        return None
    expiry_bytes = 0 if session.db.expiry_ms(key) is None else EXPIRY_BYTES
    return key_cost(key) + value_cost(value) + expiry_bytes


@command(
    "MEMORY|STATS",
    arity=2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="O(N) where N is the number of clients of the job",
    summary="What the job's keys and clients use on this node.",
    tips="nondeterministic_output request_policy:all_shards response_policy:special",
)
def memory_stats(session: Session, request: list[bytes]) -> Reply:
    """A map with Redis's names; what has no counterpart is 0."""
    space = session.space
    keys = sum(db.visible for db in space.databases.values())
    clients_bytes = sum(
        s.transport.input_bytes + s.transport.outbox.pending_bytes
        for s in visible_sessions(session)
    )
    stats: dict[bytes, Reply] = {
        b"peak.allocated": session.node.process.rss_peak_bytes,
        b"total.allocated": space.used_bytes + clients_bytes,
        b"startup.allocated": 0,
        b"replication.backlog": 0,
        b"clients.slaves": 0,
        b"clients.normal": clients_bytes,
        b"cluster.links": 0,
        b"aof.buffer": 0,
        b"lua.caches": 0,
        b"functions.caches": 0,
    }
    for index, db in sorted(space.databases.items()):
        if db.size:
            tables: dict[bytes, Reply] = {
                b"overhead.hashtable.main": 0,
                b"overhead.hashtable.expires": db.expires_count * EXPIRY_BYTES,
            }
            stats[b"db.%d" % index] = tables
    used_bytes = space.used_bytes
    stats |= {
        b"overhead.total": clients_bytes,
        b"keys.count": keys,
        b"keys.bytes-per-key": used_bytes // keys if keys else 0,
        b"dataset.bytes": used_bytes,
        b"dataset.percentage": 100.0 * used_bytes / max(used_bytes + clients_bytes, 1),
    }
    return stats


@command(
    "MEMORY|DOCTOR",
    arity=2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Whether the job's memory gives cause for concern.",
    tips="nondeterministic_output request_policy:all_shards response_policy:special",
)
def memory_doctor(session: Session, request: list[bytes]) -> Reply:
    """A sentence or two."""
    used_bytes = session.space.used_bytes
    limit_bytes = session.node.memory_limit_bytes(session.job_id)
    text = f"The job uses {human_bytes(used_bytes)} of {human_bytes(limit_bytes)} on this node."
    if session.space.stats.refused_oom:
        text += f" Writes that were refused so far: {session.space.stats.refused_oom}."
    elif used_bytes > _NEARLY_FULL * limit_bytes:
        text += " Writes will soon be refused: delete keys, or raise its CAPACITY by JOB.UPDATE."
    else:
        text += " There is nothing to be concerned about."
    return Verbatim(text.encode() + b"\n")


@command(
    "MEMORY|MALLOC-STATS",
    arity=2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="What the allocator tells; the C library's tells nothing.",
    tips="nondeterministic_output request_policy:all_shards response_policy:special",
)
def memory_malloc_stats(session: Session, request: list[bytes]) -> Reply:
    """Redis's words for an allocator without statistics."""
    return _NO_ALLOCATOR_STATS


@command(
    "MEMORY|PURGE",
    arity=2,
    flags="",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="Gives free memory back to the system, which the server does by itself.",
    tips="request_policy:all_shards response_policy:all_succeeded",
)
def memory_purge(session: Session, request: list[bytes]) -> Reply:
    """Memory is given back as soon as much of it was freed."""
    return OK


@command(
    "MEMORY|HELP",
    arity=2,
    flags="loading stale",
    group="server",
    since="4.0.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def memory_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"memory")
