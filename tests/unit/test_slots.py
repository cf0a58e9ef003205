from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.slots import SLOT_COUNT, hash_tag, key_slot

braces = st.lists(st.sampled_from([b"{", b"}", b"a", b"bc"])).map(b"".join)
keys = st.binary(max_size=40) | braces


def crc16_xmodem(data: bytes) -> int:
    """Bit by bit, from the definition: polynomial 0x1021, from 0, nothing reflected."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
            crc &= 0xFFFF
    return crc


@given(keys)
def test_the_slot_is_crc16_of_the_tag(key: bytes) -> None:
    assert key_slot(key) == crc16_xmodem(hash_tag(key)) % SLOT_COUNT


@given(keys)
def test_the_tag_is_what_the_first_braces_hold(key: bytes) -> None:
    _, opening, rest = key.partition(b"{")
    tag, closing, _ = rest.partition(b"}")
    assert hash_tag(key) == (tag if opening and closing and tag else key)


@given(st.binary(min_size=1).filter(lambda tag: b"}" not in tag), st.binary(), st.binary())
def test_keys_of_one_tag_share_a_slot(tag: bytes, before: bytes, after: bytes) -> None:
    key = before.replace(b"{", b"") + b"{" + tag + b"}" + after
    assert hash_tag(key) == tag
    assert key_slot(key) == key_slot(b"{" + tag + b"}")


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # What redis-server 7 answers to CLUSTER KEYSLOT.
        (b"", 0),
        (b"123456789", 12739),
        (b"foo", 12182),
        (b"{user1000}.following", 3443),
        (b"{user1000}.followers", 3443),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
        (b"foo{bar}{zap}", 5061),
    ],
)
def test_known_slots(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot
