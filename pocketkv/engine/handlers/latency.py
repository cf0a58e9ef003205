"""LATENCY: how long commands take, and when something took long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.arguments import c_string
from pocketkv.engine.commands import COMMANDS, command, not_callable
from pocketkv.engine.errors import CommandError
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.info import percentile_us
from pocketkv.engine.latency import History, sparkline
from pocketkv.engine.stats import CommandStats
from pocketkv.resp.replies import Reply, Verbatim

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_LATENCY_ADMIN: Final = "admin noscript loading stale"
_LATENCY_TIPS: Final = "nondeterministic_output request_policy:all_nodes response_policy:special"

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


# --- the monitor -------------------------------------------------------------------------------


def _events(session: Session) -> dict[str, History]:
    return session.node.latency.events(session.job_id)


@command(
    "LATENCY|LATEST",
    arity=2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of kinds of events",
    summary="When each kind of event last took long, of the job's own.",
    tips=_LATENCY_TIPS,
)
def latency_latest(session: Session, request: list[bytes]) -> Reply:
    """Of each its name, when, for how many milliseconds, and for how many at most ever."""
    return [
        [name.encode(), *history.samples[-1], history.longest_ms]
        for name, history in _events(session).items()
    ]


@command(
    "LATENCY|HISTORY",
    arity=3,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of samples",
    summary="When one kind of event took long, and how long.",
    usage="event",
    tips=_LATENCY_TIPS,
)
def latency_history(session: Session, request: list[bytes]) -> Reply:
    """Seconds of the Unix epoch and milliseconds, the oldest first."""
    history = _events(session).get(request[2].decode("latin-1"))
    return [] if history is None else [list(sample) for sample in history.samples]


@command(
    "LATENCY|GRAPH",
    arity=3,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of samples",
    summary="A picture of when one kind of event took long.",
    usage="event",
    tips=_LATENCY_TIPS,
)
def latency_graph(session: Session, request: list[bytes]) -> Reply:
    """Columns of characters, the latest at the right; below them how long ago that was."""
    name = request[2].decode("latin-1")
    history = _events(session).get(name)
    if history is None:
        raise CommandError(b"ERR No samples available for event '%b'" % c_string(request[2]))
    durations = [duration_ms for _, duration_ms in history.samples]
    head = f"{name} - high {max(durations)} ms, low {min(durations)} ms (all time high "
    head += f"{history.longest_ms} ms)"
    picture = sparkline(history, session.node.clock.now_s)
    return Verbatim("\n".join([head, "-" * 80, *picture, ""]).encode("latin-1"))


@command(
    "LATENCY|RESET",
    arity=-2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(1)",
    summary="Forgets when events took long.",
    usage="[event [event ...]]",
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def latency_reset(session: Session, request: list[bytes]) -> Reply:
    """How many kinds of events were forgotten."""
    names = [name.decode("latin-1") for name in request[2:]]
    return session.node.latency.reset(session.job_id, names)


@command(
    "LATENCY|DOCTOR",
    arity=2,
    flags=_LATENCY_ADMIN,
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of commands",
    summary="Which commands are the slowest, and what took long.",
    tips=_LATENCY_TIPS,
)
def latency_doctor(session: Session, request: list[bytes]) -> Reply:
    """The slowest five by their 99th percentile, and the monitor's events, in sentences."""
    stats = session.node.command_stats
    called = [(percentile_us(s, 99), name) for name, s in stats.items() if s.calls]
    slowest = sorted(called, reverse=True)[:5]
    shown = ", ".join(f"{name} {latency_us:.0f}" for latency_us, name in slowest)
    lines = [f"99 of 100 calls take at most so many microseconds: {shown}."]
    for name, history in _events(session).items():
        lines.append(
            f"{name}: {len(history.samples)} times of late, at most {history.longest_ms} ms."
        )
    if not session.node.settings.latency_monitor_threshold:
        lines.append(
            "The latency monitor is off: CONFIG SET latency-monitor-threshold <milliseconds>."
        )
    return Verbatim("\n".join([*lines, ""]).encode())


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
