"""Set commands over several sets: intersections, unions, differences, and their stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.commands import ALL_KEYS, KeySpec, command
from pocketkv.engine.errors import SYNTAX, WRONG_TYPE, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.notifications import GENERIC, SET
from pocketkv.engine.set_value import SetValue
from pocketkv.resp.replies import Reply, SetReply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_NUMKEYS_TOO_SMALL: Final = b"ERR numkeys should be greater than 0"
_NUMKEYS_TOO_LARGE: Final = b"ERR Number of keys can't be greater than number of args"
_LIMIT_NEGATIVE: Final = b"ERR LIMIT can't be negative"
_STORE_KEYS: Final = "OW update @1; RO access @2 -1 1"


def lookup_set(db: Database, key: bytes) -> SetValue | None:
    """The set of a key; ``None`` if the key does not exist.

    Raises:
        CommandError: WRONGTYPE.
    """
    value = db.lookup(key)
    if value is None or type(value) is SetValue:
        return value
    raise CommandError(WRONG_TYPE)


def _read_sets(session: Session, keys: list[bytes]) -> list[SetValue | None]:
    found: list[SetValue | None] = []
    for key in keys:
        value = session.db.read(key)
        if value is not None and type(value) is not SetValue:
            raise CommandError(WRONG_TYPE)
        found.append(value)
    return found


def _store(session: Session, key: bytes, result: SetValue | None, event: bytes) -> Reply:
    """Replace a key by a result; an empty one does not exist."""
    if result is None or len(result) == 0:
        if session.db.remove(key):
            session.db.notify(GENERIC, b"del", key)
        return 0
    require_memory(session, result.size_bytes)
    session.db.put(key, result)
    session.db.notify(SET, event, key)
    return len(result)


# --- intersection ------------------------------------------------------------------------------


def intersection(sets: list[SetValue | None], limit: int = 0) -> list[bytes]:
    """The members that all sets have; with a limit, no more than so many of them."""
    present = [value for value in sets if value is not None]
    if len(present) < len(sets):
        return []
    present.sort(key=len)
    others = present[1:]
    common: list[bytes] = []
    for member in present[0].members():
        for other in others:
            if member not in other:
                break
        else:
            common.append(member)
            if len(common) == limit:
                break
    return common


@command(
    "SINTER",
    arity=-2,
    flags="readonly",
    group="set",
    since="1.0.0",
    complexity="O(N*M) where N is the size of the smallest set and M the number of sets",
    summary="The members that several sets have in common.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def sinter(session: Session, request: list[bytes]) -> Reply:
    """Answers a set."""
    return SetReply(intersection(_read_sets(session, request[1:])))


@command(
    "SINTERSTORE",
    arity=-3,
    flags="write denyoom",
    group="set",
    since="1.0.0",
    complexity="O(N*M) where N is the size of the smallest set and M the number of sets",
    summary="Stores the members that several sets have in common.",
    usage="destination key [key ...]",
    keys=ALL_KEYS,
    key_flags="RW update @1; RO access @2 -1 1",
)
def sinterstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    members = intersection(_read_sets(session, request[2:]))
    return _store(session, request[1], _result(session, members), b"sinterstore")


def _result(session: Session, members: list[bytes]) -> SetValue | None:
    """A set to store. Redis begins every result as an intset, and so does this."""
    if not members:
        return None
    integers_max = session.node.settings.set_max_intset_entries
    return SetValue.of(members, integers_max)


def _counted_keys(request: list[bytes]) -> list[int]:
    """The positions of keys that follow their number."""
    count = canonical_integer(request[1])
    if count is None or count <= 0:
        raise CommandError(_NUMKEYS_TOO_SMALL)
    if count > len(request) - 2:
        raise CommandError(_NUMKEYS_TOO_LARGE)
    return list(range(2, 2 + count))


@command(
    "SINTERCARD",
    arity=-3,
    flags="readonly",
    group="set",
    since="7.0.0",
    complexity="O(N*M) where N is the size of the smallest set and M the number of sets",
    summary="How many members several sets have in common.",
    usage="numkeys key [key ...] [LIMIT limit]",
    keys=KeySpec(find=_counted_keys),
    key_flags="RO access @1 keynum 0 1 1",
)
def sintercard(session: Session, request: list[bytes]) -> Reply:
    """Answers their number, or the limit if there are more."""
    count = len(_counted_keys(request))
    limit = 0
    for i in range(2 + count, len(request), 2):
        if request[i].upper() != b"LIMIT" or i + 1 == len(request):
            raise CommandError(SYNTAX)
        number = canonical_integer(request[i + 1])
        if number is None or number < 0:
            raise CommandError(_LIMIT_NEGATIVE)
        limit = number
    return len(intersection(_read_sets(session, request[2 : 2 + count]), limit))


# --- union -------------------------------------------------------------------------------------


def union(sets: list[SetValue | None]) -> list[bytes]:
    """The members that any of the sets has; in ascending order if all sets are intsets."""
    found: dict[bytes, None] = {}
    all_integers = True
    for value in sets:
        if value is not None:
            found.update(dict.fromkeys(value.members()))
            all_integers = all_integers and value.encoding() == "intset"
    return sorted(found, key=int) if all_integers else list(found)


@command(
    "SUNION",
    arity=-2,
    flags="readonly",
    group="set",
    since="1.0.0",
    complexity="O(N) where N is the number of members of all sets",
    summary="The members that any of several sets has.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def sunion(session: Session, request: list[bytes]) -> Reply:
    """Answers a set."""
    return SetReply(union(_read_sets(session, request[1:])))


@command(
    "SUNIONSTORE",
    arity=-3,
    flags="write denyoom",
    group="set",
    since="1.0.0",
    complexity="O(N) where N is the number of members of all sets",
    summary="Stores the members that any of several sets has.",
    usage="destination key [key ...]",
    keys=ALL_KEYS,
    key_flags=_STORE_KEYS,
)
def sunionstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    members = union(_read_sets(session, request[2:]))
    return _store(session, request[1], _result(session, members), b"sunionstore")


# --- difference --------------------------------------------------------------------------------


def difference(sets: list[SetValue | None]) -> list[bytes]:
    """The members that the first set has and no other has."""
    first = sets[0]
    if first is None:
        return []
    others = [value for value in sets[1:] if value is not None]
    left: list[bytes] = []
    for member in first.members():
        for other in others:
            if member in other:
                break
        else:
            left.append(member)
    return left


@command(
    "SDIFF",
    arity=-2,
    flags="readonly",
    group="set",
    since="1.0.0",
    complexity="O(N*M) where N is the size of the first set and M the number of sets",
    summary="The members that the first of several sets has and no other has.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RO access",
    tips="nondeterministic_output_order",
)
def sdiff(session: Session, request: list[bytes]) -> Reply:
    """Answers a set."""
    return SetReply(difference(_read_sets(session, request[1:])))


@command(
    "SDIFFSTORE",
    arity=-3,
    flags="write denyoom",
    group="set",
    since="1.0.0",
    complexity="O(N*M) where N is the size of the first set and M the number of sets",
    summary="Stores the members that the first of several sets has and no other has.",
    usage="destination key [key ...]",
    keys=ALL_KEYS,
    key_flags=_STORE_KEYS,
)
def sdiffstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    sets = _read_sets(session, request[2:])
    members = difference(sets)
    result = _result(session, members)
    if result is not None and sets[0] is not None and _is_made_by_removal(sets):
        # Redis has then had all members of the first set in the result.
        result.mark_had(sets[0], session.node.settings.set_max_intset_entries)
    return _store(session, request[1], result, b"sdiffstore")


def _is_made_by_removal(sets: list[SetValue | None]) -> bool:
    """Whether Redis removes the other sets' members from a copy, instead of looking them up."""
    first = sets[0]
    present = [value for value in sets if value is not None]
    if first is None or any(value is first for value in present[1:]):
        return False
    return len(first) * len(present) // 2 > sum(len(value) for value in present)
