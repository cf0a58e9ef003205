"""COMMAND tells of every command that Redis has too what Redis's COMMAND tells."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkv.engine.command_table import with_subcommands
from pocketkv.engine.commands import Command
from tests.engine.harness import Client, Engine, handlers
from tests.oracle.targets import SocketTarget
from tests.replies import decode

__all__ = ["handlers"]

# Ours alone, or of a Redis that is newer than the one that is compared with.
NEWER = frozenset(
    (
        "client|setinfo",
        "client|no-touch",
        "client|maint_notifications",
        "cluster|myshardid",
        "waitaof",
    )
)
# DEBUG is no container in Redis, so its entry has no subcommands.
OURS_ALONE = ("debug|", "job.", "tier.", "server.", "move.", "events.", "pocketkv.", "member.")


def compared() -> list[Command]:
    return [
        record
        for record in with_subcommands()
        if record.name not in NEWER | {"debug"} and not record.name.startswith(OURS_ALONE)
    ]


@pytest.fixture(scope="module")
def client() -> Client:
    return Engine().connect(protocol=3)


def ask(target: SocketTarget, *request: str) -> Any:
    return decode(target.run([[part.encode() for part in request]])[0])


def unordered(items: list[Any]) -> set[Any]:
    return {item.decode() if isinstance(item, bytes) else str(item) for item in items}


def specs(items: list[dict[bytes, Any]]) -> list[tuple[set[str], Any, Any]]:
    return [
        (unordered(item[b"flags"]), item[b"begin_search"], item[b"find_keys"]) for item in items
    ]


def test_most_commands_are_compared() -> None:
    assert len(compared()) > 150


@pytest.mark.parametrize("record", compared(), ids=lambda record: record.name)
def test_an_entry_is_as_redis_s(
    redis_target: SocketTarget, client: Client, record: Command
) -> None:
    redis_target.begin(3, 0)
    (theirs,) = ask(redis_target, "COMMAND", "INFO", record.name)
    (ours,) = client("COMMAND", "INFO", record.name)
    assert theirs is not None, "Redis does not know it"
    assert len(ours) == len(theirs) == 10
    assert [type(part) for part in ours] == [type(part) for part in theirs]
    assert ours[:2] == theirs[:2]
    assert unordered(ours[2]) == unordered(theirs[2]), "flags"
    assert ours[3:6] == theirs[3:6], "first key, last key, step"
    assert unordered(ours[6]) == unordered(theirs[6]), "categories"
    assert specs(ours[8]) == specs(theirs[8])


@pytest.mark.parametrize("record", compared(), ids=lambda record: record.name)
def test_documentation_is_as_redis_s(
    redis_target: SocketTarget, client: Client, record: Command
) -> None:
    redis_target.begin(3, 0)
    theirs = ask(redis_target, "COMMAND", "DOCS", record.name)[record.name.encode()]
    ours = client("COMMAND", "DOCS", record.name)[record.name.encode()]
    assert ours[b"since"] == theirs[b"since"]
    assert ours[b"group"] == theirs[b"group"]
    # In our own words.
    assert ours[b"summary"].endswith(b".")
    assert ours[b"summary"] != theirs[b"summary"]


def shape(arguments: list[dict[bytes, Any]]) -> list[Any]:
    """Tokens, keys and options of arguments, without the names that are left to taste."""
    found: list[Any] = []
    for argument in arguments:
        inner = shape(argument.get(b"arguments", []))
        is_key = argument[b"type"] == b"key"
        flags = unordered(argument.get(b"flags", []))
        found.append((is_key, argument.get(b"token"), flags, inner))
    return found


SAME_ARGUMENTS = [
    "get",
    "set",
    "getex",
    "mset",
    "expire",
    "copy",
    "lcs",
    "sadd",
    "sintercard",
    "sinterstore",
    "sscan",
    "scan",
    "memory|usage",
    "client|reply",
    "client|pause",
    "hello",
    "select",
    "wait",
    "zadd",
    "zrange",
    "zrangestore",
    "zrangebyscore",
    "zunionstore",
    "zinter",
    "zintercard",
    "zdiff",
    "zpopmin",
    "bzpopmin",
    "bzmpop",
    "zrandmember",
    "zscan",
    "geoadd",
    "geodist",
    "georadius",
    "georadiusbymember",
]


@pytest.mark.parametrize("name", SAME_ARGUMENTS)
def test_arguments_are_as_redis_s(redis_target: SocketTarget, client: Client, name: str) -> None:
    redis_target.begin(3, 0)
    theirs = ask(redis_target, "COMMAND", "DOCS", name)[name.encode()]
    ours = client("COMMAND", "DOCS", name)[name.encode()]
    assert shape(ours[b"arguments"]) == shape(theirs[b"arguments"])


@pytest.mark.parametrize(
    "request_",
    [
        "GETKEYS MSET a 1 b 2",
        "GETKEYS SINTERCARD 2 a b LIMIT 3",
        "GETKEYS SINTERCARD 0 a",
        "GETKEYS SINTERCARD x a",
        "GETKEYS OBJECT ENCODING a",
        "GETKEYS MEMORY USAGE a",
        "GETKEYS PING a",
        "GETKEYS GET a b",
        "GETKEYS nosuch a",
        "GETKEYS SPUBLISH a b",
        "GETKEYSANDFLAGS SSUBSCRIBE a b",
        "GETKEYS CLIENT nosuch",
        "GETKEYS CLIENT id",
        "GETKEYSANDFLAGS SINTERSTORE a b c",
        "GETKEYSANDFLAGS SMOVE a b c",
        "GETKEYSANDFLAGS RENAME a b",
        "GETKEYSANDFLAGS COPY a b",
        "GETKEYSANDFLAGS GET a",
        "GETKEYSANDFLAGS SET a 1",
        "GETKEYSANDFLAGS SET get 1 GET",
        "GETKEYSANDFLAGS SET a get",
        "GETKEYSANDFLAGS BITFIELD a GET u4 0",
        "GETKEYSANDFLAGS BITFIELD a SET u4 0 1",
        "GETKEYSANDFLAGS SINTERCARD 0 a",
        "GETKEYSANDFLAGS SINTERCARD 2 a b",
        "GETKEYSANDFLAGS PING a",
        "INFO nosuch get|x",
        "DOCS nosuch",
        "LIST FILTERBY MODULE nosuch",
        "LIST FILTERBY ACLCAT nosuch",
        "LIST FILTERBY PATTERN [gs]et",
        "LIST FILTERBY PATTERN CLIENT|K*",
        "LIST FILTERBY nosuch x",
        "LIST nosuch",
        "LIST FILTERBY",
        "COUNT x",
        "nosuch",
    ],
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_questions_are_answered_as_redis_does(
    redis_target: SocketTarget, request_: str, protocol: int
) -> None:
    redis_target.begin(protocol, 0)
    words = ["COMMAND", *request_.split()]
    theirs = redis_target.run([[word.encode() for word in words]])[0]
    ours = Engine().connect(protocol=protocol).raw(*words)
    if "LIST FILTERBY PATTERN" in request_:
        # In no order.
        assert ours[:4] == theirs[:4]
        assert sorted(decode(ours)) == sorted(decode(theirs))
    elif "GETKEYSANDFLAGS" in request_ and not theirs.startswith(b"-"):
        assert _by_key(decode(ours)) == _by_key(decode(theirs))
    else:
        assert ours == theirs


def _by_key(pairs: list[Any]) -> list[Any]:
    return [(key, unordered(flags)) for key, flags in pairs]
