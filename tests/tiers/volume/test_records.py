from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.records import (
    BODY_STRUCT,
    LOW_HALF,
    MAGIC,
    PREFIX,
    SEGMENT_HEADER_BYTES,
    Header,
    payload_of,
    read_header,
    record_bytes,
    seed_of,
    segment_header,
)

KEYS = st.binary(max_size=30)
PAYLOADS = st.binary(max_size=200)
SEEDS = st.integers(0, 2**63 - 1)


def record(key: bytes, payload: bytes, seed: int, *, kind: int = 1, due_ms: int = 0) -> bytes:
    """The format, written down a second time."""
    body = BODY_STRUCT.pack(kind, 0, 3, len(key), len(payload), checksum(payload), due_ms) + key
    whole = PREFIX.pack(MAGIC, checksum(body, seed) & LOW_HALF) + body + payload
    return whole + b"\0" * (-len(whole) % 8)


@given(KEYS, PAYLOADS, SEEDS, st.integers(-(2**63), 2**63 - 1))
def test_a_record_comes_back(key: bytes, payload: bytes, seed: int, due_ms: int) -> None:
    written = record(key, payload, seed, due_ms=due_ms)
    assert len(written) == record_bytes(len(key), len(payload))
    header = Header(1, 3, key, len(payload), checksum(payload), due_ms)
    assert read_header(written, 0, seed) == header
    assert header.record_bytes == len(written)
    assert payload_of(written, seed, len(payload)) == payload


@given(KEYS, PAYLOADS, SEEDS, st.data())
def test_every_flipped_bit_is_found(
    key: bytes, payload: bytes, seed: int, data: st.DataObject
) -> None:
    written = record(key, payload, seed)
    used = 36 + len(key) + len(payload)
    at = data.draw(st.integers(0, used * 8 - 1))
    damaged = bytearray(written)
    damaged[at // 8] ^= 1 << at % 8
    assert payload_of(damaged, seed, len(payload)) is None
    # A damaged payload keeps its key; anything else is no record.
    if at // 8 >= 36 + len(key):
        assert isinstance(read_header(bytes(damaged), 0, seed), Header)
    else:
        assert not isinstance(read_header(bytes(damaged), 0, seed), Header)


@given(KEYS, PAYLOADS, SEEDS, st.data())
def test_a_part_tells_how_much_more_it_needs(
    key: bytes, payload: bytes, seed: int, data: st.DataObject
) -> None:
    written = record(key, payload, seed)
    there = data.draw(st.integers(0, 35 + len(key)))
    needed = read_header(written[:there], 0, seed)
    assert needed == (36 if there < 36 else 36 + len(key))


def test_a_record_read_from_a_wrong_place_is_none() -> None:
    written = record(b"key", b"value", 1000)
    assert payload_of(written, 1008, 5) is None
    assert read_header(written, 0, 1008) == 0


def test_a_segment_tells_its_seed() -> None:
    head = segment_header(7, 12345)
    assert len(head) == SEGMENT_HEADER_BYTES
    assert seed_of(head, 7) == 12345
    assert seed_of(head, 8) is None
    assert seed_of(head[:-1], 7) is None
    for at in range(len(head)):
        damaged = bytearray(head)
        damaged[at] ^= 4
        assert seed_of(bytes(damaged), 7) is None
