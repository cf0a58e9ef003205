"""List commands that wait until there is an element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.blocking import parse_timeout_s
from pocketkv.engine.commands import TWO_KEYS, KeySpec, command
from pocketkv.engine.handlers.lists import lookup_list, pop_one
from pocketkv.engine.handlers.lists_moving import (
    MOVE_KEY_FLAGS,
    MultiPop,
    counted_positions,
    move,
    parse_left,
    pop_from,
)
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.waiters import wait_for_keys
from pocketkv.resp.replies import NULL_ARRAY, PENDING, Marker, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_KEYS_AND_TIMEOUT: Final = KeySpec(1, -2, 1)


# --- one element -------------------------------------------------------------------------------


@command(
    "BLPOP",
    arity=-3,
    flags="write noscript blocking",
    group="list",
    since="2.0.0",
    complexity="O(N) where N is the number of keys",
    summary="Removes the first element of the first list that has any; waits until there is one.",
    usage="key [key ...] timeout",
    keys=_KEYS_AND_TIMEOUT,
    key_flags="RW access delete",
)
def blpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key and the element, or null when the time is up."""
    return _pop_or_wait(session, request, True)


@command(
    "BRPOP",
    arity=-3,
    flags="write noscript blocking",
    group="list",
    since="2.0.0",
    complexity="O(N) where N is the number of keys",
    summary="Removes the last element of the first list that has any; waits until there is one.",
    usage="key [key ...] timeout",
    keys=_KEYS_AND_TIMEOUT,
    key_flags="RW access delete",
)
def brpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key and the element, or null when the time is up."""
    return _pop_or_wait(session, request, False)


def _pop_or_wait(session: Session, request: list[bytes], left: bool) -> Reply:
    timeout_ms = parse_timeout_s(request[-1])
    db = session.db
    keys = request[1:-1]
    for key in keys:
        value = lookup_list(db, key)
        if value is not None:
            return [key, pop_one(db, key, value, left)]

    def attempt(key: bytes) -> Reply | Marker:
        value = db.lookup(key)
        return [key, pop_one(db, key, value, left)] if type(value) is ListValue else PENDING

    return wait_for_keys(
        session,
        request,
        keys,
        attempt,
        takes=ListValue,
        timeout_ms=timeout_ms,
        timeout_reply=NULL_ARRAY,
    )


# --- several elements --------------------------------------------------------------------------


def _blmpop_keys(request: list[bytes]) -> list[int]:
    return counted_positions(request, 2)


@command(
    "BLMPOP",
    arity=-5,
    flags="write blocking movablekeys",
    group="list",
    since="7.0.0",
    complexity="O(N+M) where N is the number of keys and M the number of elements returned",
    summary="Removes elements of the first list that has any; waits until there are some.",
    usage="timeout numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
    keys=KeySpec(find=_blmpop_keys),
    key_flags="RW access delete @2 keynum 0 1 1",
)
def blmpop(session: Session, request: list[bytes]) -> Reply:
    """Answers the key and an array, or null when the time is up."""
    arguments = MultiPop(request, 2)
    timeout_ms = parse_timeout_s(request[1])
    db = session.db
    left, count = arguments.left, arguments.count
    for key in arguments.keys:
        found = pop_from(db, key, left, count)
        if found is not None:
            return found

    def attempt(key: bytes) -> Reply | Marker:
        if type(db.lookup(key)) is not ListValue:
            return PENDING
        return pop_from(db, key, left, count)

    return wait_for_keys(
        session,
        request,
        arguments.keys,
        attempt,
        takes=ListValue,
        timeout_ms=timeout_ms,
        timeout_reply=NULL_ARRAY,
    )


# --- from one list to another ------------------------------------------------------------------


@command(
    "BLMOVE",
    arity=6,
    flags="write denyoom noscript blocking",
    group="list",
    since="6.2.0",
    complexity="O(1)",
    summary="Moves an element from a list to another; waits until there is one.",
    usage="source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout",
    keys=TWO_KEYS,
    key_flags=MOVE_KEY_FLAGS,
)
def blmove(session: Session, request: list[bytes]) -> Reply:
    """Answers the element, or null when the time is up."""
    from_left, to_left = parse_left(request[3]), parse_left(request[4])
    return _move_or_wait(session, request, from_left, to_left)


@command(
    "BRPOPLPUSH",
    arity=4,
    flags="write denyoom noscript blocking",
    group="list",
    since="2.2.0",
    complexity="O(1)",
    summary="Moves the last element of a list to another's beginning; waits until there is one.",
    usage="source destination timeout",
    keys=TWO_KEYS,
    key_flags=MOVE_KEY_FLAGS,
)
def brpoplpush(session: Session, request: list[bytes]) -> Reply:
    """Answers the element, or null when the time is up."""
    return _move_or_wait(session, request, False, True)


def _move_or_wait(session: Session, request: list[bytes], from_left: bool, to_left: bool) -> Reply:
    timeout_ms = parse_timeout_s(request[-1])
    db = session.db
    target = request[2]
    moved = move(db, request[1], target, from_left, to_left)
    if moved is not None or session.denies_blocking:
        # Where nobody may wait, Redis answers as LMOVE does.
        return moved

    def attempt(key: bytes) -> Reply | Marker:
        if type(db.lookup(key)) is not ListValue:
            return PENDING
        # The destination may be of another type: that is an answer, and nothing is moved.
        return move(db, key, target, from_left, to_left)

    return wait_for_keys(
        session,
        request,
        [request[1]],
        attempt,
        takes=ListValue,
        timeout_ms=timeout_ms,
        timeout_reply=NULL_ARRAY,
    )
