"""Policy: from a snapshot of the cluster to decisions. Pure: no clock, no I/O, no dice.

The controller, the simulator and the tests run the same functions: `decide` (where a job goes,
and which servers it asks for), `growth` (what all asks come to), `relieve` (hot servers),
`plan_drain` (servers that leave). `Rooms` is what they know of the servers.
"""

from __future__ import annotations

from pocketkv.controller.policy.costs import (
    NO_SUPPLY,
    Ask,
    Offer,
    Supply,
    growth,
    machine_of,
    supply_of,
)
from pocketkv.controller.policy.draining import DrainPlan, TierRoom, plan_drain
from pocketkv.controller.policy.needs import NOTHING, Commitment, Shortage, commitments, share_of
from pocketkv.controller.policy.placing import Decision, decide, place
from pocketkv.controller.policy.relief import JobLoad, Relief, ServerLoad, relieve
from pocketkv.controller.policy.residents import Resident
from pocketkv.controller.policy.rooms import Condition, Room, Rooms

__all__ = [
    "NOTHING",
    "NO_SUPPLY",
    "Ask",
    "Commitment",
    "Condition",
    "Decision",
    "DrainPlan",
    "JobLoad",
    "Offer",
    "Relief",
    "Resident",
    "Room",
    "Rooms",
    "ServerLoad",
    "Shortage",
    "Supply",
    "TierRoom",
    "commitments",
    "decide",
    "growth",
    "machine_of",
    "place",
    "plan_drain",
    "relieve",
    "share_of",
    "supply_of",
]
