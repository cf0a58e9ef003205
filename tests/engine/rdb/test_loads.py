"""Dumps are read in every form that a Redis from 2.6 to 7.2 writes; what is none is refused."""

from __future__ import annotations

import itertools
import math
import struct
from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketkv.engine.rdb import kinds
from pocketkv.engine.rdb.content import (
    ConsumerContent,
    Content,
    GroupContent,
    HashContent,
    ListContent,
    PendingEntry,
    SetContent,
    SortedSetContent,
    StreamContent,
    StreamId,
)
from pocketkv.engine.rdb.crc64 import crc64
from pocketkv.engine.rdb.dumps import (
    dump_hash,
    dump_integers,
    dump_list,
    dump_set,
    dump_sorted_set,
    dump_stream,
    dump_string,
)
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.listpack import listpack
from pocketkv.engine.rdb.loads import VERSION_MAX, is_intact, load


def free(_: int) -> None:
    """Nothing that is read is too much."""


def sealed(body: bytes, version: int = 10) -> bytes:
    body += version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def read(body: bytes) -> Content:
    payload = sealed(body)
    assert is_intact(payload)
    return load(payload, free)


def short(text: bytes) -> bytes:
    """A string of fewer than 64 bytes, or of fewer than 16384."""
    if len(text) < 64:
        return bytes((len(text),)) + text
    return bytes((0x40 | len(text) >> 8, len(text) & 0xFF)) + text


def ziplist(*entries: bytes) -> bytes:
    """A ziplist of entries that are encoded already, each but for the length of the one before."""
    body = b""
    before = last = 0
    for entry in entries:
        last = len(body)
        length = bytes((before,)) if before < 254 else b"\xfe" + before.to_bytes(4, "little")
        body += length + entry
        before = len(length) + len(entry)
    header = struct.pack("<IIH", 11 + len(body), 10 + last, len(entries))
    return header + body + b"\xff"


LONG = b"l" * 300
ENTRIES = ziplist(
    b"\x03abc",
    b"\x41\x2c" + LONG,
    b"\x80\x00\x00\x00\x02xy",
    b"\xf1",
    b"\xfd",
    b"\xfe\x80",
    b"\xc0\x00\x80",
    b"\xf0\xff\xff\x7f",
    b"\xd0\x00\x00\x00\x80",
    b"\xe0" + b"\xff" * 7 + b"\x7f",
)
TEXTS = [
    *(b"abc", LONG, b"xy", b"0", b"12", b"-128", b"-32768", b"8388607"),
    *(b"-2147483648", b"9223372036854775807"),
]


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"\0\xc0\x85", b"-123"),
        (b"\0\xc1\x39\x30", b"12345"),
        (b"\0\xc2\x00\x00\x00\x80", b"-2147483648"),
        (b"\0\xc3\x05\x41\x09\x00x\xe0\xff\x00", b"x" * 265),
        (b"\0\x80\x00\x00\x00\x02hi", b"hi"),
        (b"\0\x81\x00\x00\x00\x00\x00\x00\x00\x02hi", b"hi"),
        (b"\x01\x02\x01a\xc0\x07", ListContent([b"a", b"7"])),
        (b"\x02\x02\x01a\x01b", SetContent([b"a", b"b"])),
        (
            b"\x03\x04\x01a\x031.5\x01b\xfe\x01c\xff\x01d\x00",
            None,
        ),
        (b"\x03\x03\x01a\x031.5\x01b\xfe\x01c\xff", {b"a": 1.5, b"b": math.inf, b"c": -math.inf}),
        (b"\x04\x01\x01a\x01b", HashContent({b"a": b"b"})),
        (b"\x05\x01\x01a" + struct.pack("<d", -0.5), {b"a": -0.5}),
        (
            b"\x09" + short(b"\x02\x01a\x01\x00x\x02bc\x02\x03yz\0\0\0\xff"),
            HashContent({b"a": b"x", b"bc": b"yz"}),
        ),
        (b"\x0a" + short(ENTRIES), ListContent(TEXTS)),
        (b"\x0b" + short(b"\2\0\0\0\2\0\0\0\xff\xff\x05\0"), SetContent([b"-1", b"5"])),
        (b"\x0c" + short(ziplist(b"\x01a", b"\xf2", b"\x01b", b"\x031.5")), {b"a": 1, b"b": 1.5}),
        (b"\x0d" + short(ziplist(b"\x01a", b"\xf2")), HashContent({b"a": b"1"})),
        (b"\x0e\x02" + short(ENTRIES) + short(ziplist(b"\x01z")), ListContent([*TEXTS, b"z"])),
        (b"\x10" + short(listpack([b"a", b"1"])), HashContent({b"a": b"1"})),
        (b"\x11" + short(listpack([b"a", b"-1.5"])), {b"a": -1.5}),
        (
            b"\x12\x02\x02" + short(listpack([b"a", b"1"])) + b"\x01" + short(LONG),
            ListContent([b"a", b"1", LONG]),
        ),
        (b"\x14" + short(listpack([b"a", b"1"])), SetContent([b"a", b"1"])),
    ],
)
def test_every_form_is_read(body: bytes, content: Content | dict[bytes, float] | None) -> None:
    if content is None:
        with pytest.raises(RdbError):
            read(body)
    else:
        expected = SortedSetContent(content) if isinstance(content, dict) else content
        assert read(body) == expected


