"""Moves step by step, with commands between any two steps: nothing is lost or comes back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.resp.errors import PeerError
from pocketkv.slots import key_slot
from pocketkv.tiers.carrying import Failed
from tests.engine.harness import BLOCKED
from tests.engine.stores import MemoryStore
from tests.replies import Error
from tests.tiers.moves.pair import JOB, Pair, contents, make_engine

LARGE = bytes(range(256)) * 400
KEYS = [
    *(b"a", b"b", b"{a}2", b"c", b"set", b"{set}2", b"list", b"large", b"{large}2"),
    b"stream",
]

key = st.sampled_from(KEYS)
member = st.integers(0, 30).map(lambda n: b"member-%d" % n if n % 3 else b"%d" % n)
command = st.one_of(
    st.tuples(st.just("SET"), key, st.binary(max_size=40)),
    st.tuples(st.just("SET"), key, st.just("LARGE")),
    st.tuples(st.just("SET"), key, st.binary(max_size=4), st.just("PX"), st.integers(1, 5000)),
    st.tuples(st.just("APPEND"), key, st.binary(max_size=4000)),
    st.tuples(st.just("SETRANGE"), key, st.integers(0, 120_000), st.binary(max_size=400)),
    st.tuples(st.just("SADD"), key, member, member),
    st.tuples(st.just("SREM"), key, member),
    st.tuples(st.just("SPOP"), key),
    st.tuples(st.sampled_from(["LPUSH", "RPUSH"]), key, member, member),
    # So much that it is sent in parts.
    st.tuples(st.just("RPUSH"), st.just(b"list"), *[st.just("LARGE")] * 3),
    st.tuples(st.sampled_from(["LPOP", "RPOP"]), key),
    st.tuples(st.just("LSET"), key, st.integers(-5, 5), member),
    st.tuples(st.just("LINSERT"), key, st.just("BEFORE"), member, member),
    st.tuples(st.just("LREM"), key, st.integers(-1, 1), member),
    st.tuples(st.just("LTRIM"), key, st.integers(0, 2), st.integers(-3, -1)),
    st.tuples(st.just("XADD"), st.just(b"stream"), st.just("*"), st.just("f"), member),
    st.tuples(st.just("XADD"), key, st.just("MAXLEN"), st.just(3), st.just("*"), member, member),
    st.tuples(st.just("XGROUP"), st.just("CREATE"), st.just(b"stream"), st.just("g"), st.just(0)),
    st.tuples(
        *map(st.just, ("XREADGROUP", "GROUP", "g", "c", "STREAMS", b"stream", ">")),
    ),
    st.tuples(*map(st.just, ("XAUTOCLAIM", b"stream", "g", "d", 0, 0, "COUNT", 2))),
    st.tuples(st.just("DEL"), key, key),
    st.tuples(st.just("RENAME"), st.just(b"a"), st.just(b"{a}2")),
    st.tuples(st.just("RENAME"), st.just(b"set"), st.just(b"{set}2")),
    st.tuples(st.just("COPY"), st.just(b"large"), st.just(b"{large}2"), st.just("REPLACE")),
    st.tuples(st.just("SMOVE"), st.just(b"set"), st.just(b"{set}2"), member),
    st.tuples(st.just("PEXPIRE"), key, st.integers(-5, 5000)),
    st.tuples(st.just("PERSIST"), key),
    st.tuples(st.just("FLUSHALL")),
    st.tuples(st.just("FLUSHDB")),
    st.tuples(st.just("SELECT"), st.integers(0, 2)),
    st.tuples(st.just("advance"), st.integers(1, 3000)),
    st.tuples(st.just("expire")),
)
commands = st.lists(command, max_size=25)


class Actor:
    """Sends commands to a pair of servers and to one server that knows no moves."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.model = make_engine()
        self.reference = self.model.connect()
        self.reference.session.enter_job(JOB)
        self.reference.session.space.own_everything()

    def __call__(self, request: tuple[Any, ...]) -> None:
        # Spelled out, it would fill the report of a failure.
        request = tuple(LARGE if argument == "LARGE" else argument for argument in request)
        engines = (self.pair.source, self.pair.target, self.model)
        if request[0] == "advance":
            for engine in engines:
                engine.advance(request[1])
        elif request[0] == "expire":
            for engine in engines:
                engine.keyspace.expire_some()
        elif request[0] == "SPOP":
            # Random draws differ: take what the reference has drawn.
            drawn = self.reference(*request)
            if isinstance(drawn, bytes):
                assert self.pair.client("SREM", request[1], drawn) == 1
        else:
            expected = self.reference(*request)
            found = self.pair.client(*request)
            assert str(found) == str(expected), request


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=commands, during=commands)
def test_what_arrives_is_what_clients_made(
    monkeypatch: pytest.MonkeyPatch, before: list[Any], during: list[Any]
) -> None:
    pair = Pair()
    actor = Actor(pair)
    for request in before:
        actor(request)
    left = list(during)

    def step() -> None:
        # Nothing is sent by clients while their commands are held.
        if left and not pair.client.session.space.holds:
            actor(left.pop(0))

    pair.on_step = step
    pair.on_post = lambda arguments: step() if arguments[0] != "POCKETKV.TAKE" else None
    pair.run(monkeypatch)
    assert pair.flipped
    pair.empty()
    assert contents(pair.target.node) == contents(actor.model.node)
    assert contents(pair.source.node) == {}
    pair.validate()
    assert pair.source.space.used_bytes == 0
    assert pair.client.session.space.used_bytes == 0


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=commands, during=commands, cut_at=st.integers(0, 12))
def test_a_move_that_breaks_off_leaves_the_source_as_it_was(
    monkeypatch: pytest.MonkeyPatch, before: list[Any], during: list[Any], cut_at: int
) -> None:
    pair = Pair()
    actor = Actor(pair)
    for request in before:
        actor(request)
    left = list(during)
    posts = 0

    def post(arguments: list[Any]) -> None:
        nonlocal posts
        posts += 1
        if left and not pair.client.session.space.holds:
            actor(left.pop(0))
        if posts > cut_at:
            pair.lines[0].is_cut = True

    pair.on_post = post
    try:
        pair.run(monkeypatch)
    except (PeerError, Failed):
        assert not pair.flipped
    pair.empty()
    holder = pair.target if pair.flipped else pair.source
    nobody = pair.source if pair.flipped else pair.target
    assert contents(holder.node) == contents(actor.model.node)
    assert contents(nobody.node) == {}
    pair.validate()
    assert not pair.client.session.space.holds
    assert pair.client.session.space.observer is None
    assert (
        holder.keyspace.open(JOB).databases[0].visible
        == len([place for place in contents(actor.model.node) if place[0] == 0])
        or holder.clock.now_ms > 0
    )


