"""Maps whose slots are on their way: what they will be, and what is still to be moved. Pure.

A map's weights are the plan, its ranges what is, its moves what is on its way from the one to the
other. What is left to be ordered (`outstanding`) follows from the three, and is reckoned anew
whenever something has changed, so that no order is ever late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pocketkv.catalog import Catalog
from pocketkv.controller.placements import held_slots
from pocketkv.controller.policy import NOTHING, Commitment, commitments, share_of
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, SlotMove, SlotRange, assign_slots, slot_counts


@dataclass(frozen=True)
class Stretch:
    """Neighbouring slots, both ends included, that are to go from `source` to `target`.

    If `from_end`, the source has what comes before them: then it is asked for the last ones first,
    so that what it keeps stays in one piece.
    """

    start: int
    end: int
    source: str
    target: str
    from_end: bool = False

    def __len__(self) -> int:
        return self.end - self.start + 1

    def pieces(self, slots_max: int) -> Iterator[Stretch]:
        """Yield it in pieces of at most so many slots, in the order in which they are to go."""
        left = self
        while len(left) > slots_max:
            if self.from_end:
                cut = left.end - slots_max + 1
                piece, left = replace(left, start=cut), replace(left, end=cut - 1)
            else:
                cut = left.start + slots_max - 1
                piece, left = replace(left, end=cut), replace(left, start=cut + 1)
            yield piece
        yield left


def carried_out(placement: PlacementMap, move_ids: Iterable[str]) -> PlacementMap:
    """Return a map as the controller writes it when these moves are over."""
    flipped = placement.with_flips(move_ids)
    return replace(flipped, flips=frozenset()) if flipped.flips else flipped


def arrived(placement: PlacementMap) -> PlacementMap:
    """Return what a map will be when all moves that it orders are carried out."""
    return carried_out(placement, [move.id for move in placement.moves])


def planned_slots(placement: PlacementMap) -> dict[str, int]:
    """Return how many slots each server is to have by the plan; none without a server."""
    if not placement.ranges:
        return {}
    return slot_counts(placement.weights, held_slots(placement))


def is_in_transit(placement: PlacementMap) -> bool:
    """Return whether slots are on their way, or are to be."""
    if placement.read_only or not placement.ranges:
        return False
    return bool(placement.moves) or held_slots(placement) != planned_slots(placement)


def outstanding(placement: PlacementMap) -> list[Stretch]:
    """Return what is still to be ordered, so that the ranges follow the weights."""
    if not is_in_transit(placement):
        return []
    after = arrived(placement)
    held = held_slots(after)
    if held == slot_counts(placement.weights, held):
        return []
    wanted = assign_slots(placement.weights, after)
    busy = sorted((move.start, move.end) for move in placement.moves)
    found = []
    for start, end, source, target in _differences(after.ranges, wanted):
        for first, last in _without(start, end, busy):
            from_end = first > 0 and after.owner(first - 1) == source
            found.append(Stretch(first, last, source, target, from_end))
    return found


def _differences(
    before: tuple[SlotRange, ...], after: tuple[SlotRange, ...]
) -> Iterator[tuple[int, int, str, str]]:
    """Yield the stretches whose owner changes, with both owners."""
    i = j = start = 0
    while i < len(before) and j < len(after):
        end = min(before[i].end, after[j].end)
        if before[i].server_id != after[j].server_id:
            yield start, end, before[i].server_id, after[j].server_id
        start = end + 1
        i += before[i].end == end
        j += after[j].end == end


def _without(start: int, end: int, busy: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a stretch without those that are `busy`, which are in order."""
    for first, last in busy:
        if last < start or first > end:
            continue
        if start < first:
            yield start, first - 1
        start = last + 1
    if start <= end:
        yield start, end


def with_moves(placement: PlacementMap, pieces: Iterable[Stretch], epoch: int) -> PlacementMap:
    """Return a map of this epoch that orders these moves as well."""
    moves = tuple(
        SlotMove(f"{epoch}-{piece.start}", piece.start, piece.end, piece.source, piece.target)
        for piece in pieces
    )
    return replace(placement, epoch=epoch, moves=placement.moves + moves)


def quotas_in_transit(
    placement: PlacementMap, capacity_bytes: int | None, decided: Mapping[str, int | None]
) -> dict[str, int | None]:
    """Return the quotas of all servers that a map names, while slots are on their way.

    Args:
        placement: The map, with the quotas that were there before.
        capacity_bytes: What the job says that it needs, if it does.
        decided: The quotas when every slot is where it is to be.
    """
    now, after = held_slots(placement), held_slots(arrived(placement))
    planned = planned_slots(placement)
    quotas: dict[str, int | None] = {}
    for name in sorted({*now, *after, *planned}):
        if not capacity_bytes:
            quotas[name] = None
            continue
        slots = max(now.get(name, 0), after.get(name, 0))
        quota = decided.get(name) or 0
        if slots > planned.get(name, 0):
            # It still has more than it will: as much more as it was promised before, at most.
            share = share_of(capacity_bytes, slots)
            before = placement.quotas.get(name)
            quota = max(quota, share if before is None else min(share, before))
        quotas[name] = quota
    return quotas


def quotas_of_plan(placement: PlacementMap, capacity_bytes: int | None) -> dict[str, int | None]:
    """Return the quotas when every slot is where it is to be, as far as the map tells."""
    if not capacity_bytes:
        return {}
    found: dict[str, int | None] = {}
    for name, slots in planned_slots(placement).items():
        share, before = share_of(capacity_bytes, slots), placement.quotas.get(name)
        found[name] = share if before is None else min(share, before)
    return found


def reserved(hints: Hints, catalog: Catalog, placement: PlacementMap) -> dict[str, Commitment]:
    """Return what a job keeps of each server that its map names: for what is, and what will be."""
    kept = commitments(hints, catalog, placement)
    if not is_in_transit(placement):
        return kept
    will_be = commitments(hints, catalog, arrived(placement))
    for other in (will_be, planned_commitments(hints, catalog, placement)):
        for name, more in other.items():
            known = kept.get(name, NOTHING)
            kept[name] = Commitment(
                max(known.capacity_bytes, more.capacity_bytes),
                max(known.throughput_bytes_s, more.throughput_bytes_s),
                max(known.jobs, more.jobs),
            )
    return kept


def planned_commitments(
    hints: Hints, catalog: Catalog, placement: PlacementMap
) -> dict[str, Commitment]:
    """Return what a job will keep of its servers when everything is where it is to be."""
    ranges = assign_slots(placement.weights, None) if placement.ranges else ()
    return commitments(hints, catalog, replace(placement, ranges=ranges, moves=()))


def handed_out(slots: int, planned: Mapping[str, int], coming: Mapping[str, int]) -> dict[str, int]:
    """Return how many of so many slots without an owner each server gets.

    Servers that lack some of what is `planned` for them get them, in proportion; `coming` is what
    they will have without.
    """
    lacking = {name: n - coming.get(name, 0) for name, n in planned.items()}
    lacking = {name: n for name, n in lacking.items() if n > 0}
    total = sum(lacking.values())
    given = {name: slots * n // total for name, n in lacking.items()}
    for name in sorted(lacking, key=lambda name: (given[name] - lacking[name], name)):
        if sum(given.values()) < slots:
            given[name] += 1
    return {name: n for name, n in given.items() if n}
