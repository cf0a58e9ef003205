"""How many servers each tier should have: from loads and limits to decisions. Pure.

Once a second the `Autoscaler` is shown the cluster (`TierView`) and says what should be done about
each tier that has a range:

- `Relieve` a server that is used above the mark while the tier as a whole is not: slots move away
  from it. Only when the tier as a whole is above the mark does moving not help, and servers come.
- `Grow` the plan to as many servers as would be used at the target; one step, however far.
- `Shrink` the tier to what was needed most while it was used little, by load and by what jobs
  were promised: by the servers that hold least of those that may go.
- `Hold`, where it would but a limit forbids it: said once, when that begins.

It does not flap: a direction counts when it was the same for some seconds in a row; after each
change of the number of servers it waits for the load to spread; and what growth aims at is lower
than what makes it grow, by more than one server less would add. What is planned, what has been
requested and what is there are kept apart, so that nothing is asked for twice.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pocketkv.amounts import format_bytes
from pocketkv.controller.loads import ROUNDING, ServerLoad, TierView
from pocketkv.scaling_rules import ScalingRules, TierRange

CONSIDER_INTERVAL_MS: Final = 1_000
"""How often `Autoscaler.consider` is called; each call is one vote."""

SPREAD_MS: Final = 5_000
"""After a change of the number of servers, load moves for so long that it says little."""

RELIEF_INTERVAL_MS: Final = 10_000
"""A server that is being relieved gets so long before more is moved away from it."""


@dataclass(frozen=True)
class Grow:
    """The plan of a tier is to have so many servers."""

    tier: str
    servers: int
    reason: str


@dataclass(frozen=True)
class Shrink:
    """A server of a tier is to be drained and stopped."""

    tier: str
    server_id: str
    reason: str


@dataclass(frozen=True)
class Relieve:
    """Slots are to move away from a server, to others of its tier, until it is used like them.

    `surplus` is the part of its load that is above the tier's mean, in `resource`.
    """

    tier: str
    server_id: str
    resource: str
    surplus: float
    reason: str


@dataclass(frozen=True)
class Hold:
    """A tier stays as it is, although it should not."""

    tier: str
    reason: str


Decision: TypeAlias = Grow | Shrink | Relieve | Hold


@dataclass
class _Memory:
    """What is remembered of a tier from one look to the next."""

    direction: str = ""
    votes: int = 0
    count: int = -1
    quiet_until_ms: int = 0
    held: str = ""
    hot: dict[str, int] = field(default_factory=dict)
    needs: deque[tuple[int, int]] = field(default_factory=deque)
    relieved_ms: dict[str, int] = field(default_factory=dict)

    def vote(self, direction: str) -> int:
        """Count a look that says `direction`; returns how many in a row did."""
        self.votes = self.votes + 1 if direction == self.direction else 1
        self.direction = direction
        return self.votes

    def note_need(self, servers: int, now_ms: int, since_ms: int) -> None:
        """Note how many servers were needed at a look, and forget looks before `since_ms`."""
        # What was needed before is nothing new beside what is needed at least as much now.
        while self.needs and self.needs[-1][1] <= servers:
            self.needs.pop()
        self.needs.append((now_ms, servers))
        while self.needs[0][0] < since_ms:
            self.needs.popleft()

    @property
    def needed(self) -> int:
        """The most servers that were needed at any of the looks that are remembered."""
        return self.needs[0][1]


@dataclass
class _Budget:
    """What the cluster as a whole may still add."""

    rules: ScalingRules
    servers: int
    cost_per_hour: float

    def servers_more(self, price_per_hour: float) -> int | None:
        """Return how many servers of a price may be added; None: any number."""
        limits = []
        if self.rules.servers_max is not None:
            limits.append(self.rules.servers_max - self.servers)
        most_usd = self.rules.cost_per_hour_max_usd
        if most_usd is not None and price_per_hour > 0:
            left_usd = most_usd - self.cost_per_hour
            limits.append(math.floor(left_usd / price_per_hour + ROUNDING))
        return max(0, min(limits)) if limits else None

    def why(self, price_per_hour: float) -> str:
        """Return which limit it is that forbids a server of a price."""
        if self.rules.servers_max is not None and self.servers >= self.rules.servers_max:
            return f"the cluster has {self.servers} of at most {self.rules.servers_max} servers"
        return (
            f"the cluster costs {self.cost_per_hour:.2f} of at most"
            f" {self.rules.cost_per_hour_max_usd or 0:.2f} USD per hour, one more server"
            f" {price_per_hour:.2f}"
        )

    def take(self, servers: int, price_per_hour: float) -> None:
        """Note that servers were added."""
        self.servers += servers
        self.cost_per_hour += servers * price_per_hour


class Autoscaler:
    """Decides, and remembers what it needs for that: votes, pauses.

    Args:
        rules: Limits and marks.

    Attributes:
        last: The last decision on each tier, and when it was taken.
    """

    def __init__(self, rules: ScalingRules) -> None:
        self.rules = rules
        self.last: dict[str, tuple[int, Decision]] = {}
        self._memories: dict[str, _Memory] = {}

    def consider(self, tiers: Sequence[TierView], now_ms: int) -> list[Decision]:
        """Return what should be done now, tier by tier; call it once a second.

        Args:
            tiers: All of them, since limits of the cluster count those without a range as well.
            now_ms: The time.
        """
        servers = sum(view.count for view in tiers)
        budget = _Budget(self.rules, servers, sum(v.count * v.price_per_hour for v in tiers))
        decisions: list[Decision] = []
        for view in tiers:
            limits = self.rules.tiers.get(view.tier)
            if limits is not None:
                decisions += self._consider_tier(view, limits, budget, now_ms)
        for decision in decisions:
            self.last[decision.tier] = (now_ms, decision)
        return decisions

    def note_change(self, tier: str, now_ms: int) -> None:
        """A tier's plan was changed by somebody else: begin anew to count votes."""
        self._begin_anew(self._memories.setdefault(tier, _Memory()), now_ms)

    def is_hot(self, tier: str, server_id: str) -> bool:
        """Return whether a server was used above the mark, at the last look, and its tier not."""
        memory = self._memories.get(tier)
        return memory is not None and server_id in memory.hot

    @staticmethod
    def _begin_anew(memory: _Memory, now_ms: int) -> None:
        memory.direction, memory.votes = "", 0
        memory.quiet_until_ms = now_ms + SPREAD_MS

    def _consider_tier(
        self, view: TierView, limits: TierRange, budget: _Budget, now_ms: int
    ) -> list[Decision]:
        memory = self._memories.setdefault(view.tier, _Memory())
        if len(view.staying) != memory.count:
            if memory.count >= 0:
                self._begin_anew(memory, now_ms)
            memory.count = len(view.staying)
        self._note_hot(view, memory)
        window_ms = self._votes(self.rules.down_after_s) * CONSIDER_INTERVAL_MS
        memory.note_need(self._need(view), now_ms, now_ms - window_ms)
        direction = self._direction(view, limits, memory)
        votes = memory.vote(direction)
        wish = self._demanded(view, limits)
        if memory.held and memory.held != ("demand" if wish else direction):
            memory.held = ""
        kind = "demand" if wish else "grow"
        if wish is None and direction == "grow" and self._may_grow(view, votes, memory, now_ms):
            wish = self._wish_to_grow(view)
        decisions = self._relieve(view, memory, now_ms)
        if wish is not None:
            decisions += self._grow(view, wish, limits, budget, memory, kind, now_ms)
        return decisions or self._shrink(view, limits, votes, memory, now_ms)

    def _direction(self, view: TierView, limits: TierRange, memory: _Memory) -> str:
        """Return what the loads of now say: ``grow``, ``shrink``, or nothing."""
        staying = len(view.staying)
        _, use = view.busiest
        if staying and use > self.rules.grow_above:
            return "grow"
        rest = staying - 1
        is_low = (
            staying > 0
            and view.is_known
            and view.wanted - view.leaving > max(limits.least, view.asked - view.outside)
            and use < self.rules.shrink_below
            and not memory.hot
            and (use * staying <= self.rules.target * rest if rest else not view.has_jobs)
        )
        return "shrink" if is_low else ""

    # --- growing -------------------------------------------------------------------------------

    @staticmethod
    def _demanded(view: TierView, limits: TierRange) -> tuple[int, str] | None:
        """Return how many servers there are to be whatever the load is, and why; or None."""
        planned = view.wanted - view.leaving
        if planned < limits.least:
            return limits.least, f"the least is {_servers(limits.least)}, the plan has {planned}"
        asked = view.asked - view.outside
        if planned < asked:
            return asked, f"jobs need {_servers(view.asked)}, the plan has {planned + view.outside}"
        return None

    def _may_grow(self, view: TierView, votes: int, memory: _Memory, now_ms: int) -> bool:
        is_on_its_way = view.requested > 0 or view.managed < view.wanted
        is_sure = votes >= self._votes(self.rules.up_after_s)
        return is_sure and not is_on_its_way and now_ms >= memory.quiet_until_ms

    def _wish_to_grow(self, view: TierView) -> tuple[int, str]:
        """Return how many servers the load needs, and why."""
        resource, use = view.busiest
        count = len(view.staying)
        enough = max(count + 1, math.ceil(use * count / self.rules.target - ROUNDING))
        return view.wanted - view.leaving + enough - count, (
            f"{resource} is used {use:.0%} on {_servers(count)}, above"
            f" {self.rules.grow_above:.0%}; {_servers(enough)} would be at"
            f" {use * count / enough:.0%}"
        )

    def _grow(
        self,
        view: TierView,
        wish: tuple[int, str],
        limits: TierRange,
        budget: _Budget,
        memory: _Memory,
        kind: str,
        now_ms: int,
    ) -> list[Decision]:
        """Return the growth to as many servers as are wished, as far as limits permit it."""
        servers, reason = wish
        wished = servers + view.leaving - view.wanted
        why = f"at most {limits.most} servers of {view.tier} are allowed"
        more = min(wished, limits.most - view.wanted)
        left = budget.servers_more(view.price_per_hour)
        if left is not None and left < more:
            why, more = budget.why(view.price_per_hour), left
        if more <= 0:
            return self._hold(view, kind, f"{reason}; but {why}", memory)
        if more < wished:
            reason += f"; only {more} more, since {why}"
        budget.take(more, view.price_per_hour)
        memory.held = ""
        self._begin_anew(memory, now_ms)
        return [Grow(view.tier, view.wanted + more, reason)]

    @staticmethod
    def _hold(view: TierView, kind: str, reason: str, memory: _Memory) -> list[Decision]:
        """Say once that a tier is held as it is."""
        if memory.held == kind:
            return []
        memory.held = kind
        return [Hold(view.tier, reason)]

    # --- relieving -----------------------------------------------------------------------------

    def _note_hot(self, view: TierView, memory: _Memory) -> None:
        """Count for how many looks in a row servers have been hot while their tier was not."""
        hot: dict[str, int] = {}
        staying = view.staying
        if len(staying) > 1 and view.busiest[1] <= self.rules.grow_above:
            for server in view.above(self.rules.grow_above):
                hot[server.id] = memory.hot.get(server.id, 0) + 1
        memory.hot = hot

    def _relieve(self, view: TierView, memory: _Memory, now_ms: int) -> list[Decision]:
        """Return the relief of each server that has been hot for long enough."""
        # Those that are as old say nothing, and their servers may be gone.
        memory.relieved_ms = {
            name: relieved_ms
            for name, relieved_ms in memory.relieved_ms.items()
            if now_ms - relieved_ms < RELIEF_INTERVAL_MS
        }
        if not memory.hot:
            return []
        uses = view.uses
        found: list[Decision] = []
        for server in view.above(self.rules.grow_above):
            is_due = server.id not in memory.relieved_ms
            if is_due and memory.hot.get(server.id, 0) >= self._votes(self.rules.up_after_s):
                memory.relieved_ms[server.id] = now_ms
                found.append(_relief(view, server, uses))
        return found

    # --- shrinking -----------------------------------------------------------------------------

    def _shrink(
        self, view: TierView, limits: TierRange, votes: int, memory: _Memory, now_ms: int
    ) -> list[Decision]:
        is_steady = not view.requested and view.managed == view.wanted and not view.leaving
        if not is_steady or now_ms < memory.quiet_until_ms:
            return []
        fewer = 1
        if view.wanted > limits.most:
            reason = f"the most is {_servers(limits.most)}, the plan has {view.wanted}"
        elif memory.direction == "shrink" and votes >= self._votes(self.rules.down_after_s):
            fewer = min(len(view.staying) - memory.needed, view.wanted - limits.least)
            reason = self._why_shrink(view, fewer)
        else:
            return []
        leavers = heapq.nsmallest(
            fewer,
            (server for server in view.staying if server.may_go),
            key=lambda server: (server.held_bytes, server.id),
        )
        if not leavers:
            if fewer <= 0:
                return []
            return self._hold(view, "shrink", f"{reason}; but no server may go now", memory)
        memory.held = ""
        self._begin_anew(memory, now_ms)
        return [
            Shrink(
                view.tier,
                leaver.id,
                f"{reason}; {leaver.id} holds the least, {format_bytes(leaver.held_bytes)}",
            )
            for leaver in leavers
        ]

    def _need(self, view: TierView) -> int:
        """Return how many of a tier's servers are needed, whatever its limits are."""
        by_load = math.ceil(view.busiest[1] * len(view.staying) / self.rules.target - ROUNDING)
        return max(by_load, view.asked, 1 if view.has_jobs else 0)

    def _why_shrink(self, view: TierView, fewer: int) -> str:
        resource, use = view.busiest
        count = len(view.staying)
        most = f"{resource} is used most, {use:.0%}" if resource else "nothing is used"
        rest = ""
        if count > fewer:
            left = count - fewer
            rest = f"; {_servers(left)} would be at {use * count / left:.0%}"
        return (
            f"{most} on {_servers(count)}, below {self.rules.shrink_below:.0%} for"
            f" {self.rules.down_after_s:g} s{rest}"
        )

    @staticmethod
    def _votes(after_s: float) -> int:
        """Return how many looks in a row make up a time."""
        return max(1, math.ceil(after_s * 1000 / CONSIDER_INTERVAL_MS))


def _relief(view: TierView, server: ServerLoad, uses: Mapping[str, float]) -> Relieve:
    resource, use = server.busiest
    mean = uses[resource]
    return Relieve(
        view.tier,
        server.id,
        resource,
        surplus=(use - mean) / use,
        reason=(
            f"{resource} of {server.id} is used {use:.0%}, above"
            f" {mean:.0%} of {_servers(len(view.staying))} of {view.tier} together"
        ),
    )


def _servers(count: int) -> str:
    return "1 server" if count == 1 else f"{count} servers"