def test_commands_are_held_in_order_and_answered_by_the_flip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    pair.client("SET", "a", 1)
    others = [pair.connect(pair.source) for _ in range(4)]
    gone = pair.connect(pair.source)

    def post(arguments: list[Any]) -> None:
        if arguments[0] == "POCKETKV.TAKE":
            assert others[0]("GET", "a") is BLOCKED
            assert others[1]("DBSIZE") is BLOCKED
            assert others[2]("FLUSHALL") is BLOCKED
            assert others[3]("CLUSTER", "COUNTKEYSINSLOT", key_slot(b"a")) is BLOCKED
            assert gone("SET", "a", 2) is BLOCKED
            gone.disconnect()

    pair.on_post = post
    pair.run(monkeypatch)
    assert others[0].result() == Error(f"MOVED {key_slot(b'a')} 127.0.0.1:7001")
    assert others[1].result() == 0
    assert others[2].result() == "OK"
    assert others[3].result() == Error(f"MOVED {key_slot(b'a')} 127.0.0.1:7001")
    pair.empty()
    assert pair.other("GET", "a") == b"1"
    assert pair.holds.count == 1


def test_held_commands_are_executed_when_the_target_has_not_taken_the_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    pair.client("SET", "a", 1)
    other = pair.connect(pair.source)

    def post(arguments: list[Any]) -> None:
        if arguments[0] == "POCKETKV.TAKE":
            assert other("INCR", "a") is BLOCKED
            pair.lines[0].is_cut = True

    pair.on_post = post
    with pytest.raises(Failed, match="has not taken"):
        pair.run(monkeypatch)
    assert other.result() == 2
    # What was said to be refused stays so, however late the request comes.
    assert pair.new_line().target("POCKETKV.TAKE", pair.move.id).text.startswith("NOMOVE")
    assert pair.new_line().target("POCKETKV.MOVE", pair.move.id).text.startswith("REFUSED")


