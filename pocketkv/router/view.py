"""A job's map as the router uses it: from a slot to the server in one step; no I/O.

Clients of a job share one view. It is never changed: when the map or the address of a server
changes, the view is marked as stale and a new one is made, so whoever keeps one can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.errors import CROSS_SLOT, CommandError
from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.randomness import Randomness
    from pocketkv.placement import PlacementMap
    from pocketkv.router.upstream import Upstream

# An owner's number is 16 bits, low and high in arrays of their own. This is both of a job with one
# server, and the high ones of all jobs with less than 256.
_ZEROS: Final = bytes(SLOT_COUNT)


class JobView:
    """Who owns which slot of a job.

    Args:
        placement: The job's map; ``None``: there is none.
        upstreams: The servers that are known, by id.
        reason: The error for slots that nobody owns.

    Attributes:
        is_stale: Whether there is a newer one.
        sole: The server of all slots, if there is only one and it is known.
    """

    __slots__ = (
        "_high",
        "_low",
        "_owner_ids",
        "_owners",
        "_reason",
        "_shares",
        "is_stale",
        "placement",
        "sole",
    )

    def __init__(
        self, placement: PlacementMap | None, upstreams: dict[str, Upstream], reason: bytes
    ) -> None:
        self.placement = placement
        self.is_stale = False
        self._reason = reason
        ranges = () if placement is None else placement.ranges
        self._owner_ids = list(dict.fromkeys(r.server_id for r in ranges))
        # A server that is not in the list of servers, and the lack of any, stand as None.
        self._owners: list[Upstream | None] = [upstreams.get(i) for i in self._owner_ids] or [None]
        self._shares = [0] * len(self._owners)
        self.sole = self._owners[0] if len(self._owners) == 1 else None
        low, high = bytearray(SLOT_COUNT), bytearray(SLOT_COUNT)
        numbers = {owner_id: number for number, owner_id in enumerate(self._owner_ids)}
        for r in ranges:
            number = numbers[r.server_id]
            self._shares[number] += len(r)
            low[r.start : r.end + 1] = bytes([number & 255]) * len(r)
            high[r.start : r.end + 1] = bytes([number >> 8]) * len(r)
        self._low = bytes(low) if len(self._owners) > 1 else _ZEROS
        self._high = bytes(high) if len(self._owners) > 256 else _ZEROS

    def owner(self, slot: int) -> Upstream:
        """The server of a slot.

        Raises:
            CommandError: CLUSTERDOWN.
        """
        upstream = self._owners[self._low[slot] | self._high[slot] << 8]
        if upstream is None:
            raise CommandError(self._reason)
        return upstream

    def common_owner(self, slots: list[int]) -> Upstream:
        """The one server of all these slots; of none, any server.

        Raises:
            CommandError: CROSSSLOT, CLUSTERDOWN.
        """
        if not slots:
            return self.owner(0)
        first = self.owner(slots[0])
        for slot in slots:
            if self.owner(slot) is not first:
                raise CommandError(CROSS_SLOT)
        return first

    def all_owners(self) -> list[Upstream]:
        """Every server that owns slots, in the order of their first slot.

        Raises:
            CommandError: CLUSTERDOWN, if one of them is not known.
        """
        owners = [owner for owner in self._owners if owner is not None]
        if len(owners) < len(self._owners):
            raise CommandError(self._reason)
        return owners

    def known_owners(self) -> list[Upstream]:
        """Every server that owns slots and is known, in the same order."""
        return [owner for owner in self._owners if owner is not None]

    def shuffled_owners(self, randomness: Randomness) -> list[Upstream]:
        """Every server that owns slots, the last first: drawn by their shares of the slots.

        Raises:
            CommandError: As `all_owners`.
        """
        left = list(zip(self.all_owners(), self._shares, strict=True))
        drawn = []
        while left:
            number = randomness.randrange(sum(share for _, share in left))
            index = 0
            while number >= left[index][1]:
                number -= left[index][1]
                index += 1
            drawn.append(left.pop(index)[0])
        drawn.reverse()
        return drawn

    def agrees(self, placement: PlacementMap | None, upstreams: dict[str, Upstream]) -> bool:
        """Whether a view made now would be the same."""
        if placement is not self.placement:
            return False
        if placement is None:
            # The reason for having none may be another one by now.
            return False
        return self._owners == [upstreams.get(i) for i in self._owner_ids]
