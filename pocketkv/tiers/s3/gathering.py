"""Small reads that wait at the same time: those that lie side by side in an object are one request.

A request takes S3 some ten milliseconds, whatever it asks for, and in that time many small values
come. So whoever begins a read takes along what others wait for nearby, and what lies between.

What is about to be read is announced first, by the serving thread, which waits for nothing; then
threads come for it, each for one. What nobody announced is read by itself.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, TypeAlias

from pocketkv import limits
from pocketkv.tiers.s3.errors import S3Error

Place: TypeAlias = tuple[str, int, int]
"""Name of an object, offset and size of what is read of it."""

GAP_BYTES_MAX: Final = 128 * limits.KIB
"""So much that nobody asked for is read along: it takes S3 less time than another request."""

SPAN_BYTES_MAX: Final = limits.MIB
"""What is read with one request, unless one value alone is larger."""


class _Flight:
    """One request, and those who wait for a part of what it brings."""

    __slots__ = ("data", "done", "error", "left", "offset")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.done = threading.Event()
        self.data = b""
        self.error: S3Error | None = None
        # How many are still to come, by place.
        self.left: dict[Place, int] = {}


class Gatherer:
    """Joins reads of one bucket.

    Args:
        get: Reads so many bytes of an object from an offset on; for the threads that call `read`.
    """

    def __init__(self, get: Callable[[str, int, int], bytes]) -> None:
        self._get = get
        self._lock = threading.Lock()
        # What was announced: by object, offset and size, how often.
        self._waiting: dict[str, dict[tuple[int, int], int]] = {}
        self._coming: dict[Place, _Flight] = {}

    def announce(self, name: str, offset: int, size: int) -> None:
        """A thread will come and read this."""
        with self._lock:
            places = self._waiting.setdefault(name, {})
            places[offset, size] = places.get((offset, size), 0) + 1

    def forget(self, name: str) -> None:
        """What is announced of an object will be read elsewhere."""
        with self._lock:
            self._waiting.pop(name, None)
            self._coming = {at: one for at, one in self._coming.items() if at[0] != name}

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Read a part of an object, at least one byte; what it says, others have to check.

        Raises:
            S3Error: It cannot be read.
        """
        place = name, offset, size
        with self._lock:
            flight = self._coming.get(place)
            is_ours = flight is None
            if flight is None:
                flight = self._begin(place)
        if is_ours:
            self._fly(flight, name)
        else:
            flight.done.wait()
        with self._lock:
            flight.left[place] -= 1
            if flight.left[place] <= 0 and self._coming.get(place) is flight:
                del self._coming[place]
        if flight.error is not None:
            raise flight.error
        return flight.data[offset - flight.offset : offset - flight.offset + size]

    def _begin(self, place: Place) -> _Flight:
        """A request for a place, and for what others wait for around it."""
        name, offset, size = place
        places = self._waiting.get(name, {})
        taken = _around(sorted(places), offset, size)
        flight = _Flight(min(start for start, _ in taken))
        for start, length in taken:
            # One that was not announced comes once.
            flight.left[name, start, length] = places.pop((start, length), 1)
            self._coming[name, start, length] = flight
        if not places:
            self._waiting.pop(name, None)
        return flight

    def _fly(self, flight: _Flight, name: str) -> None:
        end = max(offset + size for _, offset, size in flight.left)
        try:
            flight.data = self._get(name, flight.offset, end - flight.offset)
        except S3Error as error:
            flight.error = error
        except BaseException as error:
            flight.error = S3Error("unavailable", f"reading was interrupted: {error!r}")
            raise
        finally:
            flight.done.set()


def _around(places: list[tuple[int, int]], offset: int, size: int) -> list[tuple[int, int]]:
    """Of places in order, those that are worth reading with one of this offset and size."""
    found = [(offset, size)]
    start, end = offset, offset + size
    middle = bisect_left(places, (offset, size))
    for before in reversed(places[:middle]):
        if start - sum(before) > GAP_BYTES_MAX or end - before[0] > SPAN_BYTES_MAX:
            break
        found.append(before)
        start = min(start, before[0])
    for after in places[middle:]:
        if after == (offset, size):
            continue
        if after[0] - end > GAP_BYTES_MAX or sum(after) - start > SPAN_BYTES_MAX:
            break
        found.append(after)
        end = max(end, sum(after))
    return found
