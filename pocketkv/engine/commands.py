"""A command is one record. Gate, router, COMMAND, ACL, metrics and docs all read the record.

A handler file declares its commands with `command` and `subcommand`; importing
`pocketkv.engine.handlers` fills `COMMANDS`. A handler takes the session and the request's
arguments (its own name first, as Redis's key positions count them) and returns a reply, or raises
`CommandError`. It parses all of its arguments before it changes anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv.engine.errors import CommandError, unknown_command, unknown_subcommand, wrong_arity
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

Handler: TypeAlias = "Callable[[Session, list[bytes]], Reply]"
KeyFinder: TypeAlias = "Callable[[list[bytes]], list[int]]"


class Route(enum.Enum):
    """Which servers a command concerns; the router goes by it."""

    NODE = "node"  # the one that the client is connected to
    KEYS = "keys"  # the owner of its keys, which must be one
    SPLIT = "split"  # each key's owner, results merged
    ALL = "all"  # every server of the job, results merged
    SCAN = "scan"  # the owner of the slot that the cursor stands in
    RANDOM = "random"  # any server of the job that has keys
    CONTROL = "control"  # the controller


class Merge(enum.Enum):
    """How a router makes one reply of several servers' replies."""

    NONE = "none"
    SUM = "sum"  # integers
    OK = "ok"  # all must be OK
    CONCAT = "concat"  # arrays, in any order
    POSITIONS = "positions"  # arrays with an element for each key, back in the request's order


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Where a command's keys stand among its arguments (its name is argument 0).

    Attributes:
        first: Position of the first key; 0: there is none at a fixed place.
        last: Position of the last key; negative counts from the end.
        step: Distance between keys.
        find: For movable keys: gives the positions; raises `CommandError` if it cannot.
    """

    first: int = 0
    last: int = 0
    step: int = 0
    find: KeyFinder | None = None

    def positions(self, request: list[bytes]) -> list[int]:
        """The positions of the keys in a request."""
        if self.find is not None:
            return self.find(request)
        if self.first == 0:
            return []
        last = self.last if self.last >= 0 else len(request) + self.last
        return list(range(self.first, min(last, len(request) - 1) + 1, self.step))


NO_KEYS: Final = KeySpec()
ONE_KEY: Final = KeySpec(1, 1, 1)
TWO_KEYS: Final = KeySpec(1, 2, 1)
ALL_KEYS: Final = KeySpec(1, -1, 1)
KEY_VALUE_PAIRS: Final = KeySpec(1, -1, 2)


# Stands for no upper bound of the number of arguments.
_ARITY_UNLIMITED: Final = 2**31


class Command:
    """The record of one command.

    Attributes:
        name: Lower case; a subcommand's is ``container|subcommand``.
        arity: Number of arguments with the name; negative: at least so many.
        flags: Redis's command flags (``write``, ``readonly``, ``denyoom``, ``fast`` ...).
        categories: ACL categories beside those that follow from flags, without ``@``.
        keys: Where its keys are.
        key_flags: What happens to the keys, in the words of Redis's key specs (``RO access`` ...);
            of keys that are not treated alike, or not at fixed places, see `key_specs`.
        value_at, value_step: Which arguments may be a `LargeString`: the one at `value_at`, and
            every so many after it; 0: none, or no more.
        tips: Redis's command tips that do not follow from `route` and `merge`.
        route, merge: Which servers it concerns, and how their replies become one.
        group, since, complexity, summary, usage: For COMMAND DOCS; `usage` is Redis's syntax line
            without the command's name, e.g. ``key value [NX | XX] [EX seconds]``.
        subcommands: By upper-case name, for a container.
        blocks, is_local, is_write, needs_values, denies_oom, no_auth, no_script, arity_min,
            arity_max, first_key, single_key: Derived, because the hot path asks for them with every
            request.
    """

    __slots__ = (
        "arity",
        "arity_max",
        "arity_min",
        "blocks",
        "categories",
        "complexity",
        "denies_oom",
        "first_key",
        "flags",
        "group",
        "handler",
        "is_local",
        "is_write",
        "key_flags",
        "keys",
        "merge",
        "name",
        "needs_values",
        "no_auth",
        "no_script",
        "route",
        "since",
        "single_key",
        "subcommands",
        "summary",
        "tips",
        "usage",
        "value_at",
        "value_step",
    )

    def __init__(
        self,
        *,
        name: str,
        handler: Handler,
        arity: int,
        flags: frozenset[str],
        categories: frozenset[str],
        keys: KeySpec,
        key_flags: str,
        route: Route,
        merge: Merge,
        group: str,
        since: str,
        complexity: str,
        summary: str,
        usage: str,
        tips: tuple[str, ...] = (),
        value_at: int = 0,
        value_step: int = 0,
    ) -> None:
        self.name = name
        self.handler = handler
        self.arity = arity
        self.flags = flags
        self.categories = categories
        self.keys = keys
        self.key_flags = key_flags
        self.route = route
        self.merge = merge
        self.group = group
        self.since = since
        self.complexity = complexity
        self.summary = summary
        self.usage = usage
        self.tips = tips
        self.value_at = value_at
        self.value_step = value_step
        self.subcommands: dict[bytes, Command] = {}
        self.is_local = route is Route.NODE
        self.is_write = "write" in flags
        # What is only set or removed is not looked at.
        self.needs_values = "RW" in key_flags or "access" in key_flags
        self.denies_oom = "denyoom" in flags
        self.blocks = "blocking" in flags
        self.no_script = "noscript" in flags
        self.no_auth = "no_auth" in flags
        self.arity_min = abs(arity)
        self.arity_max = arity if arity > 0 else _ARITY_UNLIMITED
        self.first_key = keys.first
        # Whoever goes by it need not look whether the key is there (DEBUG counts for itself).
        self.single_key = keys.find is None and 0 < keys.first == keys.last < self.arity_min

    def takes_large(self, position: int) -> bool:
        """Whether the argument at this position may be a `LargeString`."""
        first = self.value_at
        if first == 0 or position < first:
            return False
        step = self.value_step
        return position == first or (step > 0 and (position - first) % step == 0)


# By upper-case and by lower-case name: the spellings that clients really send cost one look-up.
COMMANDS: Final[dict[bytes, Command]] = {}
_TABLE: Final = COMMANDS


def command(
    name: str,
    *,
    arity: int,
    flags: str,
    group: str,
    since: str,
    complexity: str,
    summary: str,
    usage: str = "",
    keys: KeySpec = NO_KEYS,
    key_flags: str = "",
    route: Route | None = None,
    merge: Merge = Merge.NONE,
    categories: str = "",
    tips: str = "",
    value_at: int = 0,
    value_step: int = 0,
) -> Callable[[Handler], Handler]:
    """Declare a command (``NAME``) or a container's subcommand (``CONTAINER|NAME``).

    `route` is `Route.KEYS` for a command with keys and `Route.NODE` without, unless given.
    """

    def declare(handler: Handler) -> Handler:
        flag_set = frozenset(flags.split())
        has_keys = keys.first > 0 or keys.find is not None
        record = Command(
            name=name.lower(),
            handler=handler,
            arity=arity,
            flags=flag_set,
            categories=frozenset(categories.split()),
            keys=keys,
            key_flags=key_flags,
            route=route or (Route.KEYS if has_keys else Route.NODE),
            merge=merge,
            group=group,
            since=since,
            complexity=complexity,
            summary=summary,
            usage=usage,
            tips=tuple(tips.split()),
            value_at=value_at,
            value_step=value_step,
        )
        _register(record)
        return handler

    return declare


def _register(record: Command) -> None:
    container, _, subcommand = record.name.partition("|")
    if subcommand:
        table = COMMANDS[container.encode()].subcommands
        keys = [subcommand.upper().encode()]
    else:
        table = COMMANDS
        keys = [container.upper().encode(), container.encode()]
    for key in keys:
        if key in table:
            raise ValueError(f"command {record.name} is declared twice")
        table[key] = record


def all_commands() -> list[Command]:
    """Every top-level record, by name."""
    return sorted({id(c): c for c in COMMANDS.values()}.values(), key=lambda c: c.name)


def find_command(request: list[bytes]) -> Command:
    """The record that a request means, its subcommand's if it has one; its arity fits.

    Raises:
        CommandError: Unknown command or subcommand, or a wrong number of arguments.
    """
    name = request[0]
    record = _TABLE.get(name)
    if record is None:
        record = _TABLE.get(name.upper())
        if record is None:
            raise unknown_command(request)
    if record.subcommands and len(request) > 1:
        inner = record.subcommands.get(request[1].upper())
        if inner is None:
            raise unknown_subcommand(record.name, request[1])
        record = inner
    if not record.arity_min <= len(request) <= record.arity_max:
        raise wrong_arity(record.name)
    return record


def not_callable(session: Session, request: list[bytes]) -> Reply:
    """The handler of a container, which `find_command` never gives for a whole request."""
    raise CommandError(b"ERR wrong number of arguments for '%b' command" % request[0].lower())
