"""Placement: which storage server owns which slots of a job, and how slots follow weights.

A `PlacementMap` is one job's ranges of slots under an epoch, with the quota and the weight of
each server; the controller alone makes them, and a higher epoch replaces a lower one. A map
either covers every slot or none at all (the job has no server yet): nothing between the two can
be built, so nobody who holds a map needs to check it.

A map may order moves: slots that are to go from their owner to another server. When the owner has
handed over everything, it flips the move, and tells the controller, whose next map says so as well.
Until then whoever hears of the flip applies it to the map that it has: flips of one map commute,
and a newer map that still orders a move does not undo its flip.

`assign_slots` turns weights into ranges. It moves as few slots as the weights allow, since a
moved slot is data on the wire, and keeps ranges few, since every cluster client is told them all.
It is deterministic and knows nothing of servers but their ids.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from pocketkv.catalog import TIER_NAMES
from pocketkv.slots import SLOT_COUNT

STORE_SCHEME: Final = "s3://"
"""What the URL of a store of the whole cluster begins with, and no id of a server."""


def is_store(target: str | None) -> bool:
    """Return whether keys that outlive their job go to a store, and not to a server."""
    return target is not None and target.startswith(STORE_SCHEME)


class PlacementError(ValueError):
    """Weights, a map or a server's record that cannot be; the message is one line."""


