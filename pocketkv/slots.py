"""Key to slot, as Redis Cluster does it, so that any cluster-mode client computes the same.

A key's slot is CRC16/XMODEM of its hash tag, modulo 16384. The hash tag is what stands between
the first ``{`` and the first ``}`` after it, if anything does; otherwise it is the whole key.
"""

from __future__ import annotations

from pocketkv.crc16 import crc16

SLOT_COUNT = 16384
"""Number of slots; fixed by the protocol of cluster-mode clients."""

_SLOT_MASK = SLOT_COUNT - 1


def hash_tag(key: bytes) -> bytes:
    """Return the part of `key` that decides its slot; keys with the same tag share a slot."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        # Nothing between the braces means no tag, or all keys with `{}` would share a slot.
        if closing > opening + 1:
            return key[opening + 1 : closing]
    return key


def key_slot(key: bytes) -> int:
    """Return the slot of `key`, 0 to `SLOT_COUNT` - 1."""
    # Most keys have no tag: this test costs less than a call that would find none.
    return crc16(hash_tag(key) if b"{" in key else key) & _SLOT_MASK
