"""SLOWLOG and LATENCY: which commands took long. A job sees its own calls in the slow log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.arguments import c_string, canonical_integer
from pocketkv.engine.commands import COMMANDS, command, not_callable
from pocketkv.engine.errors import CommandError, wrong_subcommand
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.info import percentile_us
from pocketkv.engine.stats import CommandStats, SlowCall
from pocketkv.resp.replies import OK, Reply, Verbatim

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_BAD_COUNT: Final = b"ERR count should be greater than or equal to -1"
_DEFAULT_COUNT: Final = 10
_ADMIN: Final = "admin loading stale"
_LATENCY_ADMIN: Final = "admin noscript loading stale"
_LATENCY_TIPS: Final = "nondeterministic_output request_policy:all_nodes response_policy:special"

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


# --- latency -----------------------------------------------------------------------------------

command(
    "LATENCY",
    arity=-2,
    flags="",
    group="server",
    since="2.8.13",
    complexity="Depends on subcommand.",
    summary="A container for commands about latency.",
)(not_callable)


@command(
    "LATENCY|HISTOGRAM",
    arity=-2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="7.0.0",
    complexity="O(N) where N is the number of commands",
    summary="How many calls of each command took up to how long.",
    usage="[command [command ...]]",
    tips=_LATENCY_TIPS,
)
def latency_histogram(session: Session, request: list[bytes]) -> Reply:
    """A map by command: its calls, and those up to each bucket's end in microseconds."""
    stats = session.node.command_stats
    names = sorted(stats)
    if len(request) > 2:
        names = [name for text in request[2:] for name in _called(text, stats)]
    found: dict[bytes, Reply] = {}
    for name in names:
        if stats[name].calls:
            found[name.encode()] = {
                b"calls": stats[name].calls,
                b"histogram_usec": _histogram(stats[name]),
            }
    return found


def _called(text: bytes, stats: dict[str, CommandStats]) -> list[str]:
    """The names under which a command, or a container's subcommands, were counted."""
    record = COMMANDS.get(text.partition(b"|")[0].upper())
    if record is None:
        return []
    name = text.decode("latin-1").lower()
    return [n for n in sorted(stats) if n == name or n.startswith(f"{name}|")]


def _histogram(stats: CommandStats) -> Reply:
    # Keys of maps are names everywhere else.
    counted: dict[Any, Reply] = {}
    total = 0
    for exponent, count in enumerate(stats.buckets):
        if count:
            total += count
            counted[max(1, (1 << exponent) // 1000)] = total
    return counted


@command(
    "LATENCY|LATEST",
    arity=2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Events of the latency monitor, which there is not: see LATENCY HISTOGRAM.",
    tips=_LATENCY_TIPS,
)
def latency_latest(session: Session, request: list[bytes]) -> Reply:
    """As with a monitor that is off."""
    return []


@command(
    "LATENCY|HISTORY",
    arity=3,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Samples of one event of the latency monitor, which there is not.",
    usage="event",
    tips=_LATENCY_TIPS,
)
def latency_history(session: Session, request: list[bytes]) -> Reply:
    """As with a monitor that is off."""
    return []


@command(
    "LATENCY|GRAPH",
    arity=3,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="A graph of one event of the latency monitor, which there is not.",
    usage="event",
    tips=_LATENCY_TIPS,
)
def latency_graph(session: Session, request: list[bytes]) -> Reply:
    """As with a monitor that is off."""
    raise CommandError(b"ERR No samples available for event '%b'" % c_string(request[2]))


@command(
    "LATENCY|RESET",
    arity=-2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Forgets events of the latency monitor, which there is not.",
    usage="[event [event ...]]",
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def latency_reset(session: Session, request: list[bytes]) -> Reply:
    """How many events were forgotten."""
    return 0


@command(
    "LATENCY|DOCTOR",
    arity=2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of commands",
    summary="Which commands are the slowest.",
    tips=_LATENCY_TIPS,
)
def latency_doctor(session: Session, request: list[bytes]) -> Reply:
    """The slowest five by their 99th percentile, in a sentence."""
    stats = session.node.command_stats
    called = [(percentile_us(s, 99), name) for name, s in stats.items() if s.calls]
    slowest = sorted(called, reverse=True)[:5]
    shown = ", ".join(f"{name} {latency_us:.0f}" for latency_us, name in slowest)
    return Verbatim(f"99 of 100 calls take at most so many microseconds: {shown}.\n".encode())


@command(
    "LATENCY|HELP",
    arity=2,
    flags="loading stale",
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def latency_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"latency")
