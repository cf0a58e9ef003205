"""COMMAND: what commands there are, and where their keys are, for clients that route by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import Glob
from pocketkv.engine.command_table import (
    all_documentation,
    all_entries,
    categories,
    documents,
    entry,
    lookup,
    with_subcommands,
)
from pocketkv.engine.commands import COMMANDS, Command, Handler, all_commands, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.key_specs import flags_in, has_keys, key_specs
from pocketkv.resp.replies import Reply, SetReply, Simple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.engine.session import Session

_INVALID_COMMAND: Final = b"ERR Invalid command specified"
_INVALID_ARITY: Final = b"ERR Invalid number of arguments specified for command"
_NO_KEYS: Final = b"ERR The command has no key arguments"
_INVALID_ARGUMENTS: Final = b"ERR Invalid arguments specified for command"
_PER_COMMAND: Final = "O(N) where N is the number of commands to look up"


@command(
    "COMMAND",
    arity=-1,
    flags="loading stale",
    categories="connection",
    group="server",
    since="2.8.13",
    complexity="O(N) where N is the number of commands",
    summary="All commands with their flags and the places of their keys.",
    tips="nondeterministic_output_order",
)
def command_(session: Session, request: list[bytes]) -> Reply:
    """An entry of ten elements for each."""
    return all_entries(session.protocol)


def _subcommand(
    name: str, arity: int, summary: str, usage: str = "", *, since: str, ordered: bool = True
) -> Callable[[Handler], Handler]:
    return command(
        f"COMMAND|{name}",
        arity=arity,
        flags="loading stale",
        categories="connection",
        group="server",
        since=since,
        complexity=_PER_COMMAND,
        summary=summary,
        usage=usage,
        tips="" if ordered else "nondeterministic_output_order",
    )


@_subcommand("COUNT", 2, "How many commands there are.", since="2.8.13")
def command_count(session: Session, request: list[bytes]) -> Reply:
    """Subcommands are not counted."""
    return len(all_commands())


@_subcommand(
    "INFO",
    -2,
    "Some or all commands with their flags and the places of their keys.",
    "[command-name [command-name ...]]",
    since="2.8.13",
    ordered=False,
)
def command_info(session: Session, request: list[bytes]) -> Reply:
    """As COMMAND; null for a command that there is not."""
    if len(request) == 2:
        return command_(session, request)
    records = [lookup(name) for name in request[2:]]
    return [None if record is None else entry(record) for record in records]


@_subcommand(
    "DOCS",
    -2,
    "Documentation of some or all commands.",
    "[command-name [command-name ...]]",
    since="7.0.0",
    ordered=False,
)
def command_docs(session: Session, request: list[bytes]) -> Reply:
    """A map by name; commands that there are not are left out."""
    if len(request) == 2:
        return all_documentation(session.protocol)
    records = [lookup(name) for name in request[2:]]
    return documents([record for record in records if record is not None])


@_subcommand(
    "LIST",
    -2,
    "Names of commands.",
    "[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
    since="7.0.0",
    ordered=False,
)
def command_list(session: Session, request: list[bytes]) -> Reply:
    """All of them, or those of an ACL category, or that fit a pattern."""
    records = with_subcommands()
    if len(request) == 2:
        return SetReply([record.name.encode() for record in records])
    if len(request) != 5 or request[2].upper() != b"FILTERBY":
        raise CommandError(SYNTAX)
    kind, wanted = request[3].upper(), request[4]
    if kind == b"MODULE":
        # Commands of modules do not exist, of whatever name.
        return []
    if kind == b"ACLCAT":
        category = wanted.decode("latin-1").lower()
        return [r.name.encode() for r in records if category in categories(r)]
    if kind != b"PATTERN":
        raise CommandError(SYNTAX)
    glob = Glob(wanted.lower())
    return [r.name.encode() for r in records if glob.matches(r.name.encode())]


# --- keys --------------------------------------------------------------------------------------


def _inner_command(request: list[bytes]) -> tuple[Command, list[bytes]]:
    """The command that GETKEYS is asked about, and its request; it has keys."""
    inner = request[2:]
    record = COMMANDS.get(inner[0].upper())
    if record is not None and record.subcommands and len(inner) > 1:
        record = record.subcommands.get(inner[1].upper())
    if record is None:
        raise CommandError(_INVALID_COMMAND)
    if not has_keys(record):
        raise CommandError(_NO_KEYS)
    if not record.arity_min <= len(inner) <= record.arity_max:
        raise CommandError(_INVALID_ARITY)
    return record, inner


@_subcommand(
    "GETKEYS",
    -4,
    "The keys of a command.",
    "command [arg [arg ...]]",
    since="2.8.13",
)
def command_getkeys(session: Session, request: list[bytes]) -> Reply:
    """In the order in which they stand in the command."""
    record, inner = _inner_command(request)
    try:
        positions = record.keys.positions(inner)
    except CommandError:
        raise CommandError(_INVALID_ARGUMENTS) from None
    return [inner[position] for position in positions]


@_subcommand(
    "GETKEYSANDFLAGS",
    -4,
    "The keys of a command, with what it does to them.",
    "command [arg [arg ...]]",
    since="7.0.0",
)
def command_getkeysandflags(session: Session, request: list[bytes]) -> Reply:
    """Pairs of a key and flags as in key specs."""
    record, inner = _inner_command(request)
    try:
        positions = record.keys.positions(inner)
    except CommandError:
        raise CommandError(_INVALID_ARGUMENTS) from None
    found: list[Reply] = []
    flags: list[Reply] = []
    for spec in key_specs(record):
        shown = flags_in(record, inner, spec.flags)
        flags = [Simple(flag.encode()) for flag in shown if flag != "incomplete"]
        found.extend([inner[position], SetReply(flags)] for position in spec.positions(inner))
    # Those whose place no spec tells are what the last spec says.
    found.extend([inner[position], SetReply(flags)] for position in positions[len(found) :])
    return found


@_subcommand("HELP", 2, "What subcommands there are.", since="5.0.0")
def command_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"command")