def stream_body(kind: int) -> bytes:
    """A stream as an older or a newer Redis writes it."""
    node = listpack([1, 1, 1, b"f", 0, *(3, 0, 0, b"gone", 4), *(2, 1, 2, b"v", 4)])
    body = bytes((kind, 1)) + short((5).to_bytes(8, "big") + (0).to_bytes(8, "big")) + short(node)
    body += b"\x01\x06\x02"
    if kind != kinds.OLD_STREAM:
        body += b"\x06\x02\x05\x00\x02"
    entry = (6).to_bytes(8, "big") + (2).to_bytes(8, "big")
    body += b"\x01" + short(b"group") + b"\x06\x02"
    if kind != kinds.OLD_STREAM:
        body += b"\x02"
    body += b"\x01" + entry + (1000).to_bytes(8, "little") + b"\x03"
    body += b"\x01" + short(b"consumer") + (2000).to_bytes(8, "little")
    if kind == kinds.NEWER_STREAM:
        body += (1500).to_bytes(8, "little")
    return body + b"\x01" + entry


@pytest.mark.parametrize("kind", [kinds.OLD_STREAM, kinds.STREAM, kinds.NEWER_STREAM])
def test_every_form_of_streams_is_read(kind: int) -> None:
    is_old = kind == kinds.OLD_STREAM
    active_ms = 1500 if kind == kinds.NEWER_STREAM else 2000
    last = StreamId(6, 2)
    assert read(stream_body(kind)) == StreamContent(
        entries=[(last, [b"f", b"v"])],
        last_id=last,
        max_deleted_id=StreamId(0, 0) if is_old else StreamId(5, 0),
        entries_added=1 if is_old else 2,
        groups=[
            GroupContent(
                name=b"group",
                last_id=last,
                entries_read=1 if is_old else 2,
                pending={last: PendingEntry(1000, 3)},
                consumers=[ConsumerContent(b"consumer", 2000, active_ms, [last])],
            )
        ],
    )


# --- what is none ------------------------------------------------------------------------------

SAMPLES: dict[str, bytes] = {
    "string": dump_string(b"hello"),
    "compressed": dump_string(b"hello hello hello hello hello hello"),
    "integer": dump_string(b"12345"),
    "list": dump_list([b"a", b"b" * 70, b"123", b"-5000", b"%d" % 2**62], -2),
    "set": dump_set([b"a", b"b"]),
    "hash": dump_hash([(b"a", b"b"), (b"c", b"1")], 2, compact=True),
    "hashtable": dump_hash([(b"a", b"b"), (b"c", b"1")], 2, compact=False),
    "sorted set": dump_sorted_set([(b"a", 1), (b"b", 1.5)], compact=True),
    "skiplist": dump_sorted_set([(b"a", 1), (b"b", 1.5)], compact=False),
    "ziplist": sealed(b"\x0a" + short(ENTRIES)),
    "zipmap": sealed(b"\x09" + short(b"\x02\x01a\x01\x00x\x02bc\x02\x03yz\0\0\0\xff")),
    "old sorted set": sealed(b"\x03\x03\x01a\x031.5\x01b\xfe\x01c\xff"),
    "intset": sealed(b"\x0b" + short(b"\2\0\0\0\2\0\0\0\xff\xff\x05\0")),
    "stream": sealed(stream_body(kinds.STREAM)),
    "newer stream": sealed(stream_body(kinds.NEWER_STREAM)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_dump_is_not_intact(name: str) -> None:
    payload = SAMPLES[name]
    assert is_intact(payload)
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 0x41
        assert not is_intact(bytes(damaged))
        assert not is_intact(payload[:position])


# Every bit, and all of them.
FLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 255)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_damaged_dump_with_a_right_checksum_is_refused_or_another_value(name: str) -> None:
    body = SAMPLES[name][:-10]
    made: list[int] = []
    variants: list[bytes] = [body[:size] for size in range(len(body))]
    for position, flip in itertools.product(range(len(body)), FLIPS):
        variants.append(body[:position] + bytes((body[position] ^ flip,)) + body[position + 1 :])
    for variant in variants:
        try:
            load(sealed(variant), made.append)
        except RdbError:
            continue
    # Nothing so short makes much.
    assert max(made, default=0) < 100 * len(body) + (1 << 21)


@given(st.integers(0, 22), st.binary(max_size=100))
@example(18, b"\x01\x02\xc3\x01\xbf\xff\xff")
def test_any_bytes_are_refused_or_a_value(kind: int, body: bytes) -> None:
    try:
        load(sealed(bytes((kind,)) + body), free)
    except RdbError:
        return


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x01\x00", id="an empty list"),
        pytest.param(b"\x01\x81" + b"\xff" * 8, id="more elements than bytes"),
        pytest.param(b"\x00\x81" + b"\xff" * 8, id="a string longer than all memory"),
        pytest.param(b"\x00\xc3\x01\x81" + b"\x7f" * 8 + b"a", id="expanded beyond all memory"),
        pytest.param(b"\x02\x02\x01a\x01a", id="a member twice"),
        pytest.param(b"\x04\x02\x01a\x01b\x01a\x01c", id="a field twice"),
        pytest.param(b"\x05\x01\x01a" + struct.pack("<d", math.nan), id="not a number"),
        pytest.param(b"\x0b" + short(b"\2\0\0\0\2\0\0\0\x05\0\xff\xff"), id="integers in no order"),
        pytest.param(b"\x06\x00", id="a module's type"),
        pytest.param(b"\x00\x01ab", id="more than a value"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_wrong_is_refused(body: bytes) -> None:
    with pytest.raises(RdbError):
        read(body)


def test_a_version_that_is_too_new_is_not_intact() -> None:
    assert is_intact(sealed(b"\0\x01a", VERSION_MAX))
    assert not is_intact(sealed(b"\0\x01a", VERSION_MAX + 1))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x02\x80" + (100_000).to_bytes(4, "big") + b"\0" * 100_000, id="a set"),
        pytest.param(b"\x00\xc3\x80\x00\x01\x00\x00\x80\x00\x40\x00\x00", id="compressed"),
    ],
)
def test_what_would_take_much_memory_is_asked_for_before(body: bytes) -> None:
    class TooMuchError(Exception):
        pass

    def refuse(made: int) -> None:
        raise TooMuchError

    with pytest.raises(TooMuchError):
        load(sealed(body + b"\0" * 70_000), refuse)


