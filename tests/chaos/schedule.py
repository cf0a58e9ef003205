"""What happens when in a run of chaos: drawn from a seed before it begins. Pure.

Times and kinds are those of the seed. Who is hit follows from the same dice, but of the processes
that there are when it happens, whose names are new in each run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What may happen to a cluster."""

    KILL_SERVER = "kill -9 of a storage server"
    HANG_SERVER = "SIGSTOP of a storage server, for good or 6 s"
    PAUSE_SERVER = "SIGSTOP of a storage server, for a moment"
    KILL_ROUTER = "kill -9 of a router"
    PAUSE_ROUTER = "SIGSTOP of a router, for a moment"
    KILL_CONTROLLER = "kill -9 of the controller"
    PAUSE_CONTROLLER = "SIGSTOP of the controller, for some seconds"
    KILL_BOTH = "kill -9 of the controller and a storage server"
    SCALE = "TIER.SCALE"
    DRAIN = "SERVER.DRAIN"
    UPDATE = "JOB.UPDATE"
    CHURN = "a job that comes and goes"

    @property
    def is_deadly(self) -> bool:
        """Whether what a storage server holds may be lost."""
        return self in _DEADLY

    @property
    def is_felt(self) -> bool:
        """Whether clients may have errors for a time."""
        return self in _DEADLY or self is Kind.KILL_ROUTER


_DEADLY: Final = frozenset((Kind.KILL_SERVER, Kind.HANG_SERVER, Kind.KILL_BOTH))

_WEIGHTS: Final = {
    Kind.KILL_SERVER: 4,
    Kind.HANG_SERVER: 2,
    Kind.PAUSE_SERVER: 4,
    Kind.KILL_ROUTER: 2,
    Kind.PAUSE_ROUTER: 2,
    Kind.KILL_CONTROLLER: 2,
    Kind.PAUSE_CONTROLLER: 2,
    Kind.KILL_BOTH: 1,
    Kind.SCALE: 6,
    Kind.DRAIN: 5,
    Kind.UPDATE: 4,
    Kind.CHURN: 6,
}
# Each of them must be seen, in a run that is long enough.
_PAUSE_MIN_S: Final = 0.2
_PAUSE_MAX_S: Final = 2.0
# How long a process may stand still without being taken for dead, with a margin for busy machines
# and for a report a second.
_MOMENT_S: Final = (0.2, 1.2)
_CONTROLLER_MOMENT_S: Final = (0.5, 5.0)


@dataclass(frozen=True)
class Step:
    """One thing that happens.

    Attributes:
        at_s: When, since the load began.
        kind: What.
        dice: 0 to 1; it decides who is hit.
        amount: A number that the kind needs: servers of a tier, hints; or how long, in `lasts_s`.
        lasts_s: How long a process stands still.
    """

    at_s: float
    kind: Kind
    dice: float
    amount: int = 0
    lasts_s: float = 0.0


def schedule(seed: int, seconds: float, kinds: frozenset[Kind] = frozenset(Kind)) -> list[Step]:
    """Return what happens within so many seconds.

    The first of it are all `kinds`, once each in any order, as far as the time suffices.
    """
    dice = random.Random(seed)
    known = [kind for kind in Kind if kind in kinds]
    first = dice.sample(known, len(known))
    steps: list[Step] = []
    at_s = 1.0
    while known and at_s < seconds:
        kind = first.pop() if first else dice.choices(known, [_WEIGHTS[k] for k in known])[0]
        lasts_s = 0.0
        if kind in {Kind.PAUSE_SERVER, Kind.PAUSE_ROUTER}:
            lasts_s = dice.uniform(*_MOMENT_S)
        elif kind is Kind.PAUSE_CONTROLLER:
            lasts_s = dice.uniform(*_CONTROLLER_MOMENT_S)
        steps.append(Step(at_s, kind, dice.random(), dice.randrange(1, 5), lasts_s))
        at_s += dice.uniform(_PAUSE_MIN_S, _PAUSE_MAX_S)
    return steps
