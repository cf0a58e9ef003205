"""SORT: elements in the order of numbers or texts, their own or those of other keys.

A pattern names another key for each element: its first ``*`` is replaced by the element, and what
follows ``->`` is a field of a hash. ``#`` is the element itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from pocketkv.engine import notifications
from pocketkv.engine.arguments import c_string, parse_double, parse_int
from pocketkv.engine.cold import NotResident
from pocketkv.engine.commands import KeySpec, command
from pocketkv.engine.errors import SYNTAX, WRONG_TYPE, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.large_string import reply_of
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.moving import Held
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.values import Collection, String
from pocketkv.resp.replies import Reply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.cold import PendingRead
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_NO_NUMBERS: Final = b"ERR One or more scores can't be converted into double"
_DENIED: Final = b"ERR %b option of SORT denied in cluster mode."
_ITSELF: Final = b"#"
_ARROW: Final = b"->"
_BLANKS: Final = b" \t\n\v\f\r"


class _Options:
    """What SORT is asked for.

    Attributes:
        by: The pattern of what decides; ``None``: the elements themselves.
        keeps_order: Whether nothing is sorted: the pattern is the same for all elements.
        gets: Patterns of what is answered; none: the elements themselves.
        start, count: Which part of the sorted elements; a negative count: all.
        store: Where to; ``None``: they are answered.
    """

    __slots__ = ("alpha", "by", "count", "descending", "gets", "keeps_order", "start", "store")

    def __init__(self, session: Session, request: list[bytes], *, stores: bool) -> None:
        self.alpha = False
        self.descending = False
        self.by: bytes | None = None
        self.keeps_order = False
        self.gets: list[bytes] = []
        self.start = 0
        self.count = -1
        self.store: bytes | None = None
        slot = key_slot(request[1])
        i = 2
        while i < len(request):
            option = request[i].upper()
            left = len(request) - i - 1
            if option == b"ASC":
                self.descending = False
            elif option == b"DESC":
                self.descending = True
            elif option == b"ALPHA":
                self.alpha = True
            elif option == b"LIMIT" and left >= 2:
                self.start = parse_int(request[i + 1])
                self.count = parse_int(request[i + 2])
                i += 2
            elif option == b"STORE" and left >= 1 and stores:
                i += 1
                self.store = request[i]
            elif option == b"BY" and left >= 1:
                i += 1
                self.by = request[i]
                self.keeps_order = b"*" not in c_string(self.by)
                if not self.keeps_order:
                    _require_here(session, self.by, slot, b"BY")
            elif option == b"GET" and left >= 1:
                i += 1
                if request[i] != _ITSELF:
                    _require_here(session, request[i], slot, b"GET")
                self.gets.append(request[i])
            else:
                raise CommandError(SYNTAX)
            i += 1


def _require_here(session: Session, pattern: bytes, slot: int, option: bytes) -> None:
    """Refuse a pattern whose keys may be on other servers.

    Raises:
        CommandError: They may be.
        Held: Keys are about to go to another server, or not.
    """
    space = session.space
    if space.owns_all:
        return
    before, _, _ = pattern.partition(b"*")
    opening = before.find(b"{")
    closing = before.find(b"}", opening + 1)
    if 0 <= opening < closing - 1 and key_slot(before) == slot:
        # A hash tag that no element changes: the keys are where the sorted one is.
        return
    if space.holds:
        raise Held(space.holds[0])
    raise CommandError(_DENIED % option)


def sorted_keys(request: list[bytes]) -> list[int]:
    """The positions of SORT's keys: what is sorted, and where it is stored."""
    store = 0
    i = 2
    while i < len(request):
        option = request[i].upper()
        if option == b"LIMIT":
            i += 2
        elif option in (b"GET", b"BY"):
            i += 1
        elif option == b"STORE" and i + 1 < len(request):
            i += 1
            # The last one counts.
            store = i
        i += 1
    return [1, store] if store else [1]


def sorted_key(request: list[bytes]) -> list[int]:
    """The position of SORT_RO's key; those that patterns make are where no position is."""
    return [1]


@command(
    "SORT",
    arity=-2,
    flags="write denyoom",
    group="generic",
    since="1.0.0",
    complexity="O(N+M*log(M)) where N is the number of elements and M of those that are returned",
    summary="Sorts the elements of a list, a set or a sorted set, and returns or stores them.",
    usage="key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] "
    "[ALPHA] [STORE destination]",
    keys=KeySpec(1, 1, 1, find=sorted_keys),
    key_flags="RO access @1; RO access @0; OW update @0",
    categories="set sortedset list dangerous",
)
def sort(session: Session, request: list[bytes]) -> Reply:
    """The elements, or with STORE how many there are."""
    options = _Options(session, request, stores=True)
    rows = _sorted_rows(session, request[1], options)
    if options.store is None:
        return rows
    return _store(session, options.store, cast("list[bytes]", rows))


@command(
    "SORT_RO",
    arity=-2,
    flags="readonly",
    group="generic",
    since="7.0.0",
    complexity="O(N+M*log(M)) where N is the number of elements and M of those that are returned",
    summary="Sorts the elements of a list, a set or a sorted set, and returns them.",
    usage="key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] "
    "[ALPHA]",
    keys=KeySpec(1, 1, 1, find=sorted_key),
    key_flags="RO access @1; RO access @0",
    categories="set sortedset list dangerous",
)
def sort_ro(session: Session, request: list[bytes]) -> Reply:
    """The elements."""
    return _sorted_rows(session, request[1], _Options(session, request, stores=False))