# --- there and back ----------------------------------------------------------------------------

texts = st.one_of(
    st.binary(max_size=30),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b"%d" % number),
    st.sampled_from([b"", b"a" * 21, b"b" * 64, b"c" * 4096, b"007", b"-0"]),
)
some_texts = st.lists(texts, min_size=1, max_size=30)
numbers = st.floats(allow_nan=False)


def there_and_back(payload: bytes) -> Content:
    assert is_intact(payload)
    return load(payload, free)


@given(texts)
def test_strings(text: bytes) -> None:
    assert there_and_back(dump_string(text)) == text


@given(some_texts, st.sampled_from([-5, -2, -1, 0, 1, 3, 128]))
def test_lists(elements: list[bytes], fill: int) -> None:
    assert there_and_back(dump_list(elements, fill)) == ListContent(elements)


@given(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_sets_of_integers(members: set[int]) -> None:
    ordered = sorted(members)
    content = SetContent([b"%d" % number for number in ordered])
    assert there_and_back(dump_integers(array("q", ordered))) == content


@given(st.sets(texts, min_size=1))
def test_sets(members: set[bytes]) -> None:
    ordered = sorted(members)
    assert there_and_back(dump_set(ordered)) == SetContent(ordered)


@pytest.mark.parametrize("compact", [False, True])
@given(st.dictionaries(texts, texts, min_size=1))
def test_hashes(compact: bool, pairs: dict[bytes, bytes]) -> None:
    payload = dump_hash(pairs.items(), len(pairs), compact=compact)
    assert there_and_back(payload) == HashContent(pairs)


@pytest.mark.parametrize("compact", [False, True])
@given(st.dictionaries(texts, numbers, min_size=1))
def test_sorted_sets(compact: bool, scores: dict[bytes, float]) -> None:
    payload = dump_sorted_set(list(scores.items()), compact=compact)
    assert there_and_back(payload) == SortedSetContent(scores)


ids = st.builds(StreamId, st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1))
fields = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda pairs: [part for pair in pairs for part in pair]
)


@given(
    st.dictionaries(ids, fields, max_size=12),
    st.sampled_from([0, 50, 4096]),
    st.sampled_from([0, 1, 100]),
)
def test_streams(
    entries: dict[StreamId, list[bytes]], node_bytes_max: int, node_entries_max: int
) -> None:
    ordered = sorted(entries.items())
    last = StreamId(2**64 - 1, 2**64 - 1)
    pending = {stream_id: PendingEntry(7, 1) for stream_id in entries}
    groups = [
        GroupContent(
            b"g", last, -1, pending, [ConsumerContent(b"c", 9, 9, [pair[0] for pair in ordered])]
        ),
        GroupContent(b"empty", StreamId(0, 0), 0),
    ]
    stream = StreamContent(ordered, last, StreamId(3, 4), 1000, groups)
    payload = dump_stream(stream, node_bytes_max=node_bytes_max, node_entries_max=node_entries_max)
    assert there_and_back(payload) == stream
