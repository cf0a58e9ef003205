"""The newest events of the cluster: what it decided and saw, and why. Pure.

Each line that the cluster's state writes to the log is an event here as well. They are in memory,
a bounded number of them; ids only grow, also from one life of the controller to the next, since a
life begins with the milliseconds of its start.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pocketkv.controller.messages import Log

EVENTS_MAX: Final = 1_000
"""So many are kept; a cluster of some servers has a few per minute."""


@dataclass(frozen=True)
class ClusterEvent:
    """Something that happened; `fields` tell of what, and why (``reason``)."""

    id: int
    time_ms: int
    level: str
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class Events:
    """A ring of events.

    Args:
        first_id: The id of the first one; above all ids of earlier lives.
        most: How many are kept.
    """

    def __init__(self, first_id: int, most: int = EVENTS_MAX) -> None:
        self._next_id = first_id
        self._ring: deque[ClusterEvent] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, logs: Iterable[Log], now_ms: int) -> None:
        """Take log lines as events."""
        for log in logs:
            level = logging.getLevelName(log.level).lower()
            event = ClusterEvent(self._next_id, now_ms, level, log.event, dict(log.fields))
            self._ring.append(event)
            self._next_id += 1

    def since(self, event_id: int | None, count: int) -> list[ClusterEvent]:
        """Return events in their order: the last `count`, or the first that came after one.

        An id that has not been given yet is of another life, whose events are not here: then as
        without one.
        """
        if event_id is None or event_id >= self._next_id:
            return list(self._ring)[-count:] if count else []
        # Ids have no gaps, so where it is need not be searched for.
        first_id = self._next_id - len(self._ring)
        start = max(0, event_id + 1 - first_id)
        return [self._ring[i] for i in range(start, min(start + count, len(self._ring)))]
