"""CLUSTER: the map of the connection's own job, in the forms that Redis Cluster's clients read.

SLOTS, SHARDS and NODES tell the same ranges, since each client reads another one of them. A
router gives the same answers as a storage server; it adds itself to NODES, as a node without
slots, because some clients look for ``myself`` there. Slots are assigned by the controller alone,
so the subcommands that assign them do not exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from pocketkv.engine.arguments import c_string, parse_int
from pocketkv.engine.commands import command, not_callable
from pocketkv.engine.errors import CommandError
from pocketkv.engine.gate import check_slot
from pocketkv.engine.session import Session
from pocketkv.placement import Server, SlotRange
from pocketkv.resp.replies import OK, Reply, Simple, Verbatim
from pocketkv.slots import SLOT_COUNT, key_slot

_INVALID_SLOT: Final = b"ERR Invalid slot"
_INVALID_SLOT_OR_COUNT: Final = b"ERR Invalid slot or number of keys"
# What a node's port for the cluster bus would be; there is no bus, but clients parse the number.
_BUS_PORT_OFFSET: Final = 10_000
_NODE_ID_CHARACTERS: Final = 40

command(
    "CLUSTER",
    arity=-2,
    flags="",
    group="cluster",
    since="3.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands that tell how keys are spread over servers.",
)(not_callable)


def node_id(server_id: str) -> str:
    """A server's id as 40 hexadecimal digits, which some clients insist on."""
    if len(server_id) == _NODE_ID_CHARACTERS and all(c in "0123456789abcdef" for c in server_id):
        return server_id
    return hashlib.sha1(server_id.encode(), usedforsecurity=False).hexdigest()


def _owned_ranges(session: Session) -> list[tuple[SlotRange, Server]]:
    """The job's ranges whose servers are known, in order of slots."""
    topology = session.node.topology
    ranges = topology.ranges(session.job_id)
    return [(r, topology.servers[r.server_id]) for r in ranges if r.server_id in topology.servers]


def _by_server(session: Session) -> list[tuple[Server, list[SlotRange]]]:
    """The job's servers with their ranges, in the order of their first slot."""
    found: dict[str, tuple[Server, list[SlotRange]]] = {}
    for slots, server in _owned_ranges(session):
        found.setdefault(server.id, (server, []))[1].append(slots)
    return list(found.values())


@command(
    "CLUSTER|SLOTS",
    arity=2,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of slot ranges",
    summary="The slot ranges of the connection's job, each with its server.",
    tips="nondeterministic_output",
)
def cluster_slots(session: Session, request: list[bytes]) -> Reply:
    """Ranges as ``[first, last, [host, port, id, {}]]``."""
    reply: list[Reply] = []
    for slots, server in _owned_ranges(session):
        host, port = server.public_address
        owner: list[Reply] = [host.encode(), port, node_id(server.id).encode(), {}]
        reply.append([slots.start, slots.end, owner])
    return reply


@command(
    "CLUSTER|SHARDS",
    arity=2,
    flags="stale",
    group="cluster",
    since="7.0.0",
    complexity="O(N) where N is the number of servers",
    summary="The servers of the connection's job, each with its slot ranges.",
    tips="nondeterministic_output",
)
def cluster_shards(session: Session, request: list[bytes]) -> Reply:
    """A map per server: its slots, and its one node."""
    reply: list[Reply] = []
    for server, ranges in _by_server(session):
        host, port = server.public_address
        slots: list[Reply] = [bound for r in ranges for bound in (r.start, r.end)]
        node: dict[bytes, Reply] = {
            b"id": node_id(server.id).encode(),
            b"port": port,
            b"ip": host.encode(),
            b"endpoint": host.encode(),
            b"role": b"master",
            b"replication-offset": 0,
            b"health": b"online",
        }
        shard: dict[bytes, Reply] = {b"slots": slots, b"nodes": [node]}
        reply.append(shard)
    return reply


