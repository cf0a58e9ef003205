"""The format of records, and of the segments that hold them. All numbers are little endian.

A segment begins with `SEGMENT_HEADER_BYTES`; records follow each other, at offsets that are
multiples of 8. A record is::

    u32 magic, u32 header checksum, u8 kind, u8 flags, u16 db, u32 key length,
    u32 payload length, u64 payload checksum, i64 due_ms, key, payload, zeros up to a multiple of 8

The header checksum covers everything from the kind to the key's end, so a damaged payload keeps
its key. It is seeded by the segment and by the record's place in it: what a client stores can
never pass for a record, and neither can a record that was read from a wrong place.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from pocketkv.engine.cold import CHANGE, CLEAR, DELETE, EXPIRE
from pocketkv.tiers.volume.checksums import checksum

MAGIC: Final = 0x31564B50
MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
LOW_HALF: Final = 0xFFFF_FFFF
HEADER_BYTES: Final = 36
# Where the part begins that an index file repeats: all but the magic and the header's checksum.
BODY: Final = 8

PREFIX: Final = Struct("<II")
BODY_STRUCT: Final = Struct("<BBHIIQq")
HEADER: Final = Struct("<IIBBHIIQq")
PADDING: Final = tuple(b"\0" * size for size in range(8))

# In an index file only: bytes of the segment, as many as the payload's length says, that hold no
# record.
GAP: Final = 0
# A flag of such a gap: there was a record, and it is not known of which key.
DOUBTED: Final = 1

_SEGMENT: Final = Struct("<8sQQ")
_SEGMENT_MAGIC: Final = b"PKVLOG1\n"
SEGMENT_HEADER_BYTES: Final = 32
# Parts of a segment are given back in whole pages.
PAGE_BYTES: Final = 4096

# A seed has one bit less than it could, so that an offset can be added to it.
_SEED_MASK: Final = (1 << 63) - 1
MARKS: Final = frozenset((DELETE, EXPIRE, CLEAR))
VALUE_KIND_LAST: Final = CHANGE - 1


class Header(NamedTuple):
    """A record without its payload.

    Attributes:
        kind, db, key, due_ms: As they were written.
        payload_bytes, payload_checksum: What its payload has to be.
    """

    kind: int
    db: int
    key: bytes
    payload_bytes: int
    payload_checksum: int
    due_ms: int

    @property
    def record_bytes(self) -> int:
        """What the record takes."""
        return record_bytes(len(self.key), self.payload_bytes)

    def body(self) -> bytes:
        """What an index repeats of it."""
        return (
            BODY_STRUCT.pack(
                self.kind,
                0,
                self.db,
                len(self.key),
                self.payload_bytes,
                self.payload_checksum,
                self.due_ms,
            )
            + self.key
        )


def record_bytes(key_bytes: int, payload_bytes: int) -> int:
    """What a record takes in its segment."""
    return (HEADER_BYTES + key_bytes + payload_bytes + 7) & -8


def segment_seed(secret: int, job_id: str, number: int) -> int:
    """What seeds the checksums of one segment's records."""
    return checksum(f"{number}/{job_id}".encode(), secret) & _SEED_MASK


def segment_header(number: int, seed: int) -> bytes:
    """What a segment begins with."""
    head = _SEGMENT.pack(_SEGMENT_MAGIC, number, seed)
    return head + checksum(head).to_bytes(8, "little")


def seed_of(head: bytes, number: int) -> int | None:
    """The seed that a segment's first bytes tell; None if they are damaged or another's."""
    if len(head) < SEGMENT_HEADER_BYTES:
        return None
    magic, said_number, seed = _SEGMENT.unpack_from(head)
    if magic != _SEGMENT_MAGIC or said_number != number:
        return None
    if checksum(head[: _SEGMENT.size]).to_bytes(8, "little") != head[_SEGMENT.size : 32]:
        return None
    return int(seed)


def read_header(data: bytes | memoryview, position: int, seed: int) -> Header | int:
    """The record at `position` of `data`.

    Args:
        data: Part of a segment.
        position: Where the record begins in it.
        seed: The segment's, with the record's offset in the segment added.

    Returns:
        The header if it is whole, its payload may reach beyond `data`. Otherwise a number: 0 if
        there is no record, or how many bytes from `position` on are needed to tell.
    """
    if len(data) - position < HEADER_BYTES:
        # What is there must at least begin as a record does.
        there = bytes(data[position : position + 4])
        return HEADER_BYTES if MAGIC_BYTES.startswith(there) else 0
    magic, head_checksum, kind, _flags, db, key_bytes, payload_bytes, payload_checksum, due_ms = (
        HEADER.unpack_from(data, position)
    )
    if magic != MAGIC:
        return 0
    end = position + HEADER_BYTES + key_bytes
    if end > len(data):
        return HEADER_BYTES + int(key_bytes)
    if checksum(data[position + BODY : end], seed) & LOW_HALF != head_checksum:
        return 0
    key = bytes(data[end - key_bytes : end])
    return Header(kind, db, key, payload_bytes, payload_checksum, due_ms)


def payload_of(record: bytes | bytearray | memoryview, seed: int, length: int) -> bytes | None:
    """The payload of a whole record if everything about it is as it was written.

    Args:
        record: Exactly the record, with its padding.
        seed: The segment's, with the record's offset in the segment added.
        length: Of the payload, as it is remembered.
    """
    magic, head_checksum, _kind, _flags, _db, key_bytes, payload_bytes, payload_checksum, _due = (
        HEADER.unpack_from(record)
    )
    begin = HEADER_BYTES + key_bytes
    if magic != MAGIC or payload_bytes != length or begin + length > len(record):
        return None
    if checksum(record[BODY:begin], seed) & LOW_HALF != head_checksum:
        return None
    payload = bytes(record[begin : begin + length])
    if checksum(payload) != payload_checksum:
        return None
    return payload
