"""What is dumped here is restored by a real redis-server, and the other way round.

The same commands make a value on both; then each restores what the other one dumped. That the
values are equal, Redis's own digest says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketkv.engine.rdb.crc64 import crc64
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Engine
from tests.oracle.examples import EXAMPLES
from tests.oracle.generate import Request
from tests.oracle.targets import EngineTarget, SocketTarget
from tests.replies import Error, decode

Requests = list[Request]

integers = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-200, 200), st.integers(-40_000, 40_000)
).map(lambda number: b"%d" % number)
short_texts = st.one_of(
    integers,
    st.binary(max_size=30),
    st.sampled_from([b"", b"a" * 20, b"a" * 21, b"b" * 63, b"b" * 64, b"b" * 65, b"007", b"-0"]),
)
texts = st.one_of(
    short_texts,
    st.sampled_from([b"c" * 4095, b"c" * 4096, b"abc" * 4000, b"x" * 60_000]),
)
some_texts = st.one_of(
    st.lists(texts, min_size=1, max_size=20),
    # Enough of them for the form that large ones have.
    st.builds(
        lambda text, count: [b"%b:%d" % (text, i) for i in range(count)],
        st.binary(max_size=9),
        st.sampled_from([127, 128, 129, 512, 513, 700]),
    ),
)
some_integers = st.one_of(
    st.lists(integers, min_size=1, max_size=20),
    st.sampled_from([512, 513]).map(lambda count: [b"%d" % (3 * i) for i in range(count)]),
)


def strings() -> st.SearchStrategy[Requests]:
    return texts.map(lambda text: [[b"SET", b"key", text]])


def lists() -> st.SearchStrategy[Requests]:
    return some_texts.map(lambda texts: [[b"RPUSH", b"key", text] for text in texts])


def sets() -> st.SearchStrategy[Requests]:
    return st.one_of(some_texts, some_integers).map(lambda texts: [[b"SADD", b"key", *texts]])


def hashes() -> st.SearchStrategy[Requests]:
    return some_texts.map(
        lambda texts: [[b"HSET", b"key", *(part for text in texts for part in (text, text[:70]))]]
    )


scores = st.one_of(st.floats(allow_nan=False), st.integers(-5, 5)).map(lambda x: repr(x).encode())


def sorted_sets() -> st.SearchStrategy[Requests]:
    return st.tuples(some_texts, st.lists(scores, min_size=1, max_size=9)).map(
        lambda drawn: [
            [b"ZADD", b"key", drawn[1][i % len(drawn[1])], text] for i, text in enumerate(drawn[0])
        ]
    )


def fields_of(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[Request]:
    return st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
        lambda pairs: [part for pair in pairs for part in pair]
    )


# An entry must not be over the length that is compressed here (`lzf.LENGTH_MAX`).
longer_texts = st.sampled_from([b"c" * 4095, b"c" * 4096, b"abc" * 3000])
entries = st.one_of(
    st.lists(fields_of(st.one_of(short_texts, longer_texts)), min_size=1, max_size=20),
    # More than a node has.
    st.builds(
        lambda pairs, count: [pairs] * count,
        fields_of(short_texts),
        st.sampled_from([99, 100, 101, 250]),
    ),
)


@st.composite
def streams(draw: st.DrawFn) -> Requests:
    step = draw(st.sampled_from([1, 1000, 2**40]))
    drawn = draw(entries)
    requests = [
        [b"XADD", b"key", b"%d-%d" % (1 + i // 3 * step, i * step), *pairs]
        for i, pairs in enumerate(drawn)
    ]
    for group in draw(st.sets(st.sampled_from([b"g", b"other", b"%d" % 2**40]))):
        start = draw(st.sampled_from([b"0", b"$", b"1-0"]))
        requests.append([b"XGROUP", b"CREATE", b"key", group, start])
    return requests


# Whether dumps of a type agree to the byte; those of a hashtable come in no order.
TYPES: dict[str, tuple[Callable[[], st.SearchStrategy[Requests]], bool]] = {
    "string": (strings, True),
    "list": (lists, True),
    "set": (sets, False),
    "hash": (hashes, False),
    "sorted set": (sorted_sets, True),
    "stream": (streams, True),
}


@pytest.fixture(scope="module")
def engine_target() -> EngineTarget:
    return EngineTarget()


def answer(target: EngineTarget | SocketTarget, *request: bytes) -> object:
    return decode(target.run([list(request)])[0])


@pytest.mark.parametrize("name", TYPES)
@settings(
    max_examples=max(1, EXAMPLES // 3),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_dumps_are_exchanged(
    redis_target: SocketTarget, engine_target: EngineTarget, name: str, data: st.DataObject
) -> None:
    strategy, is_same = TYPES[name]
    requests = data.draw(strategy())
    for target in (engine_target, redis_target):
        target.begin(2, 1_700_000_000_000)
        for reply in target.run(requests):
            assert not isinstance(decode(reply), Error)
    ours, theirs = (answer(target, b"DUMP", b"key") for target in (engine_target, redis_target))
    assert isinstance(ours, bytes)
    assert isinstance(theirs, bytes)
    is_compact = decode(redis_target.run([[b"OBJECT", b"ENCODING", b"key"]])[0]) != b"hashtable"
    if is_same or is_compact:
        assert ours == theirs
    digests = []
    for target, dump in ((engine_target, theirs), (redis_target, ours)):
        assert answer(target, b"RESTORE", b"copy", b"0", dump) == "OK"
        assert answer(target, b"OBJECT", b"ENCODING", b"copy") == answer(
            redis_target, b"OBJECT", b"ENCODING", b"key"
        )
        digests.append(answer(target, b"DEBUG", b"DIGEST-VALUE", b"key", b"copy"))
    assert digests[0] == digests[1]
    of_key, of_copy = cast("list[str]", digests[0])
    assert of_key == of_copy


def test_deliveries_and_their_times_are_exchanged(redis_target: SocketTarget) -> None:
    engine_target = EngineTarget()
    engine_target.begin(2, 1_700_000_000_000)
    redis_target.begin(2, 0)
    requests = [[b"XADD", b"key", b"%d-1" % (i + 1), b"f", b"%d" % i] for i in range(250)]
    requests += [[b"XGROUP", b"CREATE", b"key", group, b"0"] for group in (b"a", b"b", b"empty")]
    for group, consumer, count in ((b"a", b"one", b"7"), (b"a", b"two", b"5"), (b"b", b"x", b"9")):
        requests.append(
            [b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count, b"STREAMS", b"key", b">"]
        )
    requests += [
        [b"XACK", b"key", b"a", b"2-1"],
        [b"XCLAIM", b"key", b"a", b"two", b"0", b"3-1", b"TIME", b"1234567", b"RETRYCOUNT", b"9"],
        [b"XGROUP", b"CREATECONSUMER", b"key", b"b", b"idle"],
    ]
    for reply in redis_target.run(requests):
        assert not reply.startswith(b"-"), reply
    dump = answer(redis_target, b"DUMP", b"key")
    assert isinstance(dump, bytes)
    assert answer(engine_target, b"RESTORE", b"key", b"0", dump) == "OK"
    assert answer(engine_target, b"DUMP", b"key") == dump


@pytest.mark.parametrize(
    "arguments",
    [
        [b"new", b"0", b"<dump>"],
        [b"new", b"0", b"<dump>", b"REPLACE"],
        [b"old", b"0", b"<dump>"],
        [b"old", b"0", b"<dump>", b"replace", b"ABSTTL"],
        [b"old", b"x", b"<dump>"],
        [b"new", b"x", b"<dump>"],
        [b"new", b"-1", b"<dump>"],
        [b"new", b"1000000", b"<dump>"],
        [b"new", b"1", b"<dump>", b"ABSTTL"],
        [b"old", b"1", b"<dump>", b"ABSTTL", b"REPLACE"],
        [b"new", b"9223372036854775807", b"<dump>"],
        [b"new", b"9223372036854775807", b"<dump>", b"ABSTTL"],
        [b"new", b"0", b"<dump>", b"IDLETIME", b"100"],
        [b"new", b"0", b"<dump>", b"IDLETIME", b"-1"],
        [b"new", b"0", b"<dump>", b"IDLETIME", b"x"],
        [b"new", b"0", b"<dump>", b"IDLETIME"],
        [b"new", b"0", b"<dump>", b"FREQ", b"255"],
        [b"new", b"0", b"<dump>", b"FREQ", b"256"],
        [b"new", b"0", b"<dump>", b"FREQ", b"-1"],
        [b"new", b"0", b"<dump>", b"FREQ", b"1", b"IDLETIME", b"1"],
        [b"new", b"0", b"<dump>", b"IDLETIME", b"1", b"FREQ", b"1"],
        [b"new", b"0", b"<dump>", b"nosuch"],
        [b"new", b"0", b""],
        [b"new", b"0", b"damaged"],
        [b"new", b"x", b"damaged", b"nosuch"],
        [b"new", b"0", b"<bad>"],
        [b"new", b"0", b"<unchecked>"],
        [b"new", b"0"],
    ],
)
def test_restore_answers_as_redis_does(redis_target: SocketTarget, arguments: Request) -> None:
    engine_target = EngineTarget()
    replies = []
    for target in (engine_target, redis_target):
        target.begin(2, 4_000_000_000_000)
        answer(target, b"SET", b"old", b"before")
        answer(target, b"SET", b"source", b"a value")
        dump = answer(target, b"DUMP", b"source")
        assert isinstance(dump, bytes)
        # A list without elements.
        body = b"\x01\x00" + dump[-10:-8]
        forms = {
            b"<dump>": dump,
            b"<unchecked>": dump[:-8] + bytes(8),
            b"<bad>": body + crc64(body).to_bytes(8, "little"),
        }
        request = [b"RESTORE", *(forms.get(argument, argument) for argument in arguments)]
        replies.append(
            target.run(
                [
                    request,
                    *([command, key] for command in (b"GET", b"TYPE") for key in (b"old", b"new")),
                    [b"OBJECT", b"IDLETIME", b"new"],
                    [b"DBSIZE"],
                ]
            )
        )
    assert replies[0] == replies[1]


def test_a_key_that_is_not_there_has_no_dump(redis_target: SocketTarget) -> None:
    for protocol in (2, 3):
        redis_target.begin(protocol, 0)
        client = Engine().connect(protocol=protocol)
        request = [b"DUMP", b"nosuch"]
        assert client.send(encode_request(request)) == redis_target.run([request])[0]