class ServerState(StrEnum):
    """What a storage server may be asked to do."""

    UP = "up"
    """Serves, and may be given slots."""
    DRAINING = "draining"
    """Serves, gives its slots away and gets none."""
    DOWN = "down"
    """Does not answer; its slots go to others."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A storage server as the controller knows it.

    Servers with the same `machine` share its network and its fate; `machine_type` is what the
    catalog calls it, empty if that is not known. `advertise_host` is what clients are told when it
    is not `host`, where the server's own side reaches it.
    """

    id: str
    tier: str
    host: str
    port: int
    machine: str
    capacity_bytes: int
    bandwidth_bytes_s: int
    state: ServerState = ServerState.UP
    advertise_host: str | None = None
    machine_type: str = ""

    def __post_init__(self) -> None:
        _check_text(self.id, "id of a server")
        _check_text(self.host, "host of a server")
        if self.tier not in TIER_NAMES:
            raise PlacementError(f"a server's tier is one of {', '.join(TIER_NAMES)}")
        if type(self.port) is not int or not 1 <= self.port <= 65535:
            raise PlacementError("a server's port is not 1..65535")
        for text in (self.machine, self.machine_type):
            if not isinstance(text, str):
                raise PlacementError("a server's machine or its type is not a text")
        for amount in (self.capacity_bytes, self.bandwidth_bytes_s):
            if type(amount) is not int or amount < 0:
                raise PlacementError("a server's capacity or bandwidth is not 0 or more")
        if not isinstance(self.state, ServerState):
            raise PlacementError("a server's state is not known")
        if self.advertise_host is not None:
            _check_text(self.advertise_host, "advertised host of a server")

    @property
    def public_address(self) -> tuple[str, int]:
        """The host and port that clients are told."""
        return self.advertise_host or self.host, self.port

    def as_json(self) -> dict[str, Any]:
        """Return the record as what `json.dumps` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> Server:
        """Return the server of a JSON text, or of what `as_json` returned.

        Raises:
            PlacementError: not such a record.
        """
        fields = _fields(document, cls.__name__)
        try:
            return cls(**{**fields, "state": ServerState(fields.get("state", ServerState.UP))})
        except PlacementError:
            raise
        except (TypeError, ValueError) as error:
            raise PlacementError(f"not a server's record: {error}") from error


@dataclass(frozen=True)
class SlotRange:
    """Slots `start` to `end`, both included, and the server that owns them."""

    start: int
    end: int
    server_id: str

    def __len__(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True)
class SlotMove:
    """Slots `start` to `end` of a job, both included, that are to go from `source` to `target`.

    `id` is unique among all moves that the job ever has.
    """

    id: str
    start: int
    end: int
    source: str
    target: str

    def __len__(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True)
class PlacementMap:
    """One job's placement. Treat it as immutable: servers share it between connections.

    `quotas` are the bytes that the job may use on each server, None meaning no limit of its own;
    every owner has one, and every target of a move. `weights` are what the ranges are to follow;
    while slots move, a server of weight 0 may still own some.

    `moves` are ordered and not carried out yet, as far as is known; `flips` are the ids of those
    that the controller ordered in a map of this epoch and that were carried out since.

    A job that has ended and left keys behind is `read_only`. While they are on their way to what
    keeps them, `retire_to` names it, a server or the URL of a store (`is_store`); the owners send
    it what they have of them. Once all of them are in a store, it is `kept_in`, and who owns the
    slots then reads them there.
    """

    job_id: str
    epoch: int
    ranges: tuple[SlotRange, ...]
    quotas: Mapping[str, int | None]
    weights: Mapping[str, float]
    read_only: bool = False
    retire_to: str | None = None
    kept_in: str | None = None
    moves: tuple[SlotMove, ...] = ()
    flips: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _check_text(self.job_id, "job of a map")
        if type(self.read_only) is not bool:
            raise PlacementError("read_only is neither true nor false")
        if self.retire_to is not None:
            _check_text(self.retire_to, "server that keeps what a job left")
        if self.kept_in is not None and not is_store(self.kept_in):
            raise PlacementError("what keeps what a job left is no store")
        if type(self.epoch) is not int or self.epoch < 0:
            raise PlacementError("the epoch is not 0 or more")
        _check_ranges(self.ranges)
        _check_weights(self.weights)
        for server_id, quota in self.quotas.items():
            if quota is not None and (type(quota) is not int or quota < 0):
                raise PlacementError(f"the quota on {server_id!r} is not 0 or more")
        for server_id in self.owners():
            # A quota left out must not become a job without limits.
            if server_id not in self.quotas:
                raise PlacementError(f"{server_id!r} owns slots and has no quota")
        if self.moves:
            self._check_moves()

    def _check_moves(self) -> None:
        ids: set[str] = set(self.flips)
        end = -1
        for move in sorted(self.moves, key=lambda m: m.start):
            if move.id in ids:
                raise PlacementError(f"the move {move.id!r} is there twice")
            ids.add(move.id)
            if move.start <= end or not 0 <= move.start <= move.end < SLOT_COUNT:
                raise PlacementError(f"the slots of the move {move.id!r} cannot be moved")
            end = move.end
            if move.target == move.source or move.target not in self.quotas:
                raise PlacementError(f"the move {move.id!r} has no target with a quota")
            if any(owner != move.source for owner in self._owners_between(move.start, move.end)):
                raise PlacementError(f"the source of the move {move.id!r} does not own its slots")

    def _owners_between(self, start: int, end: int) -> list[str]:
        first = bisect_right(self._starts, start) - 1
        last = bisect_right(self._starts, end) - 1
        return [r.server_id for r in self.ranges[max(0, first) : last + 1]]

    def owner(self, slot: int) -> str | None:
        """Return the id of the server that owns `slot`, None only if the map is empty."""
        if not self.ranges:
            return None
        return self.ranges[bisect_right(self._starts, slot) - 1].server_id

    def owners(self) -> tuple[str, ...]:
        """Return the servers that own slots, each once, in the order of their first slot."""
        return tuple(dict.fromkeys(r.server_id for r in self.ranges))

    def ranges_of(self, server_id: str) -> tuple[SlotRange, ...]:
        """Return the ranges that a server owns, in order; none if it is not in the map."""
        return tuple(r for r in self.ranges if r.server_id == server_id)

    def move(self, move_id: str) -> SlotMove | None:
        """Return a move that is ordered and not carried out yet."""
        return next((move for move in self.moves if move.id == move_id), None)

    def with_flips(self, move_ids: Iterable[str]) -> PlacementMap:
        """Return the map after these moves were carried out, as far as it orders them."""
        wanted = set(move_ids)
        flipped = [move for move in self.moves if move.id in wanted]
        if not flipped:
            return self
        ranges = self.ranges
        for move in flipped:
            ranges = _with_owner(ranges, move.start, move.end, move.target)
        return replace(
            self,
            ranges=ranges,
            moves=tuple(move for move in self.moves if move.id not in wanted),
            flips=self.flips | {move.id for move in flipped},
        )

    def as_json(self) -> dict[str, Any]:
        """Return the map as what `json.dumps` takes.

        Ranges are ``[start, end, server]``, moves ``[id, start, end, source, target]``.
        """
        document: dict[str, Any] = {
            "job_id": self.job_id,
            "epoch": self.epoch,
            "ranges": [[r.start, r.end, r.server_id] for r in self.ranges],
            "quotas": dict(self.quotas),
            "weights": dict(self.weights),
        }
        if self.read_only:
            document["read_only"] = True
        if self.retire_to is not None:
            document["retire_to"] = self.retire_to
        if self.kept_in is not None:
            document["kept_in"] = self.kept_in
        if self.moves:
            document["moves"] = [[m.id, m.start, m.end, m.source, m.target] for m in self.moves]
        if self.flips:
            document["flips"] = sorted(self.flips)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> PlacementMap:
        """Return the map of a JSON text, or of what `as_json` returned.

        Raises:
            PlacementError: not such a document, slots without an owner or with two, an owner
                without a quota.
        """
        fields = _fields(document, cls.__name__)
        try:
            parsed = {
                "ranges": tuple(SlotRange(*triple) for triple in fields["ranges"]),
                "moves": tuple(SlotMove(*values) for values in fields.get("moves", ())),
                "flips": frozenset(map(str, fields.get("flips", ()))),
            }
            return cls(**{**fields, **parsed})
        except PlacementError:
            raise
        except KeyError as error:
            raise PlacementError(f"not a map: no {error}") from error
        except (TypeError, AttributeError) as error:
            raise PlacementError(f"not a map: {error}") from error

    @cached_property
    def _starts(self) -> list[int]:
        return [r.start for r in self.ranges]


def slot_counts(
    weights: Mapping[str, float], owned: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return how many of the `SLOT_COUNT` slots each server gets, by largest remainder.

    Exact: weights are taken as the integer ratios that floats are. Between equal remainders the
    slot goes to a server that `owned` (slots it has now) says would have to give it up, then to
    the lower id. Servers of weight 0 are left out.

    Raises:
        PlacementError: a weight that is negative or not finite, or no weight above 0.
    """
    _check_weights(weights)
    if sum(weights.values()) == SLOT_COUNT and all(w == int(w) for w in weights.values()):
        # They are counts already, as those of most maps are.
        return {name: int(weight) for name, weight in weights.items() if weight}
    ratios = {name: weight.as_integer_ratio() for name, weight in weights.items() if weight > 0}
    if not ratios:
        raise PlacementError("no server has a weight above 0")
    # Floats' denominators are powers of 2, so the largest is a multiple of the others.
    common = max(denominator for _, denominator in ratios.values())
    parts = {name: n * (common // denominator) for name, (n, denominator) in ratios.items()}
    total = sum(parts.values())
    shares = {name: divmod(part * SLOT_COUNT, total) for name, part in parts.items()}
    counts = {name: whole for name, (whole, _) in shares.items()}
    owned = owned or {}

    def precedence(name: str) -> tuple[int, bool, str]:
        return -shares[name][1], owned.get(name, 0) <= counts[name], name

    left_over = SLOT_COUNT - sum(counts.values())
    for name in sorted(counts, key=precedence)[:left_over]:
        counts[name] += 1
    return counts


def assign_slots(
    weights: Mapping[str, float], previous: PlacementMap | None
) -> tuple[SlotRange, ...]:
    """Return ranges over all slots in proportion to `weights` (server id to weight).

    Only slots of servers that have more than their count by `slot_counts`, or are not in
    `weights`, change their owner, and no more of them than that excess. The same arguments
    give the same ranges, whatever the order of `weights`.

    Raises:
        PlacementError: a weight that is negative or not finite, or no weight above 0.
    """
    before = previous.ranges if previous is not None else ()
    owned: dict[str, int] = {}
    for held in before:
        owned[held.server_id] = owned.get(held.server_id, 0) + len(held)
    counts = slot_counts(weights, owned)
    if not before:
        return _consecutive(counts)
    excess = {name: n - counts.get(name, 0) for name, n in owned.items()}
    missing = {name: n - owned.get(name, 0) for name, n in counts.items()}
    missing = {name: n for name, n in missing.items() if n > 0}
    spans = _release(_merged([(r.start, r.end, r.server_id) for r in before]), excess, missing)
    spans = _extend_neighbours(_merged(spans), missing)
    spans = _hand_out(spans, missing)
    return tuple(
        SlotRange(start, end, owner) for start, end, owner in _merged(spans) if owner is not None
    )


def _with_owner(
    ranges: tuple[SlotRange, ...], start: int, end: int, server_id: str
) -> tuple[SlotRange, ...]:
    """Return ranges in which slots `start` to `end` belong to a server."""
    spans: list[_Span] = [(start, end, server_id)]
    for r in ranges:
        if r.start < start:
            spans.append((r.start, min(r.end, start - 1), r.server_id))
        if r.end > end:
            spans.append((max(r.start, end + 1), r.end, r.server_id))
    return tuple(SlotRange(s, e, owner) for s, e, owner in _merged(spans) if owner is not None)


# A stretch of slots, both ends included, and its owner; None while it is free.
_Span = tuple[int, int, str | None]


def _consecutive(counts: Mapping[str, int]) -> tuple[SlotRange, ...]:
    ranges = []
    start = 0
    for name in sorted(counts):
        if counts[name]:
            ranges.append(SlotRange(start, start + counts[name] - 1, name))
            start += counts[name]
    return tuple(ranges)


def _merged(spans: list[_Span]) -> list[_Span]:
    """Return `spans` in order, neighbours of one owner joined."""
    merged: list[_Span] = []
    for start, end, owner in sorted(spans, key=lambda span: span[0]):
        if merged and merged[-1][2] == owner:
            merged[-1] = (merged[-1][0], end, owner)
        else:
            merged.append((start, end, owner))
    return merged


def _release(
    spans: list[_Span], excess: Mapping[str, int], missing: Mapping[str, int]
) -> list[_Span]:
    """Free each owner's excess slots: its smallest ranges whole, then a piece of one.

    The piece is cut off the start where that lengthens what is free or what a server that lacks
    slots has there; otherwise off the end, where the next server's piece can join it.
    """
    left = {name: n for name, n in excess.items() if n > 0}
    sizes: dict[int, int] = {}
    for start, end, owner in sorted(spans, key=lambda span: (span[1] - span[0], span[0])):
        if owner in left:
            sizes[start] = min(left[owner], end - start + 1)
            left[owner] -= sizes[start]
    released: list[_Span] = []
    for start, end, owner in spans:
        size = sizes.get(start, 0)
        before = released[-1][2] if released else owner
        if size in {0, end - start + 1}:
            released.append((start, end, None if size else owner))
        elif before is None or before in missing:
            released += [(start, start + size - 1, None), (start + size, end, owner)]
        else:
            released += [(start, end - size, owner), (end - size + 1, end, None)]
    return released


def _extend_neighbours(spans: list[_Span], missing: dict[str, int]) -> list[_Span]:
    """Give free slots to servers next to them that lack some; `missing` is reduced."""
    extended: list[_Span] = []
    for i, (start, end, owner) in enumerate(spans):
        if owner is not None:
            extended.append((start, end, owner))
            continue
        left = spans[i - 1][2] if i > 0 else None
        right = spans[i + 1][2] if i + 1 < len(spans) else None
        if left is not None and missing.get(left, 0):
            size = min(missing[left], end - start + 1)
            missing[left] -= size
            extended.append((start, start + size - 1, left))
            start += size
        if start <= end and right is not None and missing.get(right, 0):
            size = min(missing[right], end - start + 1)
            missing[right] -= size
            extended.append((end - size + 1, end, right))
            end -= size
        if start <= end:
            extended.append((start, end, None))
    return extended


def _hand_out(spans: list[_Span], missing: dict[str, int]) -> list[_Span]:
    """Give the free slots that are left, in pieces as large as can be, to whoever lacks most."""
    handed = [span for span in spans if span[2] is not None]
    # Lengths and starts, shortest first: with thousands of servers, looking at all would tell.
    free = sorted((end - start + 1, start) for start, end, owner in spans if owner is None)
    for name in sorted(missing, key=lambda name: (-missing[name], name)):
        while missing[name]:
            length, start = free.pop(_best_fit(free, missing[name]))
            taken = min(length, missing[name])
            handed.append((start, start + taken - 1, name))
            missing[name] -= taken
            if taken < length:
                insort(free, (length - taken, start + taken))
    assert not free, "what was released is what was missing"
    return handed


def _best_fit(free: list[tuple[int, int]], size: int) -> int:
    """Return where the smallest free span that holds `size` stands, or else the largest."""
    found = bisect_left(free, (size, 0))
    return found if found < len(free) else bisect_left(free, (free[-1][0], 0))


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value:
        raise PlacementError(f"the {what} is not a text")


def _check_weights(weights: Mapping[str, float]) -> None:
    for server_id, weight in weights.items():
        if type(weight) not in {int, float}:
            raise PlacementError(f"the weight of {server_id!r} is not a number")
        if not (weight >= 0 and math.isfinite(weight)):
            raise PlacementError(f"the weight of {server_id!r} is not 0 or more")


def _check_ranges(ranges: tuple[SlotRange, ...]) -> None:
    expected = 0
    for r in ranges:
        _check_text(r.server_id, "owner of a range")
        if type(r.start) is not int or type(r.end) is not int:
            raise PlacementError("the ends of a range are not whole numbers")
        if r.start != expected or r.end < r.start:
            raise PlacementError(
                f"slots are not covered once and in order at {r.start}-{r.end}, not {expected}"
            )
        expected = r.end + 1
    if ranges and expected != SLOT_COUNT:
        raise PlacementError(f"the ranges end at slot {expected - 1}, not {SLOT_COUNT - 1}")


def _fields(document: Mapping[str, Any] | str | bytes, what: str) -> Mapping[str, Any]:
    if isinstance(document, str | bytes):
        try:
            document = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise PlacementError(f"not JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise PlacementError(f"a {what} is a JSON object")
    return document
