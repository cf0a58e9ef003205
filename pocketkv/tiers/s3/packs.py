"""Small values in S3: many of them in one object, which is a pack.

An object costs a request, and a request costs far more than a small value's bytes. So values are
written together, and read one by one as ranges of their pack.

A pack's object is its items one after the other, without header, index or padding; only an item
without bytes takes one, since places tell items apart. Where each item lies, its checksum (xxh3,
64 bits) and whether anybody still needs it, the process that wrote the pack keeps in memory, 17
bytes for an item. An object cannot be changed: an item that is not needed any more takes its room
until the whole pack goes, when its last item does or when what is left was written anew.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pocketkv import limits
from pocketkv.tiers.volume.checksums import checksum

PACK_BYTES: Final = 4 * limits.MIB
"""A good size: the request is cheap beside it, and little of it is waste if a few items go."""

PACK_BYTES_MAX: Final = limits.GIB
"""A pack is sent and held in one piece, and its offsets are numbers of 32 bits."""

SPARSE_SHARE: Final = 0.5
"""A pack is sparse if less than this share of it is needed: then to write that anew pays."""


@dataclass(frozen=True, slots=True)
class PackItem:
    """Where in its pack an item lies."""

    offset: int
    size: int
    checksum: int


class Pack:
    """Small values that were written together.

    Args:
        job_id: Whose they are.
        name: Of the object that they become.
        items: Their bytes.

    Attributes:
        size: Of the object in bytes.
        live_items, live_bytes: What of it is still needed.
    """

    __slots__ = (
        "_checksums",
        "_live",
        "_offsets",
        "_sizes",
        "job_id",
        "live_bytes",
        "live_items",
        "name",
        "size",
    )

    def __init__(self, job_id: str, name: str, items: Sequence[bytes]) -> None:
        self.job_id = job_id
        self.name = name
        self._checksums: array[int] = array("Q", map(checksum, items))
        self._sizes: array[int] = array("I", map(len, items))
        self._offsets: array[int] = array("I")
        self._live = bytearray(b"\x01" * len(items))
        size = 0
        for item in items:
            self._offsets.append(size)
            size += len(item) or 1
        self.size = size
        self.live_items = len(items)
        self.live_bytes = size

    def __len__(self) -> int:
        return len(self._sizes)

    def item(self, index: int) -> PackItem:
        """Where an item lies, by its place in what was written."""
        return PackItem(self._offsets[index], self._sizes[index], self._checksums[index])

    def items(self) -> list[PackItem]:
        """Where all items lie, in the order in which they were given."""
        return [self.item(index) for index in range(len(self))]

    def index_of(self, offset: int) -> int:
        """The place of the item that lies at an offset.

        Raises:
            ValueError: None begins there.
        """
        index = bisect_left(self._offsets, offset)
        if index == len(self._offsets) or self._offsets[index] != offset:
            raise ValueError(f"no item of {self.name} begins at {offset}")
        return index

    def live(self) -> list[PackItem]:
        """Where those items lie that are still needed."""
        return [self.item(index) for index, needed in enumerate(self._live) if needed]

    def is_sparse(self) -> bool:
        """Whether so little of it is needed that writing that anew pays."""
        return self.live_bytes < SPARSE_SHARE * self.size

    def bury(self, index: int) -> None:
        """An item is not needed any more.

        Raises:
            ValueError: It was not before.
        """
        if not self._live[index]:
            raise ValueError(f"item {index} of {self.name} was released before")
        self._live[index] = 0
        self.live_items -= 1
        self.live_bytes -= self._sizes[index] or 1


def pack_bytes(items: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what a pack's object consists of."""
    for item in items:
        yield item or b"\0"


class Packs:
    """Which packs there are, and how much of them is needed. Asks nobody, so all of it is quick.

    Args:
        on_dead: Told the name of a pack that nobody needs any more.

    Attributes:
        size, live_bytes, live_items: Of all packs together.
    """

    def __init__(self, on_dead: Callable[[str], None]) -> None:
        self._on_dead = on_dead
        self._lock = threading.Lock()
        self._packs: dict[str, Pack] = {}
        # Of each job, so that one that ends is not searched for among all others' packs.
        self._names: dict[str, set[str]] = {}
        self._sparse: dict[str, Pack] = {}
        self.size = 0
        self.live_bytes = 0
        self.live_items = 0

    def __len__(self) -> int:
        return len(self._packs)

    def add(self, pack: Pack) -> None:
        """A pack has been written."""
        with self._lock:
            self._packs[pack.name] = pack
            self._names.setdefault(pack.job_id, set()).add(pack.name)
            self.size += pack.size
            self.live_bytes += pack.live_bytes
            self.live_items += pack.live_items

    def release(self, pack: Pack, offset: int) -> None:
        """The item at an offset is not needed any more; nothing happens if the job was dropped.

        Raises:
            ValueError: There is none, or it was released before.
        """
        with self._lock:
            index = pack.index_of(offset)
            before = pack.live_bytes
            pack.bury(index)
            if pack.name not in self._packs:
                return
            self.live_items -= 1
            self.live_bytes -= before - pack.live_bytes
            if pack.live_items:
                if pack.is_sparse():
                    self._sparse[pack.name] = pack
                return
            self._remove(pack)
        self._on_dead(pack.name)

    def sparse(self) -> list[Pack]:
        """The packs of which little is needed, those with the least of it first."""
        with self._lock:
            found = list(self._sparse.values())
        return sorted(found, key=lambda pack: pack.live_bytes / pack.size)

    def forget(self, name: str) -> None:
        """A pack is deleted by somebody else, if it is one."""
        with self._lock:
            self._forget(name)

    def forget_job(self, job_id: str) -> None:
        """All packs of a job are deleted by somebody else."""
        with self._lock:
            for name in tuple(self._names.get(job_id, ())):
                self._forget(name)

    def _forget(self, name: str) -> None:
        pack = self._packs.get(name)
        if pack is not None:
            self.live_items -= pack.live_items
            self.live_bytes -= pack.live_bytes
            self._remove(pack)

    def _remove(self, pack: Pack) -> None:
        del self._packs[pack.name]
        names = self._names[pack.job_id]
        names.remove(pack.name)
        if not names:
            del self._names[pack.job_id]
        self._sparse.pop(pack.name, None)
        self.size -= pack.size