def test_an_answer_that_was_lost_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client("SET", "a", 1)

    def post(arguments: list[Any]) -> None:
        if arguments[0] == "POCKETKV.TAKE":
            line = pair.lines[0]
            assert line.target("POCKETKV.TAKE", pair.move.id) == "OK"
            line.is_cut = True

    pair.on_post = post
    pair.run(monkeypatch)
    assert len(pair.flipped) == 1
    assert pair.other("GET", "a") == b"1"


def test_what_is_on_its_way_in_is_seen_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    for n in range(300):
        pair.client("SET", f"key-{n}", n, "EX", 100)
    seen = 0

    def post(arguments: list[Any]) -> None:
        nonlocal seen
        if arguments[0] == "POCKETKV.TAKE":
            seen = pair.other.db.size
            assert pair.other("DBSIZE") == 0
            assert pair.other("KEYS", "*") == []
            assert pair.other("SCAN", 0) == [b"0", []]
            assert pair.other("RANDOMKEY") is None
            assert b"db0" not in pair.other("INFO", "keyspace")
            assert pair.other("GET", "key-1").text.startswith("MOVED")

    pair.on_post = post
    pair.run(monkeypatch)
    assert seen == 300
    assert pair.other("DBSIZE") == 300


def test_a_target_that_is_flushed_has_everything_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    pair.client("SET", "a", 1)
    flushed = False

    def post(arguments: list[Any]) -> None:
        nonlocal flushed
        if arguments[0] == "POCKETKV.TAKE" and not flushed:
            flushed = True
            assert pair.other("FLUSHALL") == "OK"

    pair.on_post = post
    pair.run(monkeypatch)
    assert flushed
    assert pair.other("GET", "a") == b"1"
    pair.validate()


def test_a_target_without_room_refuses_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(target=make_engine(memory_bytes=100_000))
    for n in range(100):
        pair.client("SET", f"key-{n}", bytes(2000))
    with pytest.raises(Failed) as failure:
        pair.run(monkeypatch)
    assert failure.value.code == "OOM"
    assert pair.client("DBSIZE") == 100


def test_a_quota_does_not_refuse_what_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client("SET", "large", LARGE)
    pair.client("SET", "small", bytes(2000))
    pair.other.session.space.quota_bytes = 1000
    pair.run(monkeypatch)
    assert pair.other("STRLEN", "large") == len(LARGE)


@pytest.mark.parametrize("target_is_file", [False, True])
@pytest.mark.parametrize("source_is_file", [False, True])
def test_media_may_differ(
    monkeypatch: pytest.MonkeyPatch, source_is_file: bool, target_is_file: bool
) -> None:
    source, target = (
        make_engine(store=MemoryStore()) if is_file else make_engine()
        for is_file in (source_is_file, target_is_file)
    )
    pair = Pair(source, target)
    pair.client("SET", "small", "value")
    pair.client("SET", "large", LARGE)
    pair.client("SADD", "set", *range(2000))
    pair.client("SADD", "set", *(b"%060d" % n for n in range(2000)))
    pair.client("SET", "expires", 1, "EX", 100)
    before = contents(pair.source.node)
    pair.run(monkeypatch)
    pair.empty()
    assert contents(pair.target.node) == before
    pair.validate()


def test_a_hot_collection_is_sent_as_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client("SADD", "set", *(b"%060d" % n for n in range(5000)))
    sent: list[int] = []
    number = 0

    def step() -> None:
        nonlocal number
        if number < 500 and not pair.client.session.space.holds:
            number += 1
            pair.client("SADD", "set", b"new-%d" % number)
            pair.client("SREM", "set", b"%060d" % number)

    pair.on_step = step
    pair.on_post = lambda arguments: sent.append(
        sum(len(a) for a in arguments if isinstance(a, bytes))
    )
    before = 5000 * 60
    pair.run(monkeypatch)
    assert pair.other("SCARD", "set") == 5000
    assert pair.other("SISMEMBER", "set", b"new-%d" % number) == 1
    assert pair.other("SISMEMBER", "set", b"%060d" % number) == 0
    assert sum(sent) < 2 * before
    value = pair.other.db.lookup(b"set")
    assert value is not None
    assert value.changes is None  # type: ignore[union-attr]


