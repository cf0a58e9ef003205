"""Which keys expire next: all keys with an expiry, in buckets of consecutive due times.

A bucket covers the time from its start to the next bucket's. One that grows too large is split
where half of its keys are due, so buckets are narrow where much expires and wide where little does:
what a key costs here depends neither on how many there are nor on how far ahead they expire. Only
keys of the very same millisecond are never parted.

What is scheduled is what expires and nothing else: keys that are set with an expiry and removed
before, as locks are, leave nothing behind.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice, pairwise, zip_longest
from typing import TYPE_CHECKING, Final

from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.regions import Evacuation

# Keys that a bucket has at most, if it can be split: it is then searched in well under 1 ms.
_KEYS_MAX: Final = 256
# Keys of a bucket that is looked through for those that are due, because only some are.
_SEARCHED_MAX: Final = 64
# Neighbours are made one when both together have no more keys, after many were removed.
_MERGED_MAX: Final = _KEYS_MAX // 2


class Schedule:
    """The order in which the keys of one database expire. Times are milliseconds.

    Args:
        expires: Due times by slot and key, which the database keeps: a key stands in it for as
            long as it is scheduled, under the same time.
    """

    __slots__ = ("_buckets", "_expires", "_starts")

    def __init__(self, expires: dict[int, dict[bytes, int]]) -> None:
        self._expires = expires
        # Sorted; a bucket has the keys that are due from its start on and before the next one's.
        # What is due before the first start moves that.
        self._starts: list[int] = []
        # Each key stands for itself: so the object can be had from which it was made.
        self._buckets: list[dict[bytes, bytes]] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def add(self, key: bytes, due_ms: int) -> None:
        """Schedule a key that is not."""
        starts = self._starts
        number = bisect_right(starts, due_ms) - 1
        if number < 0:
            number = 0
            if starts:
                starts[0] = due_ms
            else:
                starts.append(due_ms)
                self._buckets.append({})
        bucket = self._buckets[number]
        bucket[key] = key
        if len(bucket) > _KEYS_MAX:
            self._split(number)

    def remove(self, key: bytes, due_ms: int) -> bytes:
        """Forget a key that is scheduled; gives the object by which it was added."""
        number = bisect_right(self._starts, due_ms) - 1
        bucket = self._buckets[number]
        added = bucket.pop(key)
        if not bucket:
            self._delete_empty(number)
        return added

    def renew(self, key: bytes, due_ms: int) -> None:
        """Hold this object in the place of an equal one."""
        bucket = self._buckets[bisect_right(self._starts, due_ms) - 1]
        del bucket[key]
        bucket[key] = key

    def due(self, now_ms: int, keys_max: int) -> list[bytes]:
        """Some of the keys whose time has come, at most `keys_max`; none if there are none."""
        starts = self._starts
        while starts and starts[0] <= now_ms:
            bucket = self._buckets[0]
            if len(starts) > 1 and starts[1] <= now_ms + 1:
                if bucket:
                    return list(islice(bucket, keys_max))
                self._delete_empty(0)
            elif len(bucket) <= _SEARCHED_MAX or not self._split(0):
                dues = self._due_times(bucket)
                found = [key for key, due_ms in zip(bucket, dues, strict=True) if due_ms <= now_ms]
                if found:
                    return found[:keys_max]
                # Not to be looked through again before there is something to find.
                starts[0] = min(dues)
        return []

    def evacuate(self, evacuation: Evacuation, number: int) -> int:
        """Merge a bucket with its neighbours, and make it anew if it is in the way or too large.

        Args:
            evacuation: Whose attempts this uses up.
            number: Of the bucket: 0, then what the last call returned.

        Returns:
            The number to go on with, or -1 at the end.
        """
        buckets = self._buckets
        if number >= len(buckets):
            return -1
        bucket = buckets[number]
        while number + 1 < len(buckets) and len(bucket) + len(buckets[number + 1]) <= _MERGED_MAX:
            bucket.update(buckets.pop(number + 1))
            del self._starts[number + 1]
        if evacuation.concerns(self._starts[number]):
            start_ms = evacuation.move_int(self._starts[number])
            if start_ms is None:
                return number
            self._starts[number] = start_ms
        if evacuation.concerns_dict(bucket):
            fresh = evacuation.move_dict(bucket)
            if fresh is None:
                return number
            buckets[number] = fresh
        evacuation.attempts -= 1
        return number + 1

    def _due_times(self, bucket: dict[bytes, bytes]) -> list[int]:
        expires = self._expires
        return [expires[key_slot(key)][key] for key in bucket]

    def _split(self, number: int) -> bool:
        """Part a bucket in two; false if all of its keys are due at the same time."""
        starts, buckets = self._starts, self._buckets
        start_ms = starts[number]
        if number + 1 < len(starts) and starts[number + 1] == start_ms + 1:
            return False
        bucket = buckets[number]
        dues = self._due_times(bucket)
        ordered = sorted(dues)
        first_ms = ordered[0]
        middle_ms = ordered[len(ordered) // 2]
        if middle_ms == first_ms:
            # The first time by itself. If there is no other, that is not tried again.
            middle_ms = first_ms + 1
        starts[number] = first_ms
        starts.insert(number + 1, middle_ms)
        pairs = list(zip(bucket, dues, strict=True))
        buckets[number] = {key: key for key, due_ms in pairs if due_ms < middle_ms}
        buckets.insert(number + 1, {key: key for key, due_ms in pairs if due_ms >= middle_ms})
        return bool(buckets[number + 1])

    def _delete_empty(self, number: int) -> None:
        """Delete a bucket that has become empty, and those behind it that were left so."""
        while number < len(self._buckets) and not self._buckets[number]:
            del self._buckets[number], self._starts[number]

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        starts = self._starts
        assert starts == sorted(set(starts))
        assert len(starts) == len(self._buckets)
        # An empty bucket comes right behind one with keys, and goes with it.
        assert all(map(any, pairwise([True, *self._buckets])))
        assert not self._buckets or self._buckets[0]
        for bucket, start_ms, end_ms in zip_longest(self._buckets, starts, starts[1:]):
            dues = self._due_times(bucket)
            assert all(start_ms <= due_ms for due_ms in dues)
            assert all(end_ms is None or due_ms < end_ms for due_ms in dues)
            assert all(key is same for key, same in bucket.items())
            assert len(bucket) <= _KEYS_MAX or len(set(dues)) == 1
        assert len(self) == sum(map(len, self._expires.values()))