@command(
    "CLUSTER|NODES",
    arity=2,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of servers",
    summary="The servers of the connection's job, a line each.",
    tips="nondeterministic_output",
)
def cluster_nodes(session: Session, request: list[bytes]) -> Reply:
    """Lines of ``id host:port@bus flags - 0 0 epoch connected ranges``."""
    node = session.node
    placement = node.topology.placements.get(session.job_id)
    epoch = 0 if placement is None else placement.epoch
    lines = []
    listed = False
    for server, ranges in _by_server(session):
        is_myself = server.id == node.id
        listed = listed or is_myself
        lines.append(_node_line(server.id, server.public_address, is_myself, epoch, ranges))
    if not listed:
        lines.append(_node_line(node.id, (node.host, node.port), True, epoch, ()))
    return Verbatim("".join(f"{line}\n" for line in lines).encode())


def _node_line(
    server_id: str,
    address: tuple[str, int],
    is_myself: bool,
    epoch: int,
    ranges: Sequence[SlotRange],
) -> str:
    host, port = address
    flags = "myself,master" if is_myself else "master"
    slots = [str(r.start) if r.start == r.end else f"{r.start}-{r.end}" for r in ranges]
    head = f"{node_id(server_id)} {host}:{port}@{port + _BUS_PORT_OFFSET} {flags} - 0 0 {epoch}"
    return " ".join([head, "connected", *slots])


@command(
    "CLUSTER|INFO",
    arity=2,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of slot ranges",
    summary="Whether all slots of the connection's job are served, and under which epoch.",
    tips="nondeterministic_output",
)
def cluster_info(session: Session, request: list[bytes]) -> Reply:
    """Lines of ``name:value``."""
    topology = session.node.topology
    placement = topology.placements.get(session.job_id)
    assigned = sum(len(r) for r in topology.ranges(session.job_id))
    served = sum(len(r) for r, _ in _owned_ranges(session))
    fields = {
        "cluster_state": "ok" if served == SLOT_COUNT else "fail",
        "cluster_slots_assigned": assigned,
        "cluster_slots_ok": served,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": assigned - served,
        "cluster_known_nodes": max(1, len(topology.servers)),
        "cluster_size": len(_by_server(session)),
        "cluster_current_epoch": topology.epoch,
        "cluster_my_epoch": 0 if placement is None else placement.epoch,
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode())


@command(
    "CLUSTER|MYID",
    arity=2,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="The id of the node that the client is connected to.",
)
def cluster_myid(session: Session, request: list[bytes]) -> Reply:
    """The id as CLUSTER NODES shows it."""
    return node_id(session.node.id).encode()


@command(
    "CLUSTER|KEYSLOT",
    arity=3,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of bytes in the key",
    summary="The slot of a key.",
    usage="key",
)
def cluster_keyslot(session: Session, request: list[bytes]) -> Reply:
    """CRC16 of the key's hash tag, modulo 16384."""
    return key_slot(request[2])


@command(
    "CLUSTER|COUNTKEYSINSLOT",
    arity=3,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of keys in the slot that expire",
    summary="How many keys of the selected database a slot holds.",
    usage="slot",
)
def cluster_countkeysinslot(session: Session, request: list[bytes]) -> Reply:
    """Counts keys that have not expired."""
    slot = parse_int(request[2])
    if not 0 <= slot < SLOT_COUNT:
        raise CommandError(_INVALID_SLOT)
    check_slot(session, slot)
    return len(session.db.keys_in_slot(slot))


@command(
    "CLUSTER|GETKEYSINSLOT",
    arity=4,
    flags="stale",
    group="cluster",
    since="3.0.0",
    complexity="O(N) where N is the number of keys in the slot",
    summary="Keys of the selected database in a slot, up to a number.",
    usage="slot count",
    tips="nondeterministic_output",
)
def cluster_getkeysinslot(session: Session, request: list[bytes]) -> Reply:
    """Lists keys that have not expired."""
    slot, count = parse_int(request[2]), parse_int(request[3])
    if not 0 <= slot < SLOT_COUNT or count < 0:
        raise CommandError(_INVALID_SLOT_OR_COUNT)
    check_slot(session, slot)
    return list(session.db.keys_in_slot(slot)[:count])


