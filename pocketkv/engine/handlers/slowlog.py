"""SLOWLOG: which calls took long. A job sees its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.commands import command, not_callable
from pocketkv.engine.errors import CommandError, wrong_subcommand
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.stats import SlowCall
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_BAD_COUNT: Final = b"ERR count should be greater than or equal to -1"
_DEFAULT_COUNT: Final = 10
_ADMIN: Final = "admin loading stale"

command(
    "SLOWLOG",
    arity=-2,
    flags="",
    group="server",
    since="2.2.12",
    complexity="Depends on subcommand.",
    summary="A container for commands about the slow log.",
)(not_callable)


def _calls(session: Session) -> list[SlowCall]:
    """The calls that the client may see, newest first."""
    entries = session.node.slow_log.entries
    return [call for call in entries if session.admin or call.job_id == session.job_id]


@command(
    "SLOWLOG|GET",
    arity=-2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(N) where N is the number of entries",
    summary="The last slow calls.",
    usage="[count]",
    tips="request_policy:all_nodes nondeterministic_output",
)
def slowlog_get(session: Session, request: list[bytes]) -> Reply:
    """Newest first; -1 stands for all."""
    if len(request) > 3:
        raise wrong_subcommand("slowlog", request[1])
    count = _DEFAULT_COUNT
    if len(request) == 3:
        number = canonical_integer(request[2])
        if number is None or number < -1:
            raise CommandError(_BAD_COUNT)
        count = number
    calls = _calls(session)
    shown = calls if count == -1 else calls[:count]
    return [
        [
            call.id,
            call.time_s,
            call.duration_us,
            list(call.arguments),
            call.address.encode(),
            call.client_name,
        ]
        for call in shown
    ]


@command(
    "SLOWLOG|LEN",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(N) where N is the number of entries",
    summary="How many slow calls there are.",
    tips="request_policy:all_nodes response_policy:agg_sum nondeterministic_output",
)
def slowlog_len(session: Session, request: list[bytes]) -> Reply:
    """Of the job's own."""
    return len(_calls(session))


@command(
    "SLOWLOG|RESET",
    arity=2,
    flags=_ADMIN,
    group="server",
    since="2.2.12",
    complexity="O(N) where N is the number of entries",
    summary="Forgets the slow calls.",
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def slowlog_reset(session: Session, request: list[bytes]) -> Reply:
    """Of the job's own."""
    forgotten = {call.id for call in _calls(session)}
    entries = session.node.slow_log.entries
    kept = [call for call in entries if call.id not in forgotten]
    entries.clear()
    entries.extend(kept)
    return OK


@command(
    "SLOWLOG|HELP",
    arity=2,
    flags="loading stale",
    group="server",
    since="6.2.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def slowlog_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"slowlog")