def test_a_hot_queue_is_sent_as_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    items = [b"%060d" % n for n in range(5000)]
    pair.client("RPUSH", "queue", *items)
    sent: list[int] = []

    def step() -> None:
        if len(sent) < 200 and not pair.client.session.space.holds:
            items.append(b"new-%d" % len(items))
            pair.client("RPUSH", "queue", items[-1])
            assert pair.client("LPOP", "queue") == items.pop(0)
            pair.client("LSET", "queue", 2500, b"set-%d" % len(sent))
            items[2500] = b"set-%d" % len(sent)

    def post(arguments: list[Any]) -> None:
        sent.append(sum(len(a) for a in arguments if isinstance(a, bytes)))
        step()

    pair.on_step = step
    pair.on_post = post
    pair.run(monkeypatch)
    assert pair.other("LRANGE", "queue", 0, -1) == items
    assert sum(sent) < 2 * 5000 * 60


def test_who_waits_is_sent_on_when_the_slots_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    first, second, gone = (pair.connect(pair.source) for _ in range(3))
    assert first("BLPOP", "a", "{a}2", 0) is BLOCKED
    assert second("BLMOVE", "b", "b", "LEFT", "LEFT", 0) is BLOCKED
    assert gone("BLPOP", "a", 0) is BLOCKED
    pushing = pair.connect(pair.source)

    def post(arguments: list[Any]) -> None:
        if arguments[0] == "POCKETKV.TAKE":
            gone.disconnect()
            # It is held, and then it is the other server's to do.
            assert pushing("RPUSH", "a", "x") is BLOCKED

    pair.on_post = post
    pair.run(monkeypatch)
    for client, key in ((first, b"a"), (second, b"b"), (pushing, b"a")):
        assert client.result() == Error(f"MOVED {key_slot(key)} 127.0.0.1:7001")
    assert pair.source.node.blocked_clients == 0
    assert pair.client.session.space.observer is None


def test_marks_and_databases_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client("SELECT", 3)
    pair.client("SET", "a", 1)
    pair.client.db.mark(b"a")
    pair.run(monkeypatch)
    assert contents(pair.target.node) == {(3, b"a"): ("string", b"1", None, True)}


def test_only_the_range_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = key_slot(b"a")
    pair = Pair(start=slot, end=slot)
    pair.client("MSET", "a", 1, "b", 2)
    pair.run(monkeypatch)
    pair.empty()
    assert pair.client("DBSIZE") == pair.other("DBSIZE") == 1
    assert pair.client("GET", "b") == b"2"
    assert pair.other("GET", "a") == b"1"


def test_a_job_s_scripts_come_with_its_first_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    first = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
    second = "#!lua name=lib\nredis.register_function('f', function() return 2 end)"
    pair.client("FUNCTION", "LOAD", first)
    sha = pair.client("SCRIPT", "LOAD", "return 'loaded'")
    pair.client("SET", "a", 1)
    copied = False

    def post(arguments: list[Any]) -> None:
        nonlocal copied
        if arguments[0] == "POCKETKV.COPY" and not copied:
            # What is loaded meanwhile comes too.
            copied = True
            assert pair.client("FUNCTION", "LOAD", "REPLACE", second) == b"lib"

    pair.on_post = post
    pair.run(monkeypatch)
    assert copied
    assert pair.other("FCALL", "f", 0) == 2
    assert pair.other("EVALSHA", sha, 0) == b"loaded"


def test_a_move_waits_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    node = pair.source.node
    monkeypatch.setattr(limits, "SCRIPT_SLICE_NS", 0)
    pair.client("SET", "a", 1)
    script = "for i = 1, 100000 do end return redis.call('INCR', 'a')"
    assert pair.client("EVAL", script, 1, "a") is BLOCKED

    async def sleep(_: float) -> None:
        assert not pair.client.session.space.holds
        pair.source.advance(1)

    monkeypatch.setattr("pocketkv.tiers.carrying.trio.sleep", sleep)
    pair.run(monkeypatch)
    assert pair.client.result() == 2
    assert not node.long_runs
    assert pair.other("GET", "a") == b"2"