def _store(session: Session, key: bytes, elements: list[bytes]) -> Reply:
    db = session.db
    if elements:
        stored = ListValue.of(elements)
        require_memory(session, stored.size_bytes)
        db.put(key, stored)
        db.notify(notifications.LIST, b"sortstore", key)
    elif db.remove(key):
        db.notify(notifications.GENERIC, b"del", key)
    return len(elements)


def _sorted_rows(session: Session, key: bytes, options: _Options) -> list[Reply]:
    """What is answered, or stored: the elements or what GET says of them, in order."""
    db = session.db
    value = db.read(key)
    if not isinstance(value, ListValue | SetValue | SortedSetValue | None):
        raise CommandError(WRONG_TYPE)
    size = 0 if value is None else len(value)
    start = min(max(options.start, 0), size)
    stop = size if options.count < 0 else min(start + options.count, size)
    elements: list[bytes] = []
    if isinstance(value, SortedSetValue):
        # Redis does, for what it looks through; OBJECT ENCODING tells.
        value.convert()
    if value is not None:
        elements = _in_order(session, value, options, start, stop)
    if not options.gets:
        return list(elements)
    found = _looked_up(db, options.gets, elements)
    if options.store is None:
        return [reply_of(text) for text in found]
    # One large string may be found for many elements.
    require_memory(session, sum(len(text) for text in found if text is not None))
    return [b"" if text is None else bytes(text) for text in found]


def _in_order(
    session: Session,
    value: ListValue | SetValue | SortedSetValue,
    options: _Options,
    start: int,
    stop: int,
) -> list[bytes]:
    """The elements from one place to before another."""
    by = options.by
    keeps_order = options.keeps_order
    alpha = options.alpha
    is_repeatable = options.store is not None or session.denies_blocking
    if keeps_order and isinstance(value, SetValue) and is_repeatable:
        # A set has no order that would be the same each time.
        keeps_order, alpha, by = False, True, None
    if not keeps_order:
        elements = _elements(value)
        if by is None:
            deciding: list[bytes | None] = list(elements)
        else:
            deciding = [
                None if found is None else bytes(found)
                for found in _looked_up(session.db, [by], elements)
            ]
        keys = _sort_keys(options, elements, deciding, alpha=alpha, is_own=by is None)
        # Equal ones stay as they are, in both directions.
        order = sorted(range(len(keys)), key=keys.__getitem__, reverse=options.descending)
        return [elements[number] for number in order[start:stop]]
    if isinstance(value, SetValue):
        return value.members()[start:stop]
    size = len(value)
    if options.descending:
        start, stop = size - stop, size - start
    if isinstance(value, ListValue):
        elements = value.items_from(start, stop - start)
    else:
        elements = value.members_between(start, stop)
    if options.descending:
        elements.reverse()
    return elements


def _elements(value: ListValue | SetValue | SortedSetValue) -> list[bytes]:
    if isinstance(value, ListValue):
        return value.items()
    if isinstance(value, SetValue):
        return value.members()
    return value.members_between(0, len(value))


def _sort_keys(
    options: _Options,
    elements: list[bytes],
    deciding: list[bytes | None],
    *,
    alpha: bool,
    is_own: bool,
) -> list[Any]:
    """What Python sorts elements by, which are sorted by what decides in Redis.

    Raises:
        CommandError: It is to be numbers, and is none.
    """
    if not alpha:
        return [
            (0.0 if text is None else _number(text), element)
            for text, element in zip(deciding, elements, strict=True)
        ]
    if options.store is None:
        # Redis then has C compare them, which sees nothing behind a NUL.
        deciding = [None if text is None else c_string(text) for text in deciding]
    if is_own:
        return deciding
    return [(text is not None, text or b"") for text in deciding]


def _number(text: bytes) -> float:
    """A text as C's strtod reads it, which takes nothing for 0, and blanks before a number."""
    text = c_string(text)
    return parse_double(text.lstrip(_BLANKS), _NO_NUMBERS) if text else 0.0


def _looked_up(db: Database, patterns: list[bytes], elements: list[bytes]) -> list[String | None]:
    """What each pattern is for an element, for each of the elements in turn.

    Raises:
        NotResident: With all that is not at hand of it.
    """
    parsed = [_Pattern(pattern) for pattern in patterns]
    found: list[String | None] = []
    missing: list[PendingRead] = []
    for element in elements:
        for pattern in parsed:
            try:
                found.append(pattern.look_up(db, element))
            except NotResident as reason:
                missing += reason.reads
    if missing:
        raise NotResident(missing)
    return found


class _Pattern:
    """A pattern, taken apart."""

    __slots__ = ("_after", "_before", "_field", "_is_constant", "_is_itself")

    def __init__(self, pattern: bytes) -> None:
        self._is_itself = pattern == _ITSELF
        star = c_string(pattern).find(b"*")
        self._is_constant = star < 0
        self._before = pattern[:star]
        after = pattern[star + 1 :]
        self._field: bytes | None = None
        arrow = c_string(after).find(_ARROW)
        if arrow >= 0 and after[arrow + len(_ARROW) :][:1] not in (b"", b"\0"):
            self._field = after[arrow + len(_ARROW) :]
            after = after[:arrow]
        self._after = after

    def look_up(self, db: Database, element: bytes) -> String | None:
        """What it is for an element; ``None`` if there is no such key or field."""
        if self._is_itself:
            return element
        if self._is_constant:
            return None
        value = db.read(self._before + element + self._after)
        if self._field is None:
            return None if isinstance(value, Collection) else value
        if isinstance(value, HashValue):
            return value.get(self._field)
        return None
