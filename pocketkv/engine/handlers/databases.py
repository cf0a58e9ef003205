"""Between a job's numbered databases: MOVE a key, SWAPDB all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine import notifications
from pocketkv.engine.arguments import INT32_MAX, INT32_MIN, parse_int, parse_int32
from pocketkv.engine.commands import ONE_KEY, Merge, Route, command
from pocketkv.engine.errors import DB_OUT_OF_RANGE, CommandError
from pocketkv.engine.handlers.keys import SAME_OBJECT
from pocketkv.engine.swapping import swap
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_FIRST: Final = b"ERR invalid first DB index"
_NO_SECOND: Final = b"ERR invalid second DB index"


@command(
    "MOVE",
    arity=3,
    flags="write fast",
    group="generic",
    since="1.0.0",
    complexity="O(1)",
    summary="Moves a key to another of the job's databases, unless that has such a key.",
    usage="key db",
    keys=ONE_KEY,
    key_flags="RW access update",
    categories="keyspace",
)
def move(session: Session, request: list[bytes]) -> Reply:
    """1 if it was moved, 0 if there is no such key, or one there."""
    source = session.db
    key = request[1]
    index = parse_int32(request[2])
    if not 0 <= index < limits.DATABASES:
        raise CommandError(DB_OUT_OF_RANGE)
    target = session.space.database(index)
    if target is source:
        raise CommandError(SAME_OBJECT)
    if source.find(key) is None or target.find(key) is not None:
        return 0
    due_ms = source.expiry_ms(key)
    value = source.take(key)
    assert value is not None  # It was there.
    target.put(key, value)
    if due_ms is not None:
        target.set_expiry(key, due_ms)
    source.notify(notifications.GENERIC, b"move_from", key)
    target.notify(notifications.GENERIC, b"move_to", key)
    return 1


@command(
    "SWAPDB",
    arity=3,
    flags="write fast",
    group="server",
    since="4.0.0",
    complexity="O(N) where N is the number of clients that wait for keys of the two, or watch some",
    summary="Has two of the job's databases exchange all of their keys.",
    usage="index1 index2",
    route=Route.ALL,
    merge=Merge.OK,
    categories="keyspace dangerous",
)
def swapdb(session: Session, request: list[bytes]) -> Reply:
    """OK. Clients stay in their databases, and find there what the other one had."""
    first = _parse_index(request[1], _NO_FIRST)
    second = _parse_index(request[2], _NO_SECOND)
    if not (0 <= first < limits.DATABASES and 0 <= second < limits.DATABASES):
        raise CommandError(DB_OUT_OF_RANGE)
    swap(session.space, first, second)
    return OK


def _parse_index(text: bytes, error: bytes) -> int:
    index = parse_int(text, error)
    if not INT32_MIN <= index <= INT32_MAX:
        raise CommandError(error)
    return index
