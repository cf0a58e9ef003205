"""COMMAND: well formed for every client, and how usage lines become arguments."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkv.engine.command_table import categories, documentation, lookup, with_subcommands
from pocketkv.engine.commands import Command
from pocketkv.engine.key_specs import Spec, key_specs
from pocketkv.engine.usage import Argument, UsageError, parse_usage
from tests.engine.harness import Client, Engine, handlers

__all__ = ["handlers"]

GROUPS = frozenset(
    "bitmap cluster connection generic geo hash hyperloglog list pocketkv pubsub scripting"
    " sentinel server set sorted-set stream string transactions".split()
)
KINDS = frozenset("string integer double key pattern unix-time pure-token oneof block".split())


def outline(usage: str) -> list[str]:
    return [describe(argument) for argument in parse_usage(usage)]


def describe(argument: Argument) -> str:
    text = f"{argument.token} " if argument.token else ""
    text += f"{argument.name}:{argument.kind}"
    if argument.parts:
        text += "(" + ", ".join(describe(part) for part in argument.parts) + ")"
    text += "?" if argument.is_optional else ""
    text += "+" if argument.is_multiple else ""
    return text + ("*" if argument.repeats_token else "")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("", []),
        ("key value", ["key:key", "value:string"]),
        ("key [key ...]", ["key:key+"]),
        ("key value [key value ...]", ["key-value:block(key:key, value:string)+"]),
        ("[NX | XX]", ["nx-xx:oneof(NX nx:pure-token, XX xx:pure-token)?"]),
        ("<ON | OFF>", ["on-off:oneof(ON on:pure-token, OFF off:pure-token)"]),
        (
            "[EX seconds | PERSIST]",
            ["seconds-persist:oneof(EX seconds:integer, PERSIST persist:pure-token)?"],
        ),
        ("[LIMIT offset count]", ["LIMIT offset-count:block(offset:integer, count:integer)?"]),
        ("[MATCH pattern] [COUNT count]", ["MATCH pattern:pattern?", "COUNT count:integer?"]),
        ("[P x [P x ...]]", ["P x:string?+*"]),
        ("[TIERS tier [tier ...]]", ["TIERS tier:string?+"]),
        (
            "[LATENCY <A | B>]",
            ["LATENCY a-b:oneof(A a:pure-token, B b:pure-token)?"],
        ),
        ("[WITHSCORES]", ["WITHSCORES withscores:pure-token?"]),
        ("[[ID client-id] | [TYPE type]] ...", None),
        (
            "<[ID client-id] | [TYPE type]> ...",
            ["client-id-type:oneof(ID client-id:integer?, TYPE type:string?)+"],
        ),
    ],
)
def test_usage_lines_are_read(usage: str, expected: list[str] | None) -> None:
    if expected is None:
        expected = ["client-id-type:oneof(ID client-id:integer?, TYPE type:string?)?+"]
    assert outline(usage) == expected


@pytest.mark.parametrize("usage", ["[key", "key]", "<a | >", "[]", "a | b", "... key", "<a ] b>"])
def test_a_usage_line_that_is_none_is_refused(usage: str) -> None:
    with pytest.raises(UsageError):
        parse_usage(usage)


# --- every record ------------------------------------------------------------------------------

all_records = pytest.mark.parametrize("record", with_subcommands(), ids=lambda r: str(r.name))


@all_records
def test_a_record_can_be_shown(record: Command) -> None:
    assert record.group in GROUPS
    assert record.summary.endswith(".")
    assert "\n" not in record.summary
    assert record.complexity
    assert categories(record)
    document = documentation(record)
    assert isinstance(document, dict)
    check_arguments(document.get(b"arguments", []))


def check_arguments(arguments: Any) -> None:
    for argument in arguments:
        assert argument[b"name"]
        kind = argument[b"type"].decode()
        assert kind in KINDS
        assert (b"arguments" in argument) == (kind in {"oneof", "block"})
        assert (b"token" in argument) or kind != "pure-token"
        check_arguments(argument.get(b"arguments", []))


@all_records
def test_specs_find_the_keys_that_the_engine_finds(record: Command) -> None:
    words = record.name.encode().split(b"|")
    request = [*words, b"2", b"1", b"a", b"b"][: max(record.arity_min, 5)]
    request += [b"x"] * (record.arity_min - len(request))
    if record.keys.find is not None:
        return
    found = sorted({p for spec in key_specs(record) for p in spec.positions(request)})
    assert found == sorted(record.keys.positions(request))


@pytest.mark.parametrize("protocol", [2, 3])
def test_docs_alternate_names_and_maps(protocol: int) -> None:
    client = Engine().connect(protocol=protocol)
    reply = client("COMMAND", "DOCS")
    documents = reply if protocol == 3 else dict(zip(reply[::2], reply[1::2], strict=True))
    assert len(documents) == client("COMMAND", "COUNT") == len(client("COMMAND"))
    for name, document in documents.items():
        assert isinstance(name, bytes)
        fields = (
            document if protocol == 3 else dict(zip(document[::2], document[1::2], strict=True))
        )
        assert {b"summary", b"since", b"group", b"complexity"} <= fields.keys()


def test_names_are_found_in_any_case(client: Client) -> None:
    assert lookup(b"Config|Get") is lookup(b"config|get") is not None
    assert [entry and entry[0] for entry in client("COMMAND", "INFO", "GeT", "nosuch")] == [
        b"get",
        None,
    ]


def test_job_commands_stand_in_command_with_their_keys(client: Client) -> None:
    (entry,) = client("COMMAND", "INFO", "JOB.RETAIN")
    assert entry[3:6] == [1, -1, 1]
    assert client("COMMAND", "GETKEYS", "JOB.RETAIN", "a", "b") == [b"a", b"b"]
    assert {b"job.register", b"tier.list", b"server.drain"} <= set(client("COMMAND", "LIST"))


def test_tips_follow_from_the_route(client3: Client) -> None:
    tips = {entry[0]: set(entry[7]) for entry in client3("COMMAND")}
    assert tips[b"del"] == {b"request_policy:multi_shard", b"response_policy:agg_sum"}
    assert tips[b"dbsize"] == {b"request_policy:all_shards", b"response_policy:agg_sum"}
    assert b"request_policy:special" in tips[b"scan"]
    assert tips[b"get"] == set()


# --- key specs ---------------------------------------------------------------------------------


def positions(spec: Spec, request: str) -> list[int]:
    return spec.positions([word.encode() for word in request.split()])


@pytest.mark.parametrize(
    ("spec", "request_", "expected"),
    [
        (Spec((), 1), "GET a b", [1]),
        (Spec((), 1, last=-1), "DEL a b c", [1, 2, 3]),
        (Spec((), 1, last=-1, step=2), "MSET a 1 b 2", [1, 3]),
        (Spec((), 1, last=-2), "BLPOP a b 0", [1, 2]),
        (Spec((), 1, keynum=(0, 1)), "SINTERCARD 2 a b LIMIT 1", [2, 3]),
        (Spec((), 1, keynum=(0, 1)), "SINTERCARD 9 a b", [2, 3]),
        (Spec((), 1, keynum=(0, 1)), "SINTERCARD x a b", []),
        (Spec((), 1, keynum=(0, 1)), "SINTERCARD", []),
        (Spec((), 1, "STREAMS", last=-1, limit=2), "XREAD COUNT 2 streams a b 0 0", [4, 5]),
        (Spec((), 1, "STREAMS", last=-1, limit=2), "XREAD COUNT 2", []),
        (Spec((), -2, "KEYS", last=-1), "MIGRATE h p '' 0 9 KEYS a b", [7, 8]),
        (Spec(()), "SORT a BY b", []),
    ],
)
def test_specs_tell_positions(spec: Spec, request_: str, expected: list[int]) -> None:
    assert positions(spec, request_) == expected
