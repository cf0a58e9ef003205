"""Keys that go when memory is full, where that was asked for: `maxmemory-policy`, for caches.

By default nothing goes and a write is refused, or, where there is a medium for it, values are moved
there. With another policy a server that has only memory removes keys of the job that writes until
what it writes fits, those that Redis's policy of that name would: some keys are drawn, and the one
that is missed least goes (https://redis.io/docs/latest/develop/reference/eviction/).

How long a key was unused is known for its slot only; among keys of equal age, the one that was used
least often goes (see `frequency`).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pocketkv.engine.frequency import FrequencySketch
from pocketkv.engine.notifications import EVICTED
from pocketkv.slots import SLOT_COUNT, key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.randomness import Randomness

NO_EVICTION: Final = "noeviction"
POLICIES: Final = (
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    NO_EVICTION,
)

# As Redis's `maxmemory-samples`.
_SAMPLES: Final = 5
_KEYS_UNLIMITED: Final = 2**62
# Keys that are told apart by how often they are used.
_COUNTED_KEYS: Final = 1 << 18


class KeyEviction:
    """What one server removes.

    Args:
        policy: One of `POLICIES`, but `NO_EVICTION`.
        randomness: Draws the keys.

    Attributes:
        uses: How often keys were used, if the policy asks for it.
    """

    def __init__(self, policy: str, randomness: Randomness) -> None:
        which, _, self._order = policy.partition("-")
        self._is_volatile = which == "volatile"
        self._randomness = randomness
        counts = self._order in ("lru", "lfu")
        self.uses = FrequencySketch(_COUNTED_KEYS) if counts else None

    @property
    def counts_uses(self) -> bool:
        """Whether it is the frequency of a key's uses that decides."""
        return self._order == "lfu"

    def make_room(
        self, space: JobSpace, grown_bytes: int, *, keys_max: int = _KEYS_UNLIMITED
    ) -> bool:
        """Remove keys of a job, at most so many, until so much more fits; whether it does then."""
        while space.refuses_write(grown_bytes):
            keys_max -= 1
            if keys_max < 0 or not self._evict_one(space):
                return False
        return True

    def _evict_one(self, space: JobSpace) -> bool:
        best: tuple[float, float, Database, bytes] | None = None
        for database in space.databases.values():
            for _ in range(_SAMPLES):
                key = self._draw(database)
                if key is None:
                    break
                candidate = (*self._worth(database, key), database, key)
                if best is None or candidate[:2] < best[:2]:
                    best = candidate
        if best is None:
            return False
        _evict(best[2], best[3])
        return True

    def _draw(self, database: Database) -> bytes | None:
        """Any key that may go; ``None``: there is none."""
        randrange = self._randomness.randrange
        if self._is_volatile:
            if not database.expires:
                return None
            keys = next(islice(database.expires.values(), randrange(len(database.expires)), None))
            return next(islice(keys, randrange(len(keys)), None))
        if not database.size:
            return None
        slot = database.next_occupied(randrange(SLOT_COUNT))
        if slot < 0:
            slot = database.next_occupied(0)
        table = database.table(slot)
        return next(islice(table, randrange(len(table)), None))

    def _worth(self, database: Database, key: bytes) -> tuple[float, float]:
        """What is compared: the key with the least goes."""
        if self._order == "ttl":
            return database.expiry_ms(key) or 0, 0
        if self.uses is None:
            return 0, 0
        used = self.uses.estimate(key, database.salt)
        unused_s = database.idle_s(key)
        return (used, -unused_s) if self.counts_uses else (-unused_s, used)


def _evict(database: Database, key: bytes) -> None:
    slot = key_slot(key)
    used_s = database.accessed_s[slot]
    is_there = database.remove(key)
    database.accessed_s[slot] = used_s
    if not is_there:
        # Its time had come.
        return
    database.space.stats.evicted += 1
    database.notify(EVICTED, b"evicted", key)
