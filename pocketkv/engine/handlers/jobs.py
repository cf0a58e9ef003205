"""JOB, TIER, SERVER, MOVE and EVENTS: records of the controller's commands.

They stand in COMMAND everywhere, and routers pass them on to the controller, which executes
them (`pocketkv.controller`). A storage server serves none of them but JOB.RETAIN, which is about
keys.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine import retention
from pocketkv.engine.commands import ALL_KEYS, Merge, Route, command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.session import Session
from pocketkv.resp.replies import Reply

_NOT_HERE: Final = b"ERR jobs are administered at a router of the cluster, not at a storage server"
_HINTS: Final = (
    "[LAMBDAS count] [CAPACITY bytes] [THROUGHPUT rate] [LATENCY <SENSITIVE | TOLERANT>]"
    " [TIERS tier [tier ...]] [LEASE seconds]"
)


def not_here(session: Session, request: list[bytes]) -> Reply:
    """Refuse: this node is not the controller, and not a router that would ask it."""
    raise CommandError(_NOT_HERE)


def _declare(name: str, arity: int, summary: str, usage: str = "", flags: str = "") -> None:
    command(
        name,
        arity=arity,
        flags=f"admin noscript stale {flags}",
        group="pocketkv",
        since="0.1.0",
        complexity="O(N) where N is the number of storage servers",
        summary=summary,
        usage=usage,
        route=Route.CONTROL,
    )(not_here)


_declare(
    "JOB.REGISTER",
    -2,
    "Register a job; answers its id, token and map.",
    f"name {_HINTS}",
    # A first token must come from somewhere; where a password closes administration, the
    # controller refuses who has not given it.
    flags="no_auth",
)
_declare("JOB.DEREGISTER", 2, "End a job and free all that it holds and does not retain.", "id")
_declare("JOB.UPDATE", -3, "Change a job's hints.", f"id {_HINTS}")
_declare("JOB.RENEW", 2, "Renew a job's lease.", "id")
_declare("JOB.LIST", 1, "All jobs.")
_declare("JOB.INFO", 2, "A job's hints, placement, usage and cost.", "id")
_declare("JOB.PURGE", 2, "Delete the keys that a job retained beyond its end.", "id")
_declare("TIER.LIST", 1, "All tiers, with their servers and figures of the catalog.")
_declare("TIER.SCALE", 3, "Set how many servers a tier has.", "tier servers")
_declare("SERVER.LIST", 1, "All storage servers, with what they hold.")
_declare("SERVER.DRAIN", 2, "Move all that a storage server has to others, and stop it.", "id")
_declare("SERVER.UNDRAIN", 2, "Keep a storage server that is being drained.", "id")
_declare("MOVE.LIST", 1, "Slots that are on their way between storage servers.")
_declare(
    "EVENTS.LIST",
    -1,
    "What the controller has decided and seen lately, and why.",
    "[SINCE id] [COUNT count]",
)


@command(
    "JOB.RETAIN",
    arity=-2,
    flags="write denyoom noscript fast",
    group="pocketkv",
    since="0.1.0",
    complexity="O(N) where N is the number of keys",
    summary="Keep keys of the connection's own job beyond its end, until JOB.PURGE.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="OW update",
    route=Route.SPLIT,
    merge=Merge.SUM,
)
def job_retain(session: Session, request: list[bytes]) -> Reply:
    """How many of the keys exist, and are marked now; a key that is given twice counts twice."""
    return retention.retain(session, request)
