"""Scripts and functions, to a real redis-server and to our engine: the same bytes come back.

The requests stand in ``scripts/*.jsonl``, one per line; each file is one conversation.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.harness import Engine
from tests.oracle.compare import shorten
from tests.oracle.generate import Request
from tests.oracle.targets import EngineTarget, SocketTarget, StoreTarget
from tests.replies import decode

FILES = sorted(Path(__file__).parent.joinpath("scripts").glob("*.jsonl"))
BEFORE: list[Request] = [[b"SCRIPT", b"FLUSH"], [b"FUNCTION", b"FLUSH"]]


def conversation(path: Path) -> list[Request]:
    lines = path.read_text().splitlines()
    return [[argument.encode("latin-1") for argument in json.loads(line)] for line in lines]


def differences(ours: EngineTarget, theirs: SocketTarget, path: Path, protocol: int) -> list[str]:
    for target in (ours, theirs):
        target.begin(protocol, 1_700_000_000_000)
        target.run(BEFORE)
    found = []
    for request in conversation(path):
        (our_reply,), (their_reply,) = ours.run([request]), theirs.run([request])
        if request[:2] == [b"FUNCTION", b"LIST"] and not their_reply.startswith(b"-"):
            # Functions come in no order.
            our_reply, their_reply = _in_order(our_reply), _in_order(their_reply)
        if our_reply != their_reply:
            found.append(f"{request}\n  is  {shorten(our_reply)}\n  not {shorten(their_reply)}")
    return found


def _in_order(reply: bytes) -> bytes:
    return repr(sorted(repr(part) for part in _parts(decode(reply)))).encode()


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | set):
        return [part for item in value for part in _parts(item)]
    return [value]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scripts_answer_as_redis_s(redis_target: SocketTarget, path: Path, protocol: int) -> None:
    assert differences(EngineTarget(), redis_target, path, protocol) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_so_they_do_if_nothing_is_in_memory(redis_target: SocketTarget, path: Path) -> None:
    assert differences(StoreTarget(), redis_target, path, 2) == []


def test_dumps_of_functions_go_both_ways(redis_target: SocketTarget) -> None:
    redis_target.begin(2, 0)
    redis_target.run(BEFORE)
    client = Engine().connect()
    for number in range(3):
        # One of them is compressed.
        rest = "x" * 50 * number
        code = (
            f"#!lua name=lib{number}\n"
            f"redis.register_function('f{number}', function() return '{rest}' end)"
        )
        client("FUNCTION", "LOAD", code)
        dump = client("FUNCTION", "DUMP")
        (reply,) = redis_target.run([[b"FUNCTION", b"RESTORE", dump, b"FLUSH"]])
        assert reply == b"+OK\r\n"
        (reply,) = redis_target.run([[b"FCALL", b"f%d" % number, b"0"]])
        assert decode(reply) == rest.encode()
        other = Engine().connect()
        theirs = decode(redis_target.run([[b"FUNCTION", b"DUMP"]])[0])
        assert other("FUNCTION", "RESTORE", theirs) == "OK"
        assert other("FCALL", f"f{number}", 0) == rest.encode()


# Scripts that err, each with what is counted of it besides: the command that it calls.
ERRING: list[tuple[str, list[Request]]] = [
    ("select", [[b"EVAL", b"return redis.call('select', 99)", b"0"]]),
    ("select", [[b"EVAL", b"return redis.pcall('select', 99)", b"0"]]),
    ("select", [[b"EVAL", b"redis.pcall('select', 99) return 1", b"0"]]),
    ("set", [[b"EVAL_RO", b"return redis.call('set', 'x', 'y')", b"1", b"x"]]),
    ("set", [[b"EVAL_RO", b"return redis.pcall('set', 'x', 'y')", b"1", b"x"]]),
    ("set", [[b"EVAL", b"return redis.call('set')", b"0"]]),
    ("set", [[b"EVAL", b"return redis.pcall('nosuch')", b"0"]]),
    ("set", [[b"EVAL", b"return redis.error_reply('MY OWN')", b"0"]]),
    ("set", [[b"EVAL", b"return redis.error_reply('alone')", b"0"]]),
    ("set", [[b"EVAL", b"return {err = 'BARE'}", b"0"]]),
    ("set", [[b"EVAL", b"error({err = 'RAISED it'})", b"0"]]),
    ("set", [[b"EVAL", b"error('words')", b"0"]]),
    ("set", [[b"EVAL", b"return {ok = 'a\r\nb'}", b"0"]]),
    ("lpush", [[b"SET", b"s", b"1"], [b"EVAL", b"return redis.call('lpush', 's', 1)", b"0"]]),
    (
        "lpush",
        [
            [b"SET", b"s", b"1"],
            [b"MULTI"],
            [b"EVAL", b"return redis.call('lpush', 's', 1)", b"0"],
            [b"EVAL", b"return redis.error_reply('MY OWN')", b"0"],
            [b"EXEC"],
        ],
    ),
]


def counts(target: EngineTarget | SocketTarget, commands: set[str]) -> list[str]:
    """What is counted of errors by code, and of some commands."""
    (errors,), (stats,) = (
        target.run([[b"INFO", section]]) for section in (b"errorstats", b"commandstats")
    )
    found = [line for line in errors.decode().split() if line.startswith("errorstat_")]
    for line in stats.decode().split():
        name, _, values = line.removeprefix("cmdstat_").partition(":")
        if name in commands:
            found.append(name + ":" + ",".join(v for v in values.split(",") if "usec" not in v))
    return sorted(found)


@pytest.mark.parametrize(("called", "requests"), ERRING)
def test_errors_of_scripts_are_counted_as_redis_does(
    redis_target: SocketTarget, called: str, requests: list[Request]
) -> None:
    told = []
    for target in (EngineTarget(), redis_target):
        target.begin(2, 1_700_000_000_000)
        target.run([*BEFORE, [b"FLUSHALL"], [b"CONFIG", b"RESETSTAT"]])
        replies = target.run(requests)
        told.append((replies, counts(target, {"eval", "eval_ro", called})))
    assert told[0] == told[1]
