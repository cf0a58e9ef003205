"""What every simulated policy is given, and what it must do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from pocketkv.catalog import Catalog
from pocketkv.scaling_rules import ScalingRules
from pocketkv.simulate.clock import Clock
from pocketkv.simulate.meter import Meter
from pocketkv.simulate.trace import TracedJob

TICK_MS: Final = 1_000


@dataclass(frozen=True)
class World:
    """What the policies of one simulation share.

    Attributes:
        catalog: What servers cost and can do; every one is its tier's reference.
        rules: How many servers there may be; and, for PocketKV, by which marks it scales.
        start_delay_ms: How long a server takes from the request to its joining; it is paid for
            from the request on.
        move_share: Which part of a server's bandwidth moves of slots may take.
    """

    catalog: Catalog
    rules: ScalingRules
    start_delay_ms: int
    move_share: float


class Policy(Protocol):
    """A cluster and who decides on it."""

    def begin(self) -> None:
        """Have the servers that there are before the trace begins; they have joined already."""

    def start(self, traced: TracedJob) -> None:
        """Have a job register now; the policy has it end when its time is over."""


@dataclass
class Base:
    """A policy's clock and meter."""

    world: World
    clock: Clock
    meter: Meter

    @property
    def now_ms(self) -> int:
        """The simulated time."""
        return self.clock.now_ms
