"""A value on a medium that is several records: the whole, in one or in parts, and its changes.

A huge collection is written whole in parts, each a record, so that none takes long. One more, which
comes last, tells how many there are and the checksum of each: without it, they are nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final
from zlib import crc32

from pocketkv.engine.cold import FIRST_COLLECTION, PART, PARTED, Cold
from pocketkv.engine.packing import PayloadError, unpack_some
from pocketkv.engine.payloads import building
from pocketkv.limits import KIB

if TYPE_CHECKING:
    from pocketkv.engine.values import Collection

STEPPED_BYTES: Final = 64 * KIB
"""A collection of more bytes is made of its records in steps, while its client alone waits."""

_STEPPED_ITEMS: Final = 512
# Of a checksum, in the record that ends the parts.
_SUM_BYTES: Final = 4


class Chain(list[Cold]):
    """The records that make a value.

    The first one is what its table holds when it is not in memory. If that ends parts, they follow
    in order, with the changes that were carried along; then come the changes since.

    Args:
        records: The records.
        whole: How many of them, from the first on, are what was written as a whole.
    """

    __slots__ = ("whole",)

    def __init__(self, records: Iterable[Cold], whole: int = 1) -> None:
        super().__init__(records)
        self.whole = whole

    @property
    def changes(self) -> int:
        """How many changes there are."""
        return len(self) - self.whole


def of_parts(end: Cold, parts: list[Cold], changes: Iterable[Cold]) -> Chain:
    """The chain of a whole in parts; what it takes is accounted for with its first record."""
    end.cost_bytes = end.record_bytes + sum(part.record_bytes for part in parts)
    return Chain([end, *parts, *changes], 1 + len(parts))


def sum_of(payload: bytes) -> bytes:
    """What the end of the parts says of one."""
    return crc32(payload).to_bytes(_SUM_BYTES, "little")


def parts_told(end: Cold) -> int:
    """How many parts a record that ends them tells of."""
    return end.length // _SUM_BYTES


def takes_steps(chain: list[Cold]) -> bool:
    """Whether what these records make is a collection that is too much to be made at once."""
    if chain[0].kind < FIRST_COLLECTION:
        return False
    return sum(record.length for record in chain) > STEPPED_BYTES


def making(chain: list[Cold], payloads: list[bytes]) -> Iterator[Collection | None]:
    """The collection that records make, in steps: ``None`` for each, and at last the value.

    Raises:
        PayloadError: They make none.
    """
    kind = chain[0].kind
    parts = parts_told(chain[0]) if kind & PARTED else 0
    first = 1 if kind & PARTED else 0
    if first:
        _check(chain, payloads, parts)
    value: Collection | None = None
    for made in building(kind & ~PARTED, payloads[first]):
        value = made
        yield None
    assert value is not None  # The last one is the value.
    for record, payload in zip(chain[first + 1 :], payloads[first + 1 :], strict=True):
        if record.kind == PART:
            value.add_part(payload)
            yield None
        else:
            yield from _apply(value, payload)
    yield value


def _check(chain: list[Cold], payloads: list[bytes], parts: int) -> None:
    """Compare parts with what the end says of them.

    Raises:
        PayloadError: They are others, or not all there.
    """
    sums = b"".join(map(sum_of, payloads[1 : 1 + parts]))
    if not 0 < parts < len(chain) or sums != payloads[0]:
        raise PayloadError("a part is missing")


def _apply(value: Collection, change: bytes) -> Iterator[None]:
    """Apply a change, step by step."""
    position = 0
    while position < len(change):
        items, position = unpack_some(change, position, _STEPPED_ITEMS)
        for item in items:
            value.apply_change(item)
        yield
