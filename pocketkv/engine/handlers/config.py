"""CONFIG: the node's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import command, not_callable
from pocketkv.engine.errors import CommandError, no_permission
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.job_terms import keep_terms
from pocketkv.engine.settings import (
    change_settings,
    changes_jobs_only,
    find_settings,
    parse_pairs,
)
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_FILE: Final = b"ERR The server is running without a config file"
_ADMIN: Final = "admin noscript loading stale"

command(
    "CONFIG",
    arity=-2,
    flags="",
    group="server",
    since="2.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about settings.",
)(not_callable)


@command(
    "CONFIG|GET",
    arity=-3,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(N) where N is the number of settings",
    summary="The values of settings whose names fit patterns.",
    usage="parameter [parameter ...]",
)
def config_get(session: Session, request: list[bytes]) -> Reply:
    """A map; `maxmemory` is what the connection's job may use."""
    found: dict[bytes, Reply] = {}
    found.update(find_settings(session, request[2:]))
    return found


@command(
    "CONFIG|SET",
    arity=-4,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(N) where N is the number of settings",
    summary="Changes settings of this node, all or none of those that are named.",
    usage="parameter value [parameter value ...]",
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def config_set(session: Session, request: list[bytes]) -> Reply:
    """Where an administrator's password is set, a job may only change what is its own."""
    pairs = parse_pairs(request[2:])
    # A router has looked itself whether its client may.
    if not (session.may_administer or session.proxied or changes_jobs_only(pairs)):
        raise no_permission("config|set")
    left = change_settings(session, pairs, leaves_terms=session.node.term_keeper is not None)
    if not left:
        return OK
    return keep_terms(session, [b"MEMBER.CONFIGURE", *(w for pair in left for w in pair)], OK)


@command(
    "CONFIG|RESETSTAT",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.0.0",
    complexity="O(1)",
    summary="Counts calls, errors, hits and misses from zero again.",
)
def config_resetstat(session: Session, request: list[bytes]) -> Reply:
    """The node's counts of commands, and the job's of keys."""
    if not session.may_administer:
        raise no_permission("config|resetstat")
    session.node.reset_stats()
    session.space.stats.reset()
    return OK


@command(
    "CONFIG|REWRITE",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.8.0",
    complexity="O(1)",
    summary="Writes settings to a file; there is none, so it is refused.",
)
def config_rewrite(session: Session, request: list[bytes]) -> Reply:
    """Settings last as long as the server."""
    raise CommandError(_NO_FILE)


@command(
    "CONFIG|HELP",
    arity=2,
    flags="loading stale",
    group="server",
    since="5.0.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def config_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"config")
