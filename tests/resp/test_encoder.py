"""What is sent for each kind of reply, and how what was not sent yet is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.resp.encoder import Outbox, encode_reply, encode_request, format_double
from pocketkv.resp.replies import (
    NO_REPLY,
    NULL_ARRAY,
    OK,
    PENDING,
    PONG,
    QUEUED,
    Deferred,
    Encoded,
    ErrorReply,
    Marker,
    Push,
    Reply,
    SetReply,
    Simple,
    Verbatim,
)

LARGE = bytes(range(256)) * (limits.SHARED_REPLY_BYTES // 256)
MISSING = object()


def decoded(raw: bytes) -> Any:
    """What a client makes of one reply; an error is given as its text."""
    reader = hiredis.Reader(notEnoughData=MISSING)
    reader.feed(raw)
    reply = reader.gets()
    assert reply is not MISSING, raw
    assert reader.gets() is MISSING, raw
    return str(reply) if isinstance(reply, hiredis.ReplyError) else reply


@dataclass
class Case:
    reply: Any
    resp2: bytes
    resp3: bytes
    value2: Any
    value3: Any


def same(reply: Reply, raw: bytes, value: Any) -> Case:
    """A reply that is the same in both versions."""
    return Case(reply, raw, raw, value, value)


CASES = [
    Case(None, b"$-1\r\n", b"_\r\n", None, None),
    Case(NULL_ARRAY, b"*-1\r\n", b"_\r\n", None, None),
    same(b"", b"$0\r\n\r\n", b""),
    same(b"a\r\nb", b"$4\r\na\r\nb\r\n", b"a\r\nb"),
    same(bytearray(b"abc"), b"$3\r\nabc\r\n", b"abc"),
    same(LARGE, b"$16384\r\n" + LARGE + b"\r\n", LARGE),
    same(bytearray(LARGE), b"$16384\r\n" + LARGE + b"\r\n", LARGE),
    same(0, b":0\r\n", 0),
    same(-(2**63), b":-9223372036854775808\r\n", -(2**63)),
    same(2**63 - 1, b":9223372036854775807\r\n", 2**63 - 1),
    Case(True, b":1\r\n", b"#t\r\n", 1, True),
    Case(False, b":0\r\n", b"#f\r\n", 0, False),
    Case(1.0, b"$1\r\n1\r\n", b",1\r\n", b"1", 1.0),
    Case(-0.5, b"$4\r\n-0.5\r\n", b",-0.5\r\n", b"-0.5", -0.5),
    Case(math.inf, b"$3\r\ninf\r\n", b",inf\r\n", b"inf", math.inf),
    Case(-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n", b"-inf", -math.inf),
    same(OK, b"+OK\r\n", b"OK"),
    same(PONG, b"+PONG\r\n", b"PONG"),
    same(QUEUED, b"+QUEUED\r\n", b"QUEUED"),
    same(Simple(b""), b"+\r\n", b""),
    same(ErrorReply(b"ERR no"), b"-ERR no\r\n", "ERR no"),
    same(ErrorReply(b"ERR a\r\n+OK\n"), b"-ERR a  +OK \r\n", "ERR a  +OK "),
    same([], b"*0\r\n", []),
    same([1, [b"a", [OK]]], b"*2\r\n:1\r\n*2\r\n$1\r\na\r\n*1\r\n+OK\r\n", [1, [b"a", [b"OK"]]]),
    same((1, b"a"), b"*2\r\n:1\r\n$1\r\na\r\n", [1, b"a"]),
    Case([None, True], b"*2\r\n$-1\r\n:1\r\n", b"*2\r\n_\r\n#t\r\n", [None, 1], [None, True]),
    Case({}, b"*0\r\n", b"%0\r\n", [], {}),
    Case({b"a": 1, b"b": [2]}, b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:2\r\n",
         b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:2\r\n",
         [b"a", 1, b"b", [2]], {b"a": 1, b"b": [2]}),
    Case({1: b"x"}, b"*2\r\n:1\r\n$1\r\nx\r\n", b"%1\r\n:1\r\n$1\r\nx\r\n", [1, b"x"], {1: b"x"}),
    Case({b"a"}, b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n", [b"a"], [b"a"]),
    Case(frozenset([b"a"]), b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n", [b"a"], [b"a"]),
    Case(SetReply([b"b", b"a"]), b"*2\r\n$1\r\nb\r\n$1\r\na\r\n", b"~2\r\n$1\r\nb\r\n$1\r\na\r\n",
         [b"b", b"a"], [b"b", b"a"]),
    Case(SetReply([]), b"*0\r\n", b"~0\r\n", [], []),
    Case(Verbatim(b"two\r\nlines"), b"$10\r\ntwo\r\nlines\r\n", b"=14\r\ntxt:two\r\nlines\r\n",
         b"two\r\nlines", b"two\r\nlines"),
    Case(Verbatim(LARGE, b"mkd"), b"$16384\r\n" + LARGE + b"\r\n",
         b"=16388\r\nmkd:" + LARGE + b"\r\n", LARGE, LARGE),
    Case(Push([b"invalidate", [b"k"]]), b"*2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
         b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
         [b"invalidate", [b"k"]], [b"invalidate", [b"k"]]),
    same(Encoded(b":7\r\n"), b":7\r\n", 7),
    same([Encoded(b":7\r\n"), 8], b"*2\r\n:7\r\n:8\r\n", [7, 8]),
]  # fmt: skip


def describe(case: Case) -> str:
    return repr(case.reply)[:40]


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_resp2(case: Case) -> None:
    raw = encode_reply(case.reply, 2)
    assert raw == case.resp2
    assert decoded(raw) == case.value2


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_resp3(case: Case) -> None:
    raw = encode_reply(case.reply, 3)
    assert raw == case.resp3
    value = decoded(raw)
    assert value == case.value3
    assert type(value) is type(case.value3) or isinstance(value, hiredis.PushNotification)


def test_not_a_number() -> None:
    assert encode_reply(math.nan, 2) == b"$3\r\nnan\r\n"
    assert encode_reply(math.nan, 3) == b",nan\r\n"
    assert math.isnan(decoded(b",nan\r\n"))


@pytest.mark.parametrize("protocol", [2, 3])
def test_no_reply_is_nothing(protocol: int) -> None:
    assert encode_reply(NO_REPLY, protocol) == b""


@pytest.mark.parametrize("value", [PENDING, Deferred(), "text", object(), Marker("NO_REPLY")])
def test_what_is_no_reply_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not a reply"):
        encode_reply(value, 3)


@given(st.floats(allow_nan=False))
def test_a_double_is_read_back_as_it_was(number: float) -> None:
    assert float(format_double(number)) == number
    assert decoded(encode_reply(number, 3)) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, b"3"),
        (0.1, b"0.10000000000000001"),
        (1e21, b"1e+21"),
        (1e-7, b"9.9999999999999995e-08"),
        (-0.0, b"-0"),
        (123456789.25, b"123456789.25"),
    ],
)
def test_a_double_is_printed_as_redis_prints_it(number: float, text: bytes) -> None:
    assert format_double(number) == text


# --- any reply ---------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.integers(limits.SHARED_REPLY_BYTES - 2, limits.SHARED_REPLY_BYTES + 2).map(bytes),
)
REPLIES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.binary(max_size=5), inner, max_size=4),
        st.lists(st.binary(max_size=5), unique=True, max_size=5).map(SetReply),
    ),
    max_leaves=15,
).filter(lambda reply: depth(reply) < 7)


def depth(reply: Any) -> int:
    if isinstance(reply, list):
        return 1 + max(map(depth, reply), default=0)
    if isinstance(reply, dict):
        return 1 + max(map(depth, reply.values()), default=0)
    return 0


def as_decoded(reply: Any, protocol: int) -> Any:
    """What a client should make of a reply."""
    if isinstance(reply, list):
        return [as_decoded(item, protocol) for item in reply]
    if isinstance(reply, SetReply):
        return reply.members
    if isinstance(reply, dict):
        items = {key: as_decoded(value, protocol) for key, value in reply.items()}
        return items if protocol == 3 else [part for item in items.items() for part in item]
    if protocol == 2 and isinstance(reply, bool):
        return int(reply)
    if protocol == 2 and isinstance(reply, float):
        return format_double(reply)
    return reply


@given(REPLIES, st.sampled_from([2, 3]))
def test_a_client_understands_any_reply(reply: Any, protocol: int) -> None:
    assert decoded(encode_reply(reply, protocol)) == as_decoded(reply, protocol)


@pytest.mark.parametrize("reply", [[bytes(20_000)] * 200, bytes(10 * limits.MIB)])
def test_a_large_reply_is_encoded_whole(reply: Any) -> None:
    assert decoded(encode_reply(reply, 3)) == reply


def test_a_request_is_an_array_of_bulks() -> None:
    assert encode_request([]) == b"*0\r\n"
    assert encode_request([b"GET", b""]) == b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"


# --- what is not sent yet ----------------------------------------------------------------------


def send(outbox: Outbox, count: int) -> bytes:
    """Take bytes off an outbox as a connection does."""
    small = outbox.take_small()
    if small is not None:
        if count < len(small):
            outbox.give_back(small[count:])
        return small[:count]
    views = outbox.pieces()
    assert len(views) <= limits.SEND_PIECES_MAX
    taken = b"".join(views)[:count]
    outbox.sent(len(taken))
    return taken


PARTS = st.one_of(
    st.binary(max_size=30),
    st.integers(limits.SHARED_REPLY_BYTES - 1, limits.SHARED_REPLY_BYTES + 1).map(
        lambda size: bytes([size % 251]) * size
    ),
)
# A part that is written, or a number of bytes that are sent.
STEPS = st.lists(st.one_of(PARTS, st.integers(1, 40_000)), max_size=30)


@given(STEPS)
def test_everything_is_sent_once_and_in_order(steps: list[bytes | int]) -> None:
    outbox = Outbox()
    written, sent = b"", b""
    for step in steps:
        if isinstance(step, int):
            if outbox.pending_bytes:
                sent += send(outbox, step)
        else:
            outbox.write(step)
            written += step
        assert outbox.pending_bytes == len(written) - len(sent)
    while outbox.pending_bytes:
        sent += send(outbox, 10_000)
    assert sent == written


def test_small_replies_are_one_buffer() -> None:
    outbox = Outbox()
    for _ in range(1000):
        outbox.encode(OK)
    small = outbox.take_small()
    assert small is not None
    assert small == b"+OK\r\n" * 1000


def test_large_values_are_not_copied() -> None:
    outbox = Outbox()
    value = bytes(50_000)
    outbox.encode([1, value, value])
    assert outbox.take_small() is None
    shared = [view for view in outbox.pieces() if view.obj is value]
    assert [len(view) for view in shared] == [50_000, 50_000]


def test_a_value_that_may_change_is_copied() -> None:
    outbox = Outbox()
    value = bytearray(b"a" * 50_000)
    outbox.encode(value)
    value[:] = b"b" * 60_000
    assert b"".join(outbox.pieces()) == b"$50000\r\n" + b"a" * 50_000 + b"\r\n"


def test_a_half_sent_value_goes_on_where_it_stopped() -> None:
    outbox = Outbox()
    value = bytes(range(200)) * 100
    outbox.write(value)
    outbox.write(b"end")
    assert send(outbox, 7) == value[:7]
    assert send(outbox, 7) == value[7:14]
    assert send(outbox, 10**6) == value[14:] + b"end"
    outbox.write(b"more")
    assert send(outbox, 10) == b"more"


def test_what_is_sent_in_one_call_is_bounded() -> None:
    outbox = Outbox()
    value = bytes(range(200)) * 50_000
    outbox.write(value)
    outbox.write(value)
    sent = b""
    while outbox.pending_bytes:
        piece = send(outbox, 10**9)
        assert len(piece) <= limits.SEND_BYTES_PER_TURN
        sent += piece
    assert sent == value * 2


def test_many_large_values_are_sent_some_at_a_time() -> None:
    outbox = Outbox()
    for _ in range(200):
        outbox.write(bytes(limits.SHARED_REPLY_BYTES))
    assert len(outbox.pieces()) == limits.SEND_PIECES_MAX
    sent_bytes = 0
    while outbox.pending_bytes:
        sent_bytes += len(send(outbox, 10**9))
    assert sent_bytes == 200 * limits.SHARED_REPLY_BYTES


# --- replies that come later -------------------------------------------------------------------


def test_the_first_completion_counts() -> None:
    heard = []
    deferred = Deferred()
    deferred.listen(lambda: heard.append(deferred.reply))
    assert not deferred.done
    deferred.complete(1)
    deferred.complete(2)
    assert (deferred.done, deferred.reply, heard) == (True, 1, [1])


def test_a_listener_of_a_known_reply_hears_at_once() -> None:
    heard = []
    deferred = Deferred()
    deferred.complete(None)
    deferred.listen(lambda: heard.append(deferred.reply))
    assert heard == [None]


def test_nobody_is_told_of_a_reply_that_was_abandoned() -> None:
    heard: list[str] = []
    deferred = Deferred(on_abandon=lambda: heard.append("abandoned"))
    deferred.listen(lambda: heard.append("known"))
    deferred.abandon()
    deferred.complete(1)
    assert heard == ["abandoned"]


def test_a_known_reply_is_not_abandoned() -> None:
    heard: list[str] = []
    deferred = Deferred(on_abandon=lambda: heard.append("abandoned"))
    deferred.complete(1)
    deferred.abandon()
    assert heard == []