@command(
    "CLUSTER|LINKS",
    arity=2,
    flags="stale",
    group="cluster",
    since="7.0.0",
    complexity="O(1)",
    summary="Links of the cluster bus; there is no bus, so there are none.",
    tips="nondeterministic_output",
)
def cluster_links(session: Session, request: list[bytes]) -> Reply:
    """Storage servers do not talk to each other about the map: the controller tells them."""
    return []


@command(
    "CLUSTER|SAVECONFIG",
    arity=2,
    flags="admin stale no_async_loading",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="Does nothing: the controller keeps the map.",
)
def cluster_saveconfig(session: Session, request: list[bytes]) -> Reply:
    """Accepted, because the map is safe with the controller."""
    return OK


@command(
    "CLUSTER|MYSHARDID",
    arity=2,
    flags="stale",
    group="cluster",
    since="7.2.0",
    complexity="O(1)",
    summary="The id of the node that the client is connected to: it is a shard of its own.",
    tips="nondeterministic_output",
)
def cluster_myshardid(session: Session, request: list[bytes]) -> Reply:
    """40 hexadecimal digits."""
    return node_id(session.node.id).encode()


def _check_node(session: Session, request: list[bytes]) -> None:
    """Refuse the id of a node that there is not."""
    known = [session.node.id, *(server.id for server in session.node.topology.servers.values())]
    if request[2].decode("latin-1") not in map(node_id, known):
        raise CommandError(b"ERR Unknown node %b" % c_string(request[2]))


@command(
    "CLUSTER|REPLICAS",
    arity=3,
    flags="admin stale",
    group="cluster",
    since="5.0.0",
    complexity="O(1)",
    summary="The replicas of a node; a value has one copy, so there are none.",
    usage="node-id",
    tips="nondeterministic_output",
)
@command(
    "CLUSTER|SLAVES",
    arity=3,
    flags="admin stale",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="The old name of CLUSTER REPLICAS.",
    usage="node-id",
    tips="nondeterministic_output",
)
def cluster_replicas(session: Session, request: list[bytes]) -> Reply:
    """An empty array."""
    _check_node(session, request)
    return []


@command(
    "CLUSTER|COUNT-FAILURE-REPORTS",
    arity=3,
    flags="admin stale",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="How many nodes say that another has failed: none, the controller watches them.",
    usage="node-id",
    tips="nondeterministic_output",
)
def cluster_count_failure_reports(session: Session, request: list[bytes]) -> Reply:
    """Always 0."""
    _check_node(session, request)
    return 0


_HELP: Final = (
    b"CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    b"COUNTKEYSINSLOT <slot>",
    b"    Return the number of keys in <slot>.",
    b"GETKEYSINSLOT <slot> <count>",
    b"    Return key names stored by current node in a slot.",
    b"INFO",
    b"    Return information about the cluster.",
    b"KEYSLOT <key>",
    b"    Return the hash slot for <key>.",
    b"LINKS",
    b"    Return information about all network links between this node and its peers.",
    b"MYID",
    b"    Return the node id.",
    b"NODES",
    b"    Return the servers of this connection's job and their slots.",
    b"SHARDS",
    b"    Return the servers of this connection's job, as maps.",
    b"SLOTS",
    b"    Return the slot ranges of this connection's job and their servers.",
    b"HELP",
    b"    Prints this help.",
)


@command(
    "CLUSTER|HELP",
    arity=2,
    flags="loading stale",
    group="cluster",
    since="5.0.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def cluster_help(session: Session, request: list[bytes]) -> Reply:
    """The lines that redis-cli shows."""
    return [Simple(line) for line in _HELP]
