"""Keys that outlive their job: objects that describe themselves, so that any server can read them.

An object holds the values of some keys, one after the other, then a manifest, then a trailer of 24
bytes. It is written once, in whole, so it is there completely or not at all::

    value value ...    the values' bytes
    manifest           JSON in UTF-8, see below
    trailer            length of the manifest (u64), its checksum (u64), b"PKVRET01"; little endian

    {"job": "wordcount-5f3a", "server": "ssd-1.9c41", "written_ms": 1790000000000,
     "block_bytes": 262144,
     "keys": [{"db": 0, "key": "dXNlcjox", "kind": 1, "due_ms": 0, "offset": 0, "size": 11,
               "checksums": ["0123456789abcdef"]}]}

``key`` is in base64, since keys are any bytes. ``kind`` and the value's bytes are what the engine
gave, and only it understands them. ``due_ms`` is when the key expires, in milliseconds since 1970,
or 0. ``checksums`` are those of the value's blocks of ``block_bytes``, in hexadecimal; all are xxh3
of 64 bits. The name begins with the time of writing, in milliseconds of 14 digits: of a key that
was written more than once, the last object by name counts.

A reader looks at the end of an object first, and then reads of the values what it needs.
"""

from __future__ import annotations

import base64
import json
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pocketkv.tiers.s3.blobs import Blob, Summing
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import BLOCK_BYTES
from pocketkv.tiers.volume.checksums import checksum

if TYPE_CHECKING:
    # What sends requests is imported when a store is made (`opening`).
    from pocketkv.tiers.s3.client import Found
    from pocketkv.tiers.s3.transfers import Transfers

_MAGIC: Final = b"PKVRET01"
_TRAILER: Final = struct.Struct("<QQ8s")

TAIL_BYTES: Final = 64 * 1024
"""Read from the end of an object first: nearly always all of the manifest."""

ENTRY_BYTES: Final = 512
"""What a key takes in a manifest beside its name and its checksums, and more than that."""

ENTRIES_MAX: Final = 10_000
"""Keys in one object, so that a manifest stays small."""


@dataclass(frozen=True, slots=True)
class Retained:
    """A key that is to be retained, with all of its value.

    Attributes:
        db: Number of its database.
        kind, payload: The value, as the engine writes it.
        due_ms: When it expires, in milliseconds since 1970; 0: never.
    """

    db: int
    key: bytes
    kind: int
    payload: bytes
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class RetainedKey:
    """A key that is retained.

    Attributes:
        db, key, kind, due_ms: As in `Retained`.
        blob: Where its value is.
    """

    db: int
    key: bytes
    kind: int
    due_ms: int
    blob: Blob

    @property
    def size(self) -> int:
        """Bytes of its value as the engine wrote it."""
        return self.blob.size


class RetainedWriter:
    """Yields what an object consists of, value by value, and knows the keys when it has."""

    def __init__(self, job_id: str, name: str, server: str, written_ms: int) -> None:
        self._name = name
        self._job_id = job_id
        self._manifest: dict[str, Any] = {
            "job": job_id,
            "server": server,
            "written_ms": written_ms,
            "block_bytes": BLOCK_BYTES,
            "keys": [],
        }
        self._offset = 0
        self.keys: list[RetainedKey] = []

    def value(
        self, db: int, key: bytes, kind: int, due_ms: int, pieces: Iterable[bytes]
    ) -> Iterator[bytes]:
        """Yield a key's value, which comes in pieces."""
        summing = Summing()
        for piece in pieces:
            summing.add(piece)
            yield piece
        summing.end()
        self._manifest["keys"].append(
            {
                "db": db,
                "key": base64.b64encode(key).decode(),
                "kind": kind,
                "due_ms": due_ms,
                "offset": self._offset,
                "size": summing.size,
                "checksums": [f"{value:016x}" for value in summing.checksums],
            }
        )
        blob = Blob(self._job_id, self._name, self._offset, summing.size, summing.checksums)
        self.keys.append(RetainedKey(db, key, kind, due_ms, blob))
        self._offset += summing.size

    def end(self) -> Iterator[bytes]:
        """Yield what follows the values."""
        manifest = json.dumps(self._manifest, separators=(",", ":")).encode()
        yield manifest
        yield _TRAILER.pack(len(manifest), checksum(manifest), _MAGIC)


