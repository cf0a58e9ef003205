"""List commands over several lists that never wait: LMOVE, RPOPLPUSH, LMPOP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.commands import TWO_KEYS, KeySpec, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.handlers.lists import lookup_list, pop_many
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.notifications import LIST
from pocketkv.engine.shrinking import shrunk
from pocketkv.resp.replies import NULL_ARRAY, Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

MOVE_KEY_FLAGS: Final = "RW access delete @1; RW insert @2"
_NUMKEYS_TOO_SMALL: Final = b"ERR numkeys should be greater than 0"
_COUNT_TOO_SMALL: Final = b"ERR count should be greater than 0"


def parse_left(word: bytes) -> bool:
    """Whether a word is LEFT, not RIGHT.

    Raises:
        CommandError: It is neither.
    """
    upper = word.upper()
    if upper == b"LEFT":
        return True
    if upper == b"RIGHT":
        return False
    raise CommandError(SYNTAX)


# --- from one list to another ------------------------------------------------------------------


def move(
    db: Database, source_key: bytes, target_key: bytes, from_left: bool, to_left: bool
) -> Reply:
    """Move an element to a list, which is created if it does not exist; ``None``: there is none.

    Raises:
        CommandError: WRONGTYPE; nothing has changed then.
    """
    source = lookup_list(db, source_key)
    if source is None:
        return None
    target = lookup_list(db, target_key)
    pushed = b"lpush" if to_left else b"rpush"
    popped = b"lpop" if from_left else b"rpop"
    before_bytes = source.size_bytes
    item = source.pop_left() if from_left else source.pop_right()
    if target is source:
        _push(source, item, to_left)
        db.notify(LIST, pushed, target_key)
        shrunk(db, source_key, source, before_bytes, LIST, popped)
        return item
    if target is None:
        target = ListValue()
        _push(target, item, to_left)
        db.put(target_key, target)
    else:
        target_bytes = target.size_bytes
        _push(target, item, to_left)
        db.modified(target_key, target.size_bytes - target_bytes)
    db.notify(LIST, pushed, target_key)
    shrunk(db, source_key, source, before_bytes, LIST, popped)
    return item


def _push(value: ListValue, item: bytes, left: bool) -> None:
    if left:
        value.push_left(item)
    else:
        value.push_right(item)


@command(
    "LMOVE",
    arity=5,
    flags="write denyoom",
    group="list",
    since="6.2.0",
    complexity="O(1)",
    summary="Moves an element from an end of one list to an end of another, and returns it.",
    usage="source destination <LEFT | RIGHT> <LEFT | RIGHT>",
    keys=TWO_KEYS,
    key_flags=MOVE_KEY_FLAGS,
)
def lmove(session: Session, request: list[bytes]) -> Reply:
    """Answers the element, or null if there is none."""
    from_left, to_left = parse_left(request[3]), parse_left(request[4])
    return move(session.db, request[1], request[2], from_left, to_left)


@command(
    "RPOPLPUSH",
    arity=3,
    flags="write denyoom",
    group="list",
    since="1.2.0",
    complexity="O(1)",
    summary="Moves the last element of one list to the beginning of another, and returns it.",
    usage="source destination",
    keys=TWO_KEYS,
    key_flags=MOVE_KEY_FLAGS,
)
def rpoplpush(session: Session, request: list[bytes]) -> Reply:
    """Answers the element, or null if there is none."""
    return move(session.db, request[1], request[2], False, True)


# --- from the first list that has any ----------------------------------------------------------


class MultiPop:
    """The arguments of LMPOP and BLMPOP.

    Args:
        request: The request.
        at: Which argument is the number of keys.

    Raises:
        CommandError: They are wrong.
    """

    __slots__ = ("count", "keys", "left")

    def __init__(self, request: list[bytes], at: int) -> None:
        where = at + 1 + len(counted_positions(request, at))
        self.keys = request[at + 1 : where]
        if where >= len(request):
            raise CommandError(SYNTAX)
        self.left = parse_left(request[where])
        self.count = 1
        options = request[where + 1 :]
        if not options:
            return
        if options[0].upper() != b"COUNT" or len(options) == 1:
            raise CommandError(SYNTAX)
        self.count = _parse_above_zero(options[1], _COUNT_TOO_SMALL)
        if len(options) > 2:
            raise CommandError(SYNTAX)


def counted_positions(request: list[bytes], at: int) -> list[int]:
    """The positions of keys that follow their number, which is argument `at`.

    Raises:
        CommandError: It is no number, or there are less.
    """
    count = _parse_above_zero(request[at], _NUMKEYS_TOO_SMALL)
    if count > len(request) - at - 1:
        raise CommandError(SYNTAX)
    return list(range(at + 1, at + 1 + count))


def _parse_above_zero(text: bytes, error: bytes) -> int:
    number = canonical_integer(text)
    if number is None or number < 1:
        raise CommandError(error)
    return number


def pop_from(db: Database, key: bytes, left: bool, count: int) -> Reply:
    """The key and up to `count` elements of its list; ``None`` if it has none.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = lookup_list(db, key)
    if value is None:
        return None
    popped: Reply = pop_many(db, key, value, left, count)
    return [key, popped]


def _lmpop_keys(request: list[bytes]) -> list[int]:
    return counted_positions(request, 1)


@command(
    "LMPOP",
    arity=-4,
    flags="write movablekeys",
    group="list",
    since="7.0.0",
    complexity="O(N+M) where N is the number of keys and M the number of elements returned",
    summary="Removes elements of the first list that has any, and returns them.",
    usage="numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
    keys=KeySpec(find=_lmpop_keys),
    key_flags="RW access delete @1 keynum 0 1 1",
)
def lmpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key and an array, or null."""
    arguments = MultiPop(request, 1)
    for key in arguments.keys:
        found = pop_from(session.db, key, arguments.left, arguments.count)
        if found is not None:
            return found
    return NULL_ARRAY
