"""All keys of a database: walk, list, count, draw, remove.

On a server that serves only some slots, these speak for those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.arguments import Glob, parse_cursor, parse_int
from pocketkv.engine.commands import Merge, Route, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.gate import check_slot
from pocketkv.engine.payloads import type_of
from pocketkv.engine.scan import POSITION_BITS, random_key, scan_keys
from pocketkv.resp.replies import OK, Reply
from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_COUNT_DEFAULT = 10


class ScanOptions:
    """The options of SCAN and its kin.

    Args:
        request: The request.
        first: Where the options begin.
        with_type: Whether TYPE is one.

    Attributes:
        glob: MATCH; ``None``: everything.
        count: COUNT, at least 1.
        type_name: TYPE, in lower case; ``None``: any.

    Raises:
        CommandError: Unknown, without its argument, or no positive integer.
    """

    __slots__ = ("count", "glob", "type_name")

    def __init__(self, request: list[bytes], first: int, *, with_type: bool) -> None:
        self.glob: Glob | None = None
        self.count = _COUNT_DEFAULT
        self.type_name: str | None = None
        for i in range(first, len(request), 2):
            option = request[i].upper()
            if i + 1 == len(request):
                raise CommandError(SYNTAX)
            argument = request[i + 1]
            if option == b"COUNT":
                self.count = parse_int(argument)
                if self.count < 1:
                    raise CommandError(SYNTAX)
            elif option == b"MATCH":
                self.glob = Glob(argument)
            elif option == b"TYPE" and with_type:
                self.type_name = argument.lower().decode("latin-1")
            else:
                raise CommandError(SYNTAX)
        if self.glob is not None and self.glob.matches_all:
            self.glob = None


@command(
    "SCAN",
    arity=-2,
    flags="readonly",
    group="generic",
    since="2.8.0",
    complexity="O(1) for each key that is returned or left out; a slot with many keys is sorted "
    "when the walk comes to it",
    summary="Walks over the keys of the database, some at a time.",
    usage="cursor [MATCH pattern] [COUNT count] [TYPE type]",
    route=Route.SCAN,
    categories="keyspace",
    tips="nondeterministic_output",
)
def scan(session: Session, request: list[bytes]) -> Reply:
    """The next cursor, 0 at the end, and keys."""
    cursor = parse_cursor(request[1])
    options = ScanOptions(request, 2, with_type=True)
    slot = cursor >> POSITION_BITS
    if session.proxied and slot < SLOT_COUNT:
        check_slot(session, slot)
    db = session.db
    cursor, keys = scan_keys(db, cursor, options.count, proxied=session.proxied)
    if options.glob is not None:
        keys = [key for key in keys if options.glob.matches(key)]
    if options.type_name is not None:
        keys = _of_type(db, keys, options.type_name)
    found: list[Reply] = list(keys)
    return [b"%d" % cursor, found]


def _of_type(db: Database, keys: list[bytes], name: str) -> list[bytes]:
    found = []
    for key in keys:
        value = db.find(key)
        if value is not None and type_of(value) == name:
            found.append(key)
    return found


@command(
    "KEYS",
    arity=2,
    flags="readonly",
    group="generic",
    since="1.0.0",
    complexity="O(N) where N is the number of keys in the database",
    summary="Lists the keys whose names fit a pattern.",
    usage="pattern",
    route=Route.ALL,
    merge=Merge.CONCAT,
    categories="keyspace dangerous",
    tips="nondeterministic_output_order",
)
def keys(session: Session, request: list[bytes]) -> Reply:
    """The keys, in no order."""
    glob = Glob(request[1])
    db = session.db
    found: list[Reply] = []
    owned = session.space.owned
    for slot in [slot for slot, _ in db.slot_tables() if owned[slot]]:
        found += [key for key in db.keys_in_slot(slot) if glob.matches(key)]
    return found


@command(
    "DBSIZE",
    arity=1,
    flags="readonly fast",
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Counts the keys of the database.",
    route=Route.ALL,
    merge=Merge.SUM,
    categories="keyspace",
)
def dbsize(session: Session, request: list[bytes]) -> Reply:
    """How many there are, with those that have expired and were not removed yet."""
    return session.db.visible


@command(
    "RANDOMKEY",
    arity=1,
    flags="readonly",
    group="generic",
    since="1.0.0",
    complexity="O(1), or O(N) where N is the number of keys of one slot",
    summary="Returns any key.",
    route=Route.RANDOM,
    categories="keyspace",
    tips="nondeterministic_output",
)
def randomkey(session: Session, request: list[bytes]) -> Reply:
    """A key, or nil if there is none."""
    return random_key(session.db, session.node.keyspace.randomness)


def _check_flush_mode(request: list[bytes]) -> None:
    """Take ASYNC and SYNC, which do the same here: memory is always freed in the background."""
    if len(request) > 2 or (len(request) == 2 and request[1].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(SYNTAX)


def _tell_flushed(session: Session) -> None:
    """Have clients that keep copies of keys forget them."""
    if session.space.tracking is not None:
        session.space.tracking.flushed()


@command(
    "FLUSHDB",
    arity=-1,
    flags="write",
    group="server",
    since="1.0.0",
    complexity="O(1), and O(N) in the background, where N is the number of keys in the database",
    summary="Removes all keys of the database.",
    usage="[ASYNC | SYNC]",
    route=Route.ALL,
    merge=Merge.OK,
    categories="keyspace dangerous",
)
def flushdb(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _check_flush_mode(request)
    session.db.clear()
    _tell_flushed(session)
    return OK


@command(
    "FLUSHALL",
    arity=-1,
    flags="write",
    group="server",
    since="1.0.0",
    complexity="O(1), and O(N) in the background, where N is the number of keys of the job",
    summary="Removes all keys of all databases of the job.",
    usage="[ASYNC | SYNC]",
    route=Route.ALL,
    merge=Merge.OK,
    categories="keyspace dangerous",
)
def flushall(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _check_flush_mode(request)
    session.space.clear()
    _tell_flushed(session)
    return OK
