"""The maps of all jobs, and what they keep of each server; the two never differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pocketkv.controller.policy import NOTHING, Commitment
from pocketkv.placement import PlacementMap


class Placements:
    """A map for each job, by its id, with an index by server.

    Attributes:
        changed: Servers of which jobs keep something else since this was last emptied, with those
            jobs.
    """

    def __init__(self) -> None:
        self.changed: dict[str, set[str]] = {}
        self._maps: dict[str, PlacementMap] = {}
        self._held: dict[str, Mapping[str, int]] = {}
        self._kept: dict[str, Mapping[str, Commitment]] = {}
        self._committed: dict[str, Commitment] = {}
        self._jobs_naming: dict[str, set[str]] = {}

    def __getitem__(self, job_id: str) -> PlacementMap:
        return self._maps[job_id]

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._maps

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def get(self, job_id: str) -> PlacementMap | None:
        """Return a job's map, if it has one."""
        return self._maps.get(job_id)

    def maps(self) -> tuple[PlacementMap, ...]:
        """Return all maps."""
        return tuple(self._maps.values())

    def jobs_on(self, server_id: str) -> list[str]:
        """Return the ids of the jobs that have slots on a server."""
        return [j for j in self.jobs_naming(server_id) if server_id in self._maps[j].owners()]

    def jobs_naming(self, server_id: str) -> list[str]:
        """Return the ids of the jobs that have slots on a server, or are to have some."""
        return sorted(self._jobs_naming.get(server_id, ()))

    @property
    def committed(self) -> Mapping[str, Commitment]:
        """What jobs keep, by server; servers of which nothing is kept may be missing."""
        return self._committed

    def held(self, job_id: str) -> Mapping[str, int]:
        """Return how many slots of a job each server owns."""
        held = self._held.get(job_id)
        if held is None:
            held = self._held[job_id] = held_slots(self._maps[job_id])
        return held

    def kept(self, job_id: str) -> Mapping[str, Commitment]:
        """Return what a job keeps of each server that its map names; nothing without a map."""
        return self._kept.get(job_id, {})

    def put(self, placement: PlacementMap, kept: Mapping[str, Commitment]) -> None:
        """Have a map instead of the job's earlier one.

        `kept` is what it keeps of each server that the map names.
        """
        job_id = placement.job_id
        self.remove(job_id)
        self._maps[job_id] = placement
        self._kept[job_id] = kept
        for name, commitment in kept.items():
            self.changed.setdefault(name, set()).add(job_id)
            self._committed[name] = self._committed.get(name, NOTHING) + commitment
            self._jobs_naming.setdefault(name, set()).add(job_id)

    def replace(self, placement: PlacementMap) -> None:
        """Have a map that differs from the job's earlier one in its epoch only."""
        self._maps[placement.job_id] = placement

    def remove(self, job_id: str) -> None:
        """Forget a job's map, if there is one."""
        self._maps.pop(job_id, None)
        self._held.pop(job_id, None)
        for name, commitment in self._kept.pop(job_id, {}).items():
            self.changed.setdefault(name, set()).add(job_id)
            self._committed[name] = self._committed[name] - commitment
            self._jobs_naming[name].discard(job_id)
            if not self._jobs_naming[name]:
                del self._jobs_naming[name], self._committed[name]

    def validate(self, kept: Iterable[Mapping[str, Commitment]]) -> None:
        """Check that the index says what the maps say, `kept` being counted anew; for tests."""
        committed: dict[str, Commitment] = {}
        for commitments in kept:
            for name, commitment in commitments.items():
                committed[name] = committed.get(name, NOTHING) + commitment
        assert committed == self._committed
        for placement in self._maps.values():
            named = {*placement.owners(), *(m.target for m in placement.moves)}
            if placement.ranges:
                named |= {name for name, weight in placement.weights.items() if weight > 0}
            naming = {n for n, jobs in self._jobs_naming.items() if placement.job_id in jobs}
            assert named == naming


def held_slots(placement: PlacementMap) -> dict[str, int]:
    """Return how many slots each server of a map owns."""
    held: dict[str, int] = {}
    for r in placement.ranges:
        held[r.server_id] = held.get(r.server_id, 0) + len(r)
    return held
