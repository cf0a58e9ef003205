"""The records as COMMAND answers them: its entries, its documentation, ACL categories, tips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pocketkv.engine.commands import COMMANDS, Command, Merge, Route, all_commands
from pocketkv.engine.key_specs import key_specs
from pocketkv.engine.usage import Argument, argument_replies, parse_usage
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import Encoded, Reply, SetReply, Simple

# Groups whose commands are all in a category of their own.
_GROUP_CATEGORIES: Final = {
    "bitmap": "bitmap",
    "geo": "geo",
    "hash": "hash",
    "hyperloglog": "hyperloglog",
    "list": "list",
    "set": "set",
    "sorted-set": "sortedset",
    "stream": "stream",
    "string": "string",
}
_REQUEST_POLICIES: Final = {
    Route.SPLIT: "multi_shard",
    Route.ALL: "all_shards",
    Route.SCAN: "special",
    Route.RANDOM: "all_shards",
}
_RESPONSE_POLICIES: Final = {Merge.SUM: "agg_sum", Merge.OK: "all_succeeded"}


def lookup(name: bytes) -> Command | None:
    """The record of ``name`` or ``container|name``, in any case of letters."""
    container, bar, subcommand = name.upper().partition(b"|")
    record = COMMANDS.get(container)
    if record is None or not bar:
        return record
    return record.subcommands.get(subcommand)


def with_subcommands() -> list[Command]:
    """Every record, by name."""
    return [r for c in all_commands() for r in (c, *_subcommands(c))]


def _subcommands(command: Command) -> list[Command]:
    return sorted(command.subcommands.values(), key=lambda record: record.name)


def categories(command: Command) -> list[str]:
    """The ACL categories of a command, without ``@``; as in Redis, several follow from flags."""
    flags = command.flags
    found = set(command.categories)
    if command.group in _GROUP_CATEGORIES and not command.subcommands:
        found.add(_GROUP_CATEGORIES[command.group])
    if "write" in flags:
        found.add("write")
    if "readonly" in flags and "scripting" not in found:
        found.add("read")
    if "admin" in flags:
        found |= {"admin", "dangerous"}
    found |= flags & {"pubsub", "blocking"}
    found.add("fast" if "fast" in flags else "slow")
    return sorted(found)


def flags_of(command: Command) -> list[str]:
    """The flags that COMMAND shows: those of the record, and what follows from its keys."""
    derived = {"movablekeys"} if command.keys.find is not None else set()
    return sorted(command.flags | derived)


def tips(command: Command) -> list[str]:
    """Hints for clients; how to send a command to several servers follows from its route."""
    found = list(command.tips)
    request = _REQUEST_POLICIES.get(command.route)
    if request is not None and not any(tip.startswith("request_policy:") for tip in found):
        found.append(f"request_policy:{request}")
    response = _RESPONSE_POLICIES.get(command.merge)
    if response is not None and not any(tip.startswith("response_policy:") for tip in found):
        found.append(f"response_policy:{response}")
    return found


def entry(command: Command) -> Reply:
    """The ten elements of a command in COMMAND and COMMAND INFO."""
    subcommands: Reply = SetReply([])
    if command.subcommands:
        subcommands = [entry(record) for record in _subcommands(command)]
    return [
        command.name.encode(),
        command.arity,
        _simple_set(flags_of(command)),
        command.keys.first,
        command.keys.last,
        command.keys.step,
        _simple_set([f"@{name}" for name in categories(command)]),
        SetReply([tip.encode() for tip in tips(command)]),
        SetReply([spec.reply() for spec in key_specs(command)]),
        subcommands,
    ]


# COMMAND and COMMAND DOCS by name and protocol version. Every cluster client asks for them when it
# connects, they are long, and they never change.
_ENCODED: Final[dict[tuple[str, int], Encoded]] = {}


def all_entries(protocol: int) -> Encoded:
    """The reply of COMMAND."""
    return _encoded("entries", protocol, lambda: [entry(record) for record in all_commands()])


def all_documentation(protocol: int) -> Encoded:
    """The reply of COMMAND DOCS."""
    return _encoded("docs", protocol, lambda: documents(all_commands()))


def _encoded(name: str, protocol: int, make: Callable[[], Reply]) -> Encoded:
    known = _ENCODED.get((name, protocol))
    if known is None:
        known = _ENCODED[name, protocol] = Encoded(encode_reply(make(), protocol))
    return known


def documents(records: list[Command]) -> Reply:
    """The map of several commands in COMMAND DOCS."""
    return {record.name.encode(): documentation(record) for record in records}


def _simple_set(words: list[str]) -> SetReply:
    return SetReply([Simple(word.encode()) for word in words])


def documentation(command: Command) -> Reply:
    """The map of a command in COMMAND DOCS."""
    reply: dict[bytes, Reply] = {
        b"summary": command.summary.encode(),
        b"since": command.since.encode(),
        b"group": command.group.encode(),
        b"complexity": command.complexity.encode(),
    }
    arguments = parse_usage(command.usage)
    if arguments:
        last_spec = len(key_specs(command)) - 1
        keys = _count_keys(arguments) if last_spec >= 0 else 0
        reply[b"arguments"] = argument_replies(arguments, [min(i, last_spec) for i in range(keys)])
    if command.subcommands:
        reply[b"subcommands"] = documents(_subcommands(command))
    return reply


def _count_keys(arguments: list[Argument]) -> int:
    return sum((a.kind == "key") + _count_keys(a.parts) for a in arguments)
