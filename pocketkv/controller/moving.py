"""Which slots are to move where, and when: orders, and what comes of them. Pure.

A job that is placed has a plan, the weights of its map. Whenever the plan may be better
(`unsettled`), it is made anew; whatever then is elsewhere than planned is moved, by orders in the
map, as many at a time as servers and network bear (`traffic`). The source of a move carries it
out, and source or target tell (`SlotsMoved`); only then does the map say so. An order is never
taken back while both live: it ends when it was carried out, when it failed, or when one of them
is gone.

What is told twice, late, or by somebody who has nothing to do with it, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Final

from pocketkv.catalog import Catalog
from pocketkv.controller.changes import Changes
from pocketkv.controller.fleet import Fleet
from pocketkv.controller.messages import MoveFailed, SlotsMoved
from pocketkv.controller.placements import held_slots
from pocketkv.controller.policy import Condition, Decision, decide
from pocketkv.controller.retention import RetainingBooks
from pocketkv.controller.traffic import MOVE_BYTES_MAX, Traffic, Way
from pocketkv.controller.transit import (
    Stretch,
    arrived,
    carried_out,
    handed_out,
    is_in_transit,
    outstanding,
    planned_slots,
    quotas_in_transit,
    quotas_of_plan,
    with_moves,
)
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, SlotMove, assign_slots

# Jobs whose plan is made anew in one event, and those that may wait for their moves meanwhile:
# the others are looked at when these are on their way.
REPLANS_MAX: Final = 64
WAITING_JOBS_MAX: Final = 64
# Stretches of one job that are looked at in one event.
JOB_ORDERS_MAX: Final = 8
# After a move has failed, the next one to that target waits: from the first to the second.
RETRY_MIN_MS: Final = 500
RETRY_MAX_MS: Final = 30_000
# So many failures in a row, and the job looks for another target.
FAILURES_MAX: Final = 4
# Orders that ended otherwise than by being carried out are remembered, in case they were.
DROPPED_MOVES_MAX: Final = 10_000
# The code of a move that was carried out and whose target is gone with everything.
LOST: Final = "LOST"
# That of a move for which its target had no room: the next one is half as large, down to this.
NO_ROOM: Final = "OOM"
PORTION_MIN_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Order:
    """What is known of a move beside what the map says."""

    since_ms: int
    moved_bytes: int


@dataclass(frozen=True)
class Setback:
    """Moves of a job to one target that failed, in a row."""

    count: int
    until_ms: int
    reason: str


def _says_what_it_needs(hints: Hints) -> bool:
    return bool(hints.capacity_bytes or hints.throughput_bytes_s or hints.lambdas)


class MovingBooks(RetainingBooks):
    """Books in which slots move.

    Attributes:
        in_transit: Jobs with slots that are on their way, or are to be.
        orders: Moves that are ordered, by job and id.
        setbacks: By job and target.
        hot: Servers that slots are to move away from soon, since they have too much to do.
    """

    def __init__(self, catalog: Catalog, fleet: Fleet, epoch: int) -> None:
        super().__init__(catalog, fleet, epoch)
        self.in_transit: set[str] = set()
        self.orders: dict[tuple[str, str], Order] = {}
        self.setbacks: dict[tuple[str, str], Setback] = {}
        self.hot: frozenset[str] = frozenset()
        # What may move of a job to a target at a time since that has refused more.
        self._portions: dict[tuple[str, str], int] = {}
        self._outstanding: dict[str, tuple[PlacementMap, list[Stretch]]] = {}
        self._dropped: dict[tuple[str, str], SlotMove] = {}
        self._lost: dict[tuple[str, str], None] = {}

    # --- what is on its way --------------------------------------------------------------------

    def moves(self) -> Iterator[tuple[str, SlotMove]]:
        """Yield all moves that are ordered, with their jobs."""
        for job_id in sorted(self.in_transit):
            for move in self.placements[job_id].moves:
                yield job_id, move

    def waiting(self, job_id: str) -> list[Stretch]:
        """Return what is to move and has not been ordered yet."""
        placement = self.placements[job_id]
        known = self._outstanding.get(job_id)
        if known is not None and known[0] is placement:
            return known[1]
        found = outstanding(placement)
        self._outstanding[job_id] = (placement, found)
        return found

    def job_bytes(self, job_id: str, server_id: str, slots: int) -> int:
        """Return what so many of the slots of a job on a server hold, as last reported."""
        member = self.fleet.members.get(server_id)
        usage = None if member is None else member.report.jobs.get(job_id)
        if usage is None or not usage.used_bytes:
            return 0
        held = self.placements.held(job_id).get(server_id, 0)
        return usage.used_bytes * slots // held if held else 0

    def _keep(self, placement: PlacementMap) -> None:
        known = self.placements.get(placement.job_id)
        super()._keep(placement)
        job_id = placement.job_id
        if is_in_transit(placement):
            self.in_transit.add(job_id)
        else:
            self.in_transit.discard(job_id)
            self._outstanding.pop(job_id, None)
        ordered = {move.id for move in placement.moves}
        for move in () if known is None else known.moves:
            if move.id not in ordered:
                self.orders.pop((job_id, move.id), None)
        for move in placement.moves:
            if (job_id, move.id) not in self.orders:
                self.orders[job_id, move.id] = Order(0, 0)

    def _end_or_retain(self, job_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        self._remember_dropped(job_id, self.placements[job_id].moves)
        super()._end_or_retain(job_id, reason, now_ms, changes)

    def _end(self, job_id: str, reason: str, now_ms: int, changes: Changes) -> None:
        for move in self.placements[job_id].moves:
            self.orders.pop((job_id, move.id), None)
        super()._end(job_id, reason, now_ms, changes)
        self.in_transit.discard(job_id)
        self._outstanding.pop(job_id, None)
        self._forget_pairs(lambda pair: pair[0] == job_id)

    # --- plans ---------------------------------------------------------------------------------

    def want(
        self, job_id: str, decision: Decision, now_ms: int, changes: Changes, reason: str
    ) -> None:
        """Have a job that is placed go where a decision says; its slots follow, bit by bit."""
        placement = self.placements[job_id]
        assert placement.ranges, "only what is placed can move"
        self._note_shortages(job_id, decision, changes)
        if not self.fleet.up():
            return  # Where all are to go, nothing is better elsewhere.
        weights = {name: float(n) for name, n in sorted(decision.slots.items())}
        planned = replace(placement, weights=weights)
        hints = self.tenants[job_id].hints
        quotas = quotas_in_transit(planned, hints.capacity_bytes, decision.quotas)
        planned = replace(planned, quotas=quotas)
        if planned == placement:
            return
        self._put(planned, now_ms, changes)
        slots = sum(len(stretch) for stretch in self.waiting(job_id))
        if slots:
            changes.log(
                logging.INFO, "job placed anew", job=job_id, slots_to_move=slots, reason=reason
            )

    def _decide(
        self,
        job_id: str,
        now_ms: int,
        *,
        spread: bool = False,
        planned: Mapping[str, int] | None = None,
    ) -> Decision:
        """Return where a job had best be that is placed, and `planned` to be where its map says."""
        if planned is None:
            planned = planned_slots(self.placements[job_id])
        self._refresh_rooms()
        # What is on a server that will end anyway goes elsewhere, whether there is room or not.
        held = {
            name: n
            for name, n in planned.items()
            if name in self.rooms and not self.fleet.members[name].ends_soon
        }
        hints, own = self.tenants[job_id].hints, self.own(job_id)
        refusing = self._close_refusing(job_id, now_ms)
        if refusing:
            # What they were to get they will not have.
            there = held_slots(arrived(self.placements[job_id]))
            held = {name: there.get(name, 0) if name in refusing else n for name, n in held.items()}
            held = {name: n for name, n in held.items() if n}

        def decided(held: Mapping[str, int]) -> Decision:
            return decide(
                hints, self.catalog, self.rooms, held, own=own, may_move=True, supply=self.supply
            )

        decision = decided(held)
        if spread and not _says_what_it_needs(hints):
            # It goes over more servers, but not over others instead.
            wider = decided({})
            if len(wider.slots) > len(decision.slots):
                decision = wider
        self.fleet.changed.update(refusing)
        return decision

    def _close_refusing(self, job_id: str, now_ms: int) -> set[str]:
        """Have servers that keep failing to take a job's slots get no more; returns which."""
        refusing = {
            target
            for (name, target), setback in self.setbacks.items()
            if name == job_id and setback.count >= FAILURES_MAX and now_ms < setback.until_ms
        }
        for name in refusing & set(self.rooms):
            self.rooms.put(self.rooms[name].server, self.rooms.taken(name), Condition.CLOSED)
        return refusing

    def _unsettle(self, job_ids: Iterable[str], *, spread: bool, is_urgent: bool = False) -> None:
        """Have plans made anew; those of urgent ones first."""
        found = {
            job_id: spread or self.unsettled.get(job_id, False)
            for job_id in job_ids
            if job_id in self.tenants and self.tenants[job_id].retention is None
        }
        if is_urgent:
            self.unsettled = {
                **found,
                **{k: v for k, v in self.unsettled.items() if k not in found},
            }
        else:
            self.unsettled.update(found)

    def _unsettle_after_growth(self) -> None:
        """New servers may help jobs that get too little, and those that go over all there are."""
        for job_id, tenant in self.tenants.items():
            if tenant.shortages or tenant.asks or not _says_what_it_needs(tenant.hints):
                self._unsettle([job_id], spread=True)
        for member in self.fleet.draining():
            # There may have been nowhere to go.
            job_ids = self.placements.jobs_naming(member.server.id)
            self._unsettle(job_ids, spread=False, is_urgent=True)

    # --- orders --------------------------------------------------------------------------------

    def _advance(self, now_ms: int, changes: Changes) -> None:
        """Make plans anew, and order as many moves as may be under way."""
        if not self.is_started:
            return
        for _ in range(REPLANS_MAX):
            if not self.unsettled:
                break
            if len(self.in_transit) >= WAITING_JOBS_MAX and not self._is_any_urgent():
                break
            job_id = next(iter(self.unsettled))
            spread = self.unsettled.pop(job_id)
            if self.placements[job_id].ranges:
                decision = self._decide(job_id, now_ms, spread=spread)
                self.want(job_id, decision, now_ms, changes, "servers came or went")
        traffic = self._traffic()
        if not traffic.is_full:
            self._order(traffic, now_ms, changes)

    def _is_any_urgent(self) -> bool:
        """Whether the next plan is that of a job on a server which will end whatever is there."""
        job_id = next(iter(self.unsettled))
        return any(self.fleet.members[name].ends_soon for name in self.placements.held(job_id))

    def _traffic(self) -> Traffic:
        traffic = Traffic()
        for job_id, move in self.moves():
            order = self.orders[job_id, move.id]
            traffic.add(Way(move.source, move.target, order.moved_bytes))
        return traffic

    def _order(self, traffic: Traffic, now_ms: int, changes: Changes) -> None:
        """Order what is to move, what helps soonest first."""
        found: dict[str, list[tuple[Stretch, int]]] = {}
        for _, moved_bytes, job_id, stretch in sorted(
            self._candidates(traffic, now_ms), key=lambda candidate: candidate[:3]
        ):
            if traffic.is_full:
                break
            bytes_max = self._portions.get((job_id, stretch.target), MOVE_BYTES_MAX)
            slots_max = max(1, len(stretch) * bytes_max // max(moved_bytes, bytes_max))
            for piece in stretch.pieces(slots_max):
                piece_bytes = moved_bytes * len(piece) // len(stretch)
                if not traffic.take(Way(piece.source, piece.target, piece_bytes)):
                    break
                found.setdefault(job_id, []).append((piece, piece_bytes))
                if bytes_max < MOVE_BYTES_MAX:
                    break  # Several at a time would take the room from each other.
        for job_id, pieces in sorted(found.items()):
            self._stamp(changes)
            ordered = with_moves(self.placements[job_id], [p for p, _ in pieces], self.epoch)
            self._put(ordered, now_ms, changes)
            for piece, piece_bytes in pieces:
                move_id = f"{self.epoch}-{piece.start}"
                self.orders[job_id, move_id] = Order(now_ms, piece_bytes)
                changes.log(
                    logging.INFO,
                    "move ordered",
                    job=job_id,
                    move=move_id,
                    source=piece.source,
                    target=piece.target,
                    slots=len(piece),
                    bytes=piece_bytes,
                )

    def _candidates(self, traffic: Traffic, now_ms: int) -> Iterator[tuple[int, int, str, Stretch]]:
        """Yield what may be ordered now: its rank (low ones first), bytes, job and slots."""
        leaving = {
            name: 0 if member.ends_soon else 2
            for name, member in self.fleet.members.items()
            if member.drain is not None
        }
        leaving = {**dict.fromkeys(self.hot, 1), **leaving}
        sources, targets = traffic.busy()
        # Those will not be targets in the next plan.
        targets |= leaving.keys()
        for job_id in self.in_transit:
            rank = 1 if self.tenants[job_id].shortages else 3
            ranked = [
                (leaving.get(stretch.source, rank), stretch)
                for stretch in self.waiting(job_id)
                if stretch.target not in targets and stretch.source not in sources
            ]
            if self.setbacks or self._portions:
                ranked = [pair for pair in ranked if not self._is_set_back(job_id, pair[1], now_ms)]
            for found, stretch in nsmallest(JOB_ORDERS_MAX, ranked, key=lambda pair: pair[0]):
                moved_bytes = self.job_bytes(job_id, stretch.source, len(stretch))
                yield found, moved_bytes, job_id, stretch

    def _is_set_back(self, job_id: str, stretch: Stretch, now_ms: int) -> bool:
        pair = (job_id, stretch.target)
        setback = self.setbacks.get(pair)
        if setback is not None and now_ms < setback.until_ms:
            return True
        moves = self.placements[job_id].moves
        return pair in self._portions and any(move.target == stretch.target for move in moves)

    def _resize(self, job_id: str, move: SlotMove, *, has_room: bool) -> None:
        """Have less of a job move to a target at a time, or more again."""
        pair = (job_id, move.target)
        known_bytes = self._portions.get(pair)
        if not has_room:
            moved_bytes = self.orders[job_id, move.id].moved_bytes
            half_bytes = min(moved_bytes, known_bytes or MOVE_BYTES_MAX) // 2
            self._portions[pair] = max(half_bytes, PORTION_MIN_BYTES)
        elif known_bytes is not None:
            self._portions[pair] = 2 * known_bytes
            if 2 * known_bytes >= MOVE_BYTES_MAX:
                del self._portions[pair]

    # --- what comes of them --------------------------------------------------------------------

    def _on_slots_moved(self, event: SlotsMoved, now_ms: int, changes: Changes) -> None:
        move = self._move_of(event)
        if move is None:
            self._on_late_move(event, now_ms, changes)
            return
        self.setbacks.pop((event.job_id, move.target), None)
        self._resize(event.job_id, move, has_room=True)
        self._shift_usage(event, move)
        placement = carried_out(self.placements[event.job_id], [move.id])
        self._put(self._with_quotas(placement), now_ms, changes)
        changes.log(
            logging.INFO,
            "slots moved",
            job=event.job_id,
            move=move.id,
            source=move.source,
            target=move.target,
            slots=len(move),
            keys=event.keys,
            bytes=event.moved_bytes,
        )

    def _on_move_failed(self, event: MoveFailed, now_ms: int, changes: Changes) -> None:
        if event.code == LOST:
            self._count_lost_on_the_way(event, changes)
        move = self._move_of(event)
        if move is None:
            return
        known = self.setbacks.get((event.job_id, move.target))
        count = 1 if known is None else known.count + 1
        pause_ms = min(RETRY_MIN_MS << min(count - 1, 16), RETRY_MAX_MS)
        if event.code == NO_ROOM:
            self._resize(event.job_id, move, has_room=False)
            pause_ms = RETRY_MIN_MS
        setback = Setback(count, now_ms + pause_ms, event.reason)
        self.setbacks[event.job_id, move.target] = setback
        changes.log(
            logging.WARNING,
            "move failed",
            job=event.job_id,
            move=move.id,
            source=move.source,
            target=move.target,
            reason=event.reason,
            code=event.code,
            retry_ms=pause_ms,
        )
        self._drop(event.job_id, [move], now_ms, changes)
        if count >= FAILURES_MAX:
            self._unsettle([event.job_id], spread=False, is_urgent=True)

    def _move_of(self, event: SlotsMoved | MoveFailed) -> SlotMove | None:
        """Return the move that is told of; None if it is over, or not the teller's business."""
        placement = self.placements.get(event.job_id)
        move = None if placement is None else placement.move(event.move_id)
        if move is None or event.member_id not in (move.source, move.target):
            return None
        return move

    def _drop(self, job_id: str, moves: Iterable[SlotMove], now_ms: int, changes: Changes) -> None:
        """Have a map that does not order these moves any more."""
        gone = {move.id: move for move in moves}
        placement = self.placements[job_id]
        left = tuple(move for move in placement.moves if move.id not in gone)
        self._remember_dropped(job_id, gone.values())
        self._put(self._with_quotas(replace(placement, moves=left)), now_ms, changes)

    def _with_quotas(self, placement: PlacementMap) -> PlacementMap:
        capacity_bytes = self.tenants[placement.job_id].hints.capacity_bytes
        decided = quotas_of_plan(placement, capacity_bytes)
        quotas = quotas_in_transit(placement, capacity_bytes, decided)
        return replace(placement, quotas=quotas)

    def _remember_dropped(self, job_id: str, moves: Iterable[SlotMove]) -> None:
        for move in moves:
            self._dropped[job_id, move.id] = move
        while len(self._dropped) > DROPPED_MOVES_MAX:
            del self._dropped[next(iter(self._dropped))]

    def _shift_usage(self, event: SlotsMoved, move: SlotMove) -> None:
        """Have the last reports say what they would after the move."""
        members = self.fleet.members
        for name, sign in ((move.source, -1), (move.target, 1)):
            member = members.get(name)
            if member is not None:
                report = member.report.after_move(
                    event.job_id, keys=sign * event.keys, used_bytes=sign * event.moved_bytes
                )
                self._use_after_move(name, report, event.job_id)

    # --- what goes wrong -----------------------------------------------------------------------

    def _on_late_move(self, event: SlotsMoved, now_ms: int, changes: Changes) -> None:
        """A move was carried out that is not ordered any more."""
        move = self._dropped.get((event.job_id, event.move_id))
        tenant = self.tenants.get(event.job_id)
        if move is None or tenant is None or event.member_id not in (move.source, move.target):
            return
        placement = self.placements[event.job_id]
        if tenant.retention is not None:
            self._retire_from_target(event.job_id, move, now_ms, changes)
        elif placement.owner(move.start) == move.target and move.source not in self.fleet.members:
            # Its source died meanwhile, and these keys were thought to have died with it.
            del self._dropped[event.job_id, event.move_id]
            found = min(event.keys, tenant.lost_keys)
            self.tenants[event.job_id] = replace(tenant, lost_keys=tenant.lost_keys - found)
            changes.jobs.add(event.job_id)
            changes.log(
                logging.INFO,
                "keys had been moved before their server died",
                job=event.job_id,
                server=move.target,
                keys=found,
            )

    def _retire_from_target(
        self, job_id: str, move: SlotMove, now_ms: int, changes: Changes
    ) -> None:
        """A job ended while slots changed hands: what is retained of them is at the target."""
        retention = self.tenants[job_id].retention
        placement = self.placements[job_id]
        assert retention is not None  # The caller has looked.
        is_there = placement.owner(move.start) == move.source
        if not retention.pending or not is_there or move.target not in self.fleet.members:
            return
        del self._dropped[job_id, move.id]
        ordered = replace(
            placement,
            moves=(move,),
            quotas={**placement.quotas, move.target: None},
        )
        self._publish(job_id, carried_out(ordered, [move.id]).ranges, now_ms, changes)
        self._redirect(job_id, retention, retention.target, now_ms, changes)

    def _count_lost_on_the_way(self, event: MoveFailed, changes: Changes) -> None:
        tenant = self.tenants.get(event.job_id)
        if tenant is None or tenant.retention is not None:
            return
        if event.member_id not in self.placements[event.job_id].owners():
            return
        key = (event.job_id, event.move_id)
        if key not in self._lost:
            self._lost[key] = None
            self._lose_keys(event.job_id, event.member_id, event.keys, event.reason, changes)
        while len(self._lost) > DROPPED_MOVES_MAX:
            del self._lost[next(iter(self._lost))]

    def _reassign(self, job_id: str, server_id: str, now_ms: int, changes: Changes) -> None:
        """Have slots of a server that is no more served by others, from now on."""
        placement = self.placements[job_id]
        members = self.fleet.members
        kept, taken, gone = [], [], []
        for move in placement.moves:
            if server_id not in (move.source, move.target):
                kept.append(move)
            elif move.source == server_id and move.target in members:
                taken.append(move)
            else:
                gone.append(move)
        self._remember_dropped(job_id, [*taken, *gone])
        # The target of a move may have taken its slots already, and nobody can tell any more.
        current = replace(placement, moves=(*kept, *taken))
        current = carried_out(current, [move.id for move in taken])
        coming = held_slots(arrived(current))
        planned = planned_slots(placement)
        if is_in_transit(placement):
            # What was to go to it stays where it is, until there is another plan.
            planned = coming
            self._unsettle([job_id], spread=True)
        decision = self._decide(job_id, now_ms, planned=planned)
        self._note_shortages(job_id, decision, changes)
        if not decision.slots:
            self._put(PlacementMap(job_id, self.epoch, (), {}, {}), now_ms, changes)
            return
        held = held_slots(current)
        orphans = held.pop(server_id, 0)
        for name, n in handed_out(orphans, decision.slots, coming).items():
            held[name] = held.get(name, 0) + n
        ranges = assign_slots(held, current) if orphans else current.ranges
        weights = decision.slots if self.fleet.up() else held
        current = replace(
            current,
            ranges=ranges,
            weights={name: float(n) for name, n in sorted(weights.items())},
            quotas={**dict.fromkeys([*held, *decision.slots]), **current.quotas},
        )
        hints = self.tenants[job_id].hints
        quotas = quotas_in_transit(current, hints.capacity_bytes, decision.quotas)
        self._put(replace(current, quotas=quotas), now_ms, changes)

    def _forget_setbacks(self, server_id: str) -> None:
        """A server is another one, or no more: what went wrong with it says nothing."""
        self._forget_pairs(lambda pair: pair[1] == server_id)

    def _forget_pairs(self, is_gone: Callable[[tuple[str, str]], bool]) -> None:
        """Forget what is known of moves of jobs to targets."""
        for pair in filter(is_gone, [*self.setbacks, *self._portions]):
            self.setbacks.pop(pair, None)
            self._portions.pop(pair, None)

    def _validate_moves(self, placement: PlacementMap) -> None:
        """Check what must hold of what a map orders."""
        assert is_in_transit(placement) == (placement.job_id in self.in_transit)
        assert not placement.flips
        for move in placement.moves:
            assert {move.source, move.target} <= self.fleet.members.keys()
            assert (placement.job_id, move.id) in self.orders
        if placement.read_only:
            assert not placement.moves
