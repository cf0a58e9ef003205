"""What a node knows of the cluster: servers, jobs, and each job's placement, under epochs.

The controller alone writes maps; a node keeps the last ones it heard. An older epoch never
overwrites a newer one, so that late or repeated messages do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable

from pocketkv.placement import PlacementMap, Server, SlotRange
from pocketkv.slots import SLOT_COUNT
from pocketkv.terms import Terms


class Topology:
    """Servers and placements as last heard from the controller.

    Attributes:
        epoch: The newest epoch heard.
        servers: By id.
        placements: By job id; a job that is not here is unknown.
        terms: Of jobs that have any, by job id.
        changed_terms: Ids of jobs whose terms are others since somebody last followed them.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.servers: dict[str, Server] = {}
        self.placements: dict[str, PlacementMap] = {}
        self.terms: dict[str, Terms] = {}
        self.changed_terms: set[str] = set()
        # Epochs at which jobs ended, so that an older map does not bring one back.
        self._ended: dict[str, int] = {}

    def hear(self, epoch: int) -> None:
        """Everything up to this epoch was heard: what it changed may be no server and no map."""
        self.epoch = max(self.epoch, epoch)

    def set_servers(self, servers: list[Server], epoch: int) -> bool:
        """Take the list of servers; false if a newer one is known."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        self.servers = {server.id: server for server in servers}
        return True

    def set_placement(self, placement: PlacementMap) -> bool:
        """Take a job's map; false if it says nothing new, or the job ended since.

        Moves that are known to be carried out stay so, whichever of two maps says it.
        """
        job_id = placement.job_id
        known = self.placements.get(job_id)
        if known is not None and placement.epoch < known.epoch:
            return self.flip(job_id, placement.flips)
        if placement.epoch < self._ended.get(job_id, 0):
            return False
        if known is not None:
            placement = placement.with_flips(known.flips)
        self.placements[job_id] = placement
        self.epoch = max(self.epoch, placement.epoch)
        return True

    def flip(self, job_id: str, move_ids: Iterable[str]) -> bool:
        """Moves of a job were carried out; false if its map does not order any of them."""
        known = self.placements.get(job_id)
        if known is None:
            return False
        flipped = known.with_flips(move_ids)
        self.placements[job_id] = flipped
        return flipped is not known

    def end_job(self, job_id: str, epoch: int) -> bool:
        """Forget a job; false if a newer map of it is known."""
        known = self.placements.get(job_id)
        if known is not None and known.epoch > epoch:
            return False
        self.placements.pop(job_id, None)
        self.terms.pop(job_id, None)
        self.changed_terms.discard(job_id)
        self._ended[job_id] = epoch
        self.epoch = max(self.epoch, epoch)
        return True

    def set_terms(self, terms: Terms) -> bool:
        """Take a job's terms; false if they say nothing new, or the job ended since."""
        job_id = terms.job_id
        known = self.terms.get(job_id, Terms(job_id))
        if terms.epoch < max(known.epoch, self._ended.get(job_id, 0)) or terms == known:
            return False
        self.terms[job_id] = terms
        self.changed_terms.add(job_id)
        return True

    def owner(self, job_id: str, slot: int) -> Server | None:
        """The server of a job's slot; ``None`` if the job or the server is unknown."""
        placement = self.placements.get(job_id)
        if placement is None:
            return None
        return self.servers.get(placement.owner(slot) or "")

    def job_servers(self, job_id: str) -> list[Server]:
        """The servers that hold a job's slots, in the order of their first slot."""
        placement = self.placements.get(job_id)
        if placement is None:
            return []
        seen = dict.fromkeys(r.server_id for r in placement.ranges)
        return [self.servers[s] for s in seen if s in self.servers]

    def ranges(self, job_id: str) -> tuple[SlotRange, ...]:
        """A job's slot ranges, in order."""
        placement = self.placements.get(job_id)
        return () if placement is None else placement.ranges


def standalone_topology(server: Server, job_id: str) -> Topology:
    """The view of a server without a controller: it alone, with all slots of one job."""
    topology = Topology()
    topology.set_servers([server], 1)
    ranges = (SlotRange(0, SLOT_COUNT - 1, server.id),)
    topology.set_placement(
        PlacementMap(
            job_id=job_id,
            epoch=1,
            ranges=ranges,
            quotas={server.id: None},
            weights={server.id: 1.0},
        )
    )
    return topology
