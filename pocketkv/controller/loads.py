"""What servers and tiers do beside what they could: the picture that scaling decides by. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

# Loads are sums of floats; what is smaller than this is their rounding, and needs no server.
ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class ServerLoad:
    """A storage server: what it does, and what it could, by resource (the same ones in both).

    Attributes:
        load, can: Amounts, in a unit of each resource's own: bytes, bytes per second, cores.
        held_bytes: What it would have to hand over.
        may_go: Whether it may be drained and stopped now.
        is_leaving: Whether it is: its load will be the others'.
    """

    id: str
    load: Mapping[str, float]
    can: Mapping[str, float]
    held_bytes: int = 0
    may_go: bool = True
    is_leaving: bool = False

    def use(self, resource: str) -> float:
        """Return the part of a resource that is used."""
        can = self.can.get(resource, 0.0)
        return self.load.get(resource, 0.0) / can if can > 0 else 0.0

    @cached_property
    def busiest(self) -> tuple[str, float]:
        """The resource that is used most, and the part of it that is used."""
        return _most({name: self.use(name) for name in self.load})


@dataclass(frozen=True)
class TierView:
    """A tier as it is now.

    Attributes:
        servers: Those that are there, of the plan or not.
        wanted: The plan: servers that the backend is to run, those that are leaving among them.
        requested: Servers that were asked for and are not there yet.
        managed: Servers of the plan that are there.
        asked: How many servers jobs need for what they were promised; 0: none.
        is_known: Whether every server has told its load.
        has_jobs: Whether a job is placed on the tier.
        price_per_hour: Of one server, in US dollars.
    """

    tier: str
    servers: tuple[ServerLoad, ...] = ()
    wanted: int = 0
    requested: int = 0
    managed: int = 0
    asked: int = 0
    is_known: bool = True
    has_jobs: bool = False
    price_per_hour: float = 0.0

    @cached_property
    def staying(self) -> list[ServerLoad]:
        """The servers that are there and not leaving."""
        return [server for server in self.servers if not server.is_leaving]

    @property
    def leaving(self) -> int:
        """How many servers are leaving."""
        return len(self.servers) - len(self.staying)

    @property
    def outside(self) -> int:
        """How many servers are not of the plan: others started them."""
        return max(0, len(self.servers) - self.managed)

    @property
    def count(self) -> int:
        """Servers that there are or should be, those outside of the plan among them."""
        return self.wanted + self.outside

    @cached_property
    def uses(self) -> dict[str, float]:
        """The part of each resource that is used, of what the staying servers can.

        What is left out is what none of them can do at all.
        """
        staying = self.staying
        resources = dict.fromkeys(name for server in self.servers for name in server.load)
        can = {name: sum(server.can.get(name, 0.0) for server in staying) for name in resources}
        return {
            name: sum(server.load.get(name, 0.0) for server in self.servers) / can[name]
            for name in resources
            if can[name] > 0
        }

    @cached_property
    def busiest(self) -> tuple[str, float]:
        """The resource that is used most, and the part of it that is used."""
        return _most(self.uses)

    def above(self, mark: float) -> list[ServerLoad]:
        """Return the staying servers of which more than a part of some resource is used."""
        return [server for server in self.staying if server.busiest[1] > mark]


def servers_asked(needs: Iterable[tuple[float, float]]) -> int:
    """Return how many servers hold several needs, each given with what one server can."""
    return max(
        (math.ceil(need / can - ROUNDING) for need, can in needs if need > 0 and can > 0),
        default=0,
    )


def _most(uses: Mapping[str, float]) -> tuple[str, float]:
    name = max(uses, key=lambda one: (uses[one], one), default="")
    return name, uses.get(name, 0.0)
