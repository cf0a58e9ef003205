"""PocketKV on a simulated cluster: the controller's own policy decides, and this follows. Pure.

Jobs are placed by `decide`, and placed anew when servers have joined or others' room was freed;
tiers are scaled by `Autoscaler`; who leaves is emptied as `plan_drain` says, and hot servers are
relieved as `relieve` says. Here is only what the cluster then does: servers join after a while,
slots that move carry their bytes along, and who gets too little is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pocketkv.controller import policy
from pocketkv.controller.loads import servers_asked
from pocketkv.controller.policy.needs import share_of
from pocketkv.controller.scaling import (
    RELIEF_INTERVAL_MS,
    SPREAD_MS,
    Autoscaler,
    Decision,
    Grow,
    Hold,
    Relieve,
    Shrink,
)
from pocketkv.placement import Server
from pocketkv.simulate.clock import Clock
from pocketkv.simulate.meter import Meter
from pocketkv.simulate.policies import TICK_MS, Base, World
from pocketkv.simulate.progress import WHOLE, Progress
from pocketkv.simulate.running import Running, Station
from pocketkv.simulate.stations import Stations, SummedView
from pocketkv.simulate.trace import TracedJob, milliseconds
from pocketkv.slots import SLOT_COUNT

_COOL_SERVERS: Final = 64
"""Servers that could take something from a hot one, of a tier; the least loaded."""


class Elastic(Base):
    """PocketKV's policy.

    Attributes:
        stations: The servers that have joined.
        jobs: Those that run, by id.
        refused: How many drains did not fit.
    """

    def __init__(self, world: World, clock: Clock, meter: Meter) -> None:
        super().__init__(world, clock, meter)
        self.stations = Stations()
        self.jobs: dict[str, Running] = {}
        self.refused = 0
        self._scaler = Autoscaler(world.rules)
        self._tiers = [t.name for t in world.catalog.tiers if t.name in world.rules.tiers]
        self._wanted = dict.fromkeys(self._tiers, 0)
        self._requested = dict.fromkeys(self._tiers, 0)
        self._short: dict[str, None] = {}
        self._asked_bytes: dict[str, int] = {}
        self._asked_bytes_s: dict[str, int] = {}
        self._is_freed = False
        self._numbers = 0
        # Servers that have joined are what the catalog says, as those that could be started.
        mosts = {tier: limits.most for tier, limits in world.rules.tiers.items()}
        self._supply = policy.supply_of(world.catalog, (), mosts)
        self._supply_version = -1
        # With nothing changed for so long, another look shows nothing new.
        rules = world.rules
        longest_s = max(rules.up_after_s, rules.down_after_s)
        self._quiet_ms = milliseconds(longest_s) + SPREAD_MS + RELIEF_INTERVAL_MS + 2 * TICK_MS
        self._looks_until_ms = 0
        self._is_looking = False

    # --- servers -------------------------------------------------------------------------------

    def begin(self) -> None:
        """See `Policy.begin`: the least of each tier."""
        for tier in self._tiers:
            self._wanted[tier] = self.world.rules.tiers[tier].least
            for _ in range(self._wanted[tier]):
                self._request(tier, 0)
        self.clock.run(0)

    def _request(self, tier: str, delay_ms: int) -> None:
        self._numbers += 1
        machine = self.world.catalog.tier(tier).reference
        server = Server(
            id=f"{tier}-{self._numbers:07}",
            tier=tier,
            host="simulated",
            port=1,
            machine="",
            capacity_bytes=machine.capacity_bytes,
            bandwidth_bytes_s=machine.bandwidth_bytes_s,
            machine_type=machine.name,
        )
        self.meter.start(server.id, machine, self.now_ms)
        self._requested[tier] += 1
        self.clock.after(delay_ms, lambda: self._join(server))

    def _join(self, server: Server) -> None:
        self._requested[server.tier] -= 1
        self.stations.add(Station(server))
        self._is_freed = True
        self._note_change()

    def _offered(self) -> policy.Supply:
        """Return what may be started: as `supply_of` says, which would look at every server."""
        if self._supply_version != self.stations.version:
            self._supply_version = self.stations.version
            rules = self.world.rules
            counts = {tier: self.stations.rooms.count(tier) for tier in self._tiers}
            most_usd = rules.cost_per_hour_max_usd
            spent_usd = sum(
                count * self.world.catalog.tier(tier).server_price_per_hour
                for tier, count in counts.items()
            )
            self._supply = replace(
                self._supply,
                servers_left={n: max(0, rules.tiers[n].most - counts[n]) for n in counts},
                budget_per_hour=(math.inf if most_usd is None else max(0.0, most_usd - spent_usd)),
            )
        return self._supply

    # --- jobs ----------------------------------------------------------------------------------

    def start(self, traced: TracedJob) -> None:
        """See `Policy.start`."""
        self._numbers += 1
        job = Running.begun(f"{traced.name}-{self._numbers}", traced, self.world.catalog)
        self.jobs[job.id] = job
        job.progress = Progress(
            traced,
            self.clock,
            self.meter,
            lambda rate, held: self._do(job, rate, held),
            lambda: self._end(job),
        )
        decision = policy.decide(
            traced.hints, self.world.catalog, self.stations.rooms, supply=self._offered()
        )
        self._place(job, decision.slots, decision.quotas)
        self._judge(job, decision, 0)
        if job.missing:
            self.meter.missing_jobs += 1

    def _do(self, job: Running, rate_bytes_s: int, held_bytes: int) -> None:
        job.rate_bytes_s, job.held_bytes = rate_bytes_s, held_bytes
        self._reload(job)

    def _reload(self, job: Running) -> None:
        for server_id in list(job.slots):
            self._use(self.stations.put(job, server_id, job.own[server_id]))
        self._note_change()

    def _end(self, job: Running) -> None:
        del self.jobs[job.id]
        self._short.pop(job.id, None)
        self._ask(job, ())
        job.moves += 1
        for server_id in list(job.slots):
            self._use(self.stations.put(job, server_id, None))
        job.slots = {}
        self._is_freed = True
        self._note_change()

    def _use(self, more: tuple[int, int]) -> None:
        self.meter.use(*more, self.now_ms)

    def _place(
        self, job: Running, slots: Mapping[str, int], quotas: Mapping[str, int | None]
    ) -> None:
        """Have a job on other servers, or have other parts of it on the same ones."""
        before, job.slots = job.slots, dict(slots)
        for server_id in before:
            if server_id not in slots:
                self._use(self.stations.put(job, server_id, None))
        for server_id, count in slots.items():
            own = policy.Commitment(
                quotas.get(server_id) or 0, share_of(job.need.throughput_bytes_s, count), 1
            )
            if before.get(server_id) != count or job.own[server_id] != own:
                self._use(self.stations.put(job, server_id, own))
        self._note_change()

    def _judge(self, job: Running, decision: policy.Decision, when_ms: int) -> None:
        """Note what a job lacks as it is placed now; it has what it has in so many ms."""
        self._ask(job, decision.asks)
        tiers = {name: self.stations.by_id[name].server.tier for name in decision.slots}
        missing = job.missing_by(decision.shortages, tiers)
        if missing or decision.asks:
            self._short[job.id] = None
        else:
            self._short.pop(job.id, None)
        job.moves += 1
        if not when_ms:
            self._lack(job, missing)
            return
        move = job.moves

        def arrived() -> None:
            if job.moves == move:
                self._lack(job, missing)

        self.clock.after(when_ms, arrived)

    def _lack(self, job: Running, missing: int) -> None:
        if missing != job.missing or not job.speed:
            job.missing = missing
            job.pace(missing, is_placed=bool(job.slots))
            self._reload(job)

    def _ask(self, job: Running, asks: tuple[policy.Ask, ...]) -> None:
        for sign, those in ((-1, job.asks), (1, asks)):
            for ask in those:
                for sums, amount in (
                    (self._asked_bytes, ask.capacity_bytes),
                    (self._asked_bytes_s, ask.throughput_bytes_s),
                ):
                    sums[ask.tier] = sums.get(ask.tier, 0) + sign * amount
        job.asks = asks

    def _place_the_short(self) -> None:
        """Place those anew that have too little, now that there is room that was not there."""
        self._is_freed = False
        for job_id in list(self._short):
            job = self.jobs[job_id]
            if job.slots and not self._may_have_more(job):
                continue
            decision = policy.decide(
                job.traced.hints,
                self.world.catalog,
                self.stations.rooms,
                job.slots,
                own=job.own,
                may_move=True,
                supply=self._offered(),
            )
            if decision.slots == job.slots and decision.asks == job.asks:
                continue
            took_ms = self._move(job, decision.slots, decision.quotas)
            self._judge(job, decision, took_ms)

    def _may_have_more(self, job: Running) -> bool:
        """Return whether anything is free on the tiers that a job allows."""
        need = job.need
        for tier in job.demand.tiers:
            free_bytes, free_bytes_s = self.stations.rooms.free(tier, policy.Condition.OPEN)
            if free_bytes > need.capacity_bytes // SLOT_COUNT and (
                free_bytes_s > need.throughput_bytes_s // SLOT_COUNT
            ):
                return True
        return False

    def _move(
        self, job: Running, slots: Mapping[str, int], quotas: Mapping[str, int | None]
    ) -> int:
        """Move slots, and what is in them; returns the milliseconds that this takes."""
        slowest_ms = 0
        for server_id, count in job.slots.items():
            leaving = count - slots.get(server_id, 0)
            if leaving > 0:
                moved = job.held_bytes * leaving // SLOT_COUNT
                self.meter.moved_bytes += moved
                slowest_ms = max(slowest_ms, self._move_ms(server_id, moved))
        self._place(job, slots, quotas)
        return slowest_ms

    def _move_ms(self, server_id: str, moved_bytes: int) -> int:
        server = self.stations.by_id[server_id].server
        speed = max(1.0, server.bandwidth_bytes_s * self.world.move_share)
        return math.ceil(moved_bytes * 1000 / speed)

    # --- scaling -------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._looks_until_ms = self.now_ms + self._quiet_ms
        if not self._is_looking:
            self._is_looking = True
            self.clock.at((self.now_ms // TICK_MS + 1) * TICK_MS, self._look)

    def _look(self) -> None:
        """Do what the controller does once a second."""
        if self._is_freed and self._short:
            self._place_the_short()
        views = [self._view(tier) for tier in self._tiers]
        leavers: dict[str, list[str]] = {}
        for decision in self._scaler.consider(views, self.now_ms):
            self._follow(decision, leavers)
        for names in leavers.values():
            self._drain(names)
        if self.now_ms < self._looks_until_ms:
            self.clock.after(TICK_MS, self._look)
        else:
            self._is_looking = False

    def _view(self, tier: str) -> SummedView:
        sums = self.stations.sums(tier)
        reference = self.world.catalog.tier(tier)
        asked = servers_asked(
            [
                (sums.kept_bytes + self._asked_bytes.get(tier, 0), reference.capacity_bytes),
                (sums.kept_bytes_s + self._asked_bytes_s.get(tier, 0), reference.bandwidth_bytes_s),
            ]
        )
        return SummedView(
            tier,
            servers=tuple(sums.loads.values()),
            wanted=self._wanted[tier],
            requested=self._requested[tier],
            managed=len(sums.loads),
            asked=asked,
            has_jobs=sums.placed > 0,
            price_per_hour=reference.server_price_per_hour,
            sums=sums,
        )

    def _follow(self, decision: Decision, leavers: dict[str, list[str]]) -> None:
        match decision:
            case Grow(tier=tier, servers=servers):
                more = servers - self._wanted[tier]
                self._wanted[tier] = servers
                for _ in range(more):
                    self._request(tier, self.world.start_delay_ms)
                self._note_change()
            case Shrink(tier=tier, server_id=server_id):
                leavers.setdefault(tier, []).append(server_id)
                self._note_change()
            case Relieve(tier=tier, server_id=server_id):
                self._relieve(tier, server_id)
            case Hold():
                pass

    def _drain(self, names: Sequence[str]) -> None:
        """Have servers of a tier leave, fewer if not all can; who holds least comes first."""
        while names:
            jobs = dict.fromkeys(j for name in names for j in self.stations.by_id[name].jobs)
            residents = [self._resident(job_id) for job_id in jobs]
            plan = policy.plan_drain(names, residents, self.stations.rooms, self.world.catalog)
            if plan.fits:
                self._empty(names, plan)
                return
            self.refused += 1
            names = names[: len(names) // 2]

    def _empty(self, names: Sequence[str], plan: policy.DrainPlan) -> None:
        for name in names:
            took_ms = self._move_ms(name, self.stations.by_id[name].held_bytes)
            self.stations.drain(name)
            self.clock.after(took_ms, partial(self._leave, name))
        for job_id, slots in plan.slots.items():
            self._shift(job_id, slots)

    def _leave(self, server_id: str) -> None:
        tier = self.stations.by_id[server_id].server.tier
        # Nothing is placed on who is leaving, unless there is nobody else.
        if self.stations.by_id[server_id].jobs:
            self.clock.after(TICK_MS, lambda: self._leave(server_id))
            return
        self.stations.remove(server_id)
        self._wanted[tier] -= 1
        self.meter.stop(server_id, self.now_ms)
        self._note_change()

    def _relieve(self, tier: str, server_id: str) -> None:
        coolest = self.stations.rooms.ordered(tier, policy.Condition.OPEN)[:_COOL_SERVERS]
        loads = {name: self._load(name) for name in {server_id, *(room.name for room in coolest)}}
        residents = [self._resident(job_id) for job_id in self.stations.by_id[server_id].jobs]
        mark = self.world.rules.grow_above
        relief = policy.relieve(residents, loads, self.stations.rooms, mark=mark)
        for job_id, slots in relief.slots.items():
            self._shift(job_id, slots)

    def _shift(self, job_id: str, slots: Mapping[str, int]) -> None:
        """Have a job's slots elsewhere, with as much there as it keeps now."""
        job = self.jobs[job_id]
        quotas = {}
        for name, count in slots.items():
            mine = job.own.get(name, policy.NOTHING).capacity_bytes
            free = self.stations.rooms[name].free_bytes + mine
            quotas[name] = job.need.quota(count, free)
        self._move(job, slots, quotas)

    def _resident(self, job_id: str) -> policy.Resident:
        job = self.jobs[job_id]
        return policy.Resident(job_id, job.traced.hints, job.slots, job.own)

    def _load(self, server_id: str) -> policy.ServerLoad:
        station = self.stations.by_id[server_id]
        jobs = {
            job_id: policy.JobLoad(0.0, float(rate), held)
            for job_id in station.jobs
            for rate, held in [self.jobs[job_id].loads[server_id]]
        }
        return policy.ServerLoad(0.0, float(station.traffic_bytes_s), station.held_bytes, jobs)

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        self.stations.validate()
        rules = self.world.rules
        servers = [station.server for station in self.stations.by_id.values()]
        mosts = {tier: limits.most for tier, limits in rules.tiers.items()}
        most_usd = rules.cost_per_hour_max_usd
        known = policy.supply_of(
            self.world.catalog, servers, mosts, math.inf if most_usd is None else most_usd
        )
        assert self._offered().offers == known.offers
        assert self._offered().servers_left == known.servers_left
        for job in self.jobs.values():
            assert sum(job.slots.values()) == (SLOT_COUNT if job.slots else 0)
            assert job.own.keys() == job.loads.keys() == job.slots.keys()
            assert 0 <= job.missing <= WHOLE
