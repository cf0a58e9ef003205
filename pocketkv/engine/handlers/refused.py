"""Commands that cannot make sense here, each refused with what is so instead.

Slots are given by the controller, a value has one copy, and there are no modules. That these
commands are known tells clients and ACL rules more than an unknown command would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.commands import Handler, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.resp.replies import NO_REPLY, OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_CLUSTER: Final = "admin stale no_async_loading"
_MODULE: Final = "admin noscript no_async_loading"
_SYNC: Final = f"{_MODULE} no_multi"

_SLOTS: Final = "slots are given by the controller, which is told what is wanted by JOB commands"
_SERVERS: Final = "servers come and go by the controller: see TIER.SCALE and SERVER.DRAIN"
_ONE_COPY: Final = "a value has one copy: there is no replication"
_MODULES: Final = "there are no modules"

# Name, arity, flags, group, version, usage, and why it is refused.
_REFUSED: Final = (
    ("CLUSTER|ADDSLOTS", -3, _CLUSTER, "cluster", "3.0.0", "slot [slot ...]", _SLOTS),
    (
        "CLUSTER|ADDSLOTSRANGE",
        -4,
        _CLUSTER,
        "cluster",
        "7.0.0",
        "start-slot end-slot [start-slot end-slot ...]",
        _SLOTS,
    ),
    ("CLUSTER|BUMPEPOCH", 2, _CLUSTER, "cluster", "3.0.0", "", _SLOTS),
    ("CLUSTER|DELSLOTS", -3, _CLUSTER, "cluster", "3.0.0", "slot [slot ...]", _SLOTS),
    (
        "CLUSTER|DELSLOTSRANGE",
        -4,
        _CLUSTER,
        "cluster",
        "7.0.0",
        "start-slot end-slot [start-slot end-slot ...]",
        _SLOTS,
    ),
    ("CLUSTER|FAILOVER", -2, _CLUSTER, "cluster", "3.0.0", "[FORCE | TAKEOVER]", _ONE_COPY),
    ("CLUSTER|FLUSHSLOTS", 2, _CLUSTER, "cluster", "3.0.0", "", _SLOTS),
    ("CLUSTER|FORGET", 3, _CLUSTER, "cluster", "3.0.0", "node-id", _SERVERS),
    ("CLUSTER|MEET", -4, _CLUSTER, "cluster", "3.0.0", "ip port [cluster_bus_port]", _SERVERS),
    ("CLUSTER|REPLICATE", 3, _CLUSTER, "cluster", "3.0.0", "node-id", _ONE_COPY),
    ("CLUSTER|RESET", -2, "admin noscript stale", "cluster", "3.0.0", "[HARD | SOFT]", _SERVERS),
    ("CLUSTER|SET-CONFIG-EPOCH", 3, _CLUSTER, "cluster", "3.0.0", "config-epoch", _SLOTS),
    (
        "CLUSTER|SETSLOT",
        -4,
        _CLUSTER,
        "cluster",
        "3.0.0",
        "slot <IMPORTING node-id | MIGRATING node-id | NODE node-id | STABLE>",
        _SLOTS,
    ),
    ("MODULE|LOAD", -3, _MODULE, "server", "4.0.0", "path [arg [arg ...]]", _MODULES),
    (
        "MODULE|LOADEX",
        -3,
        _MODULE,
        "server",
        "7.0.0",
        "path [CONFIG name value [CONFIG name value ...]] [ARGS arg [ARGS arg ...]]",
        _MODULES,
    ),
    ("MODULE|UNLOAD", 3, _MODULE, "server", "4.0.0", "name", _MODULES),
    ("PSYNC", -3, _SYNC, "server", "2.8.0", "replicationid offset", _ONE_COPY),
    ("SYNC", 1, _SYNC, "server", "1.0.0", "", _ONE_COPY),
)


def _refusing(reason: str) -> Handler:
    text = f"ERR {reason}".encode()

    def refuse(session: Session, request: list[bytes]) -> Reply:
        raise CommandError(text)

    return refuse


for _name, _arity, _flags, _group, _since, _usage, _reason in _REFUSED:
    command(
        _name,
        arity=_arity,
        flags=_flags,
        group=_group,
        since=_since,
        complexity="O(1)",
        summary=f"Refused: {_reason}.",
        usage=_usage,
    )(_refusing(_reason))


@command(
    "REPLCONF",
    arity=-1,
    flags="admin noscript loading stale allow_busy",
    group="server",
    since="3.0.0",
    complexity="O(1)",
    summary="What a replica would tell of itself; taken, and nothing comes of it.",
)
def replconf(session: Session, request: list[bytes]) -> Reply:
    """OK; SYNC and PSYNC, which would come next, are refused."""
    if len(request) % 2 == 0:
        raise CommandError(SYNTAX)
    for name, value in zip(request[1::2], request[2::2], strict=True):
        option = name.lower()
        if option in (b"ack", b"getack"):
            # Redis answers neither.
            return NO_REPLY
        if option in (b"listening-port", b"rdb-only"):
            parse_int(value)
        elif option not in (b"ip-address", b"capa", b"rdb-filter-only"):
            raise CommandError(b"ERR Unrecognized REPLCONF option: %b" % name)
    return OK