def manifest_bytes_max(keys_bytes: int, keys: int, values_bytes: int) -> int:
    """What the end of an object takes at most, given its keys and the bytes of its values."""
    blocks = values_bytes // BLOCK_BYTES + keys
    return TAIL_BYTES // 8 + 2 * keys_bytes + ENTRY_BYTES * keys + 20 * blocks


def batches_of(entries: Iterable[Retained], bytes_max: int) -> Iterator[list[Retained]]:
    """Cut keys into as many as one object is to hold."""
    batch: list[Retained] = []
    size = 0
    for entry in entries:
        entry_bytes = len(entry.payload) + 2 * len(entry.key) + ENTRY_BYTES
        if batch and (size + entry_bytes > bytes_max or len(batch) == ENTRIES_MAX):
            yield batch
            batch = []
            size = 0
        batch.append(entry)
        size += entry_bytes
    if batch:
        yield batch


def read_keys(transfers: Transfers, job_id: str, found: Found) -> list[RetainedKey]:
    """Read which keys an object holds.

    Raises:
        S3Error: It cannot be read; corrupt: it is not an object of retained keys any more.
    """
    size = min(found.size, TAIL_BYTES)
    if size < _TRAILER.size:
        raise _damaged(found.name, "it is too short")

    def is_right(tail: bytes) -> bool:
        length, expected, magic = _TRAILER.unpack_from(tail, len(tail) - _TRAILER.size)
        end = len(tail) - _TRAILER.size
        if magic != _MAGIC or length + _TRAILER.size > found.size:
            return False
        return bool(length > end or checksum(tail[end - length : end]) == expected)

    tail = transfers.read_right(found.name, found.size - size, size, is_right)
    length = _TRAILER.unpack_from(tail, len(tail) - _TRAILER.size)[0]
    if length + _TRAILER.size > size:
        size = length + _TRAILER.size
        tail = transfers.read_right(found.name, found.size - size, size, is_right)
    manifest = tail[-_TRAILER.size - length : -_TRAILER.size]
    try:
        return list(_keys_of(job_id, found, json.loads(manifest)))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(found.name, f"its manifest cannot be understood: {error}") from error


def _keys_of(job_id: str, found: Found, manifest: Any) -> Iterator[RetainedKey]:
    if manifest["job"] != job_id:
        raise ValueError(f"it is of job {manifest['job']!r}")
    if manifest["block_bytes"] != BLOCK_BYTES:
        raise ValueError(f"blocks of {manifest['block_bytes']} bytes")
    for item in manifest["keys"]:
        offset, size = int(item["offset"]), int(item["size"])
        if offset < 0 or size < 0 or offset + size > found.size:
            raise ValueError("a value lies outside")
        checksums: array[int] = array("Q", (int(text, 16) for text in item["checksums"]))
        yield RetainedKey(
            int(item["db"]),
            base64.b64decode(item["key"], validate=True),
            int(item["kind"]),
            int(item["due_ms"]),
            Blob(job_id, found.name, offset, size, checksums),
        )


def last_of_each(keys: Iterable[Sequence[RetainedKey]]) -> list[RetainedKey]:
    """Of what is in objects, in the order of their names, keep what counts."""
    last: dict[tuple[int, bytes], RetainedKey] = {}
    for some in keys:
        for key in some:
            last[key.db, key.key] = key
    return list(last.values())


def _damaged(name: str, reason: str) -> S3Error:
    return S3Error("corrupt", f"retained object {name}: {reason}")
