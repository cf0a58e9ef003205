"""The newest events of the cluster: what it decided and saw, and why. Pure.

Each line that the cluster's state writes to the log is an event here as well. They are in memory,
a bounded number of them, and the last ones are written along with whatever else is remembered, so
that most of what a controller said before it died is still told by the next one. Ids only grow,
also from one life of the controller to the next, which begins with the milliseconds of its start.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Self

from pocketkv.controller.messages import Log

EVENTS_MAX: Final = 1_000
"""So many are kept; a cluster of some servers has a few per minute."""

WRITTEN_MAX: Final = 200
"""So many are remembered beyond the controller's life."""


@dataclass(frozen=True)
class ClusterEvent:
    """Something that happened; `fields` tell of what, and why (``reason``)."""

    id: int
    time_ms: int
    level: str
    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the event, without its id, as what `json.dumps` takes."""
        fields = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in self.fields.items()
        }
        return {"time_ms": self.time_ms, "level": self.level, "kind": self.kind, "fields": fields}

    @classmethod
    def from_json(cls, event_id: int, record: Mapping[str, Any]) -> ClusterEvent:
        """Return the event of a record.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        time_ms, level, kind = int(record["time_ms"]), str(record["level"]), str(record["kind"])
        return cls(event_id, time_ms, level, kind, dict(record["fields"]))


class Events:
    """A ring of events.

    Args:
        first_id: The id of the first one; above all ids of earlier lives.
        most: How many are kept.
    """

    def __init__(self, first_id: int, most: int = EVENTS_MAX) -> None:
        self._next_id = first_id
        self._ring: deque[ClusterEvent] = deque(maxlen=most)
        self._written_id = first_id - 1

    @classmethod
    def remembered(cls, records: Mapping[str, Mapping[str, Any]], now_ms: int) -> Self:
        """Return the events of an earlier life, to which those of one that begins now are added.

        Raises:
            KeyError, TypeError, ValueError: they are something else.
        """
        found = sorted(
            (ClusterEvent.from_json(int(event_id), record) for event_id, record in records.items()),
            key=lambda event: event.id,
        )
        # A clock that was set back must not make ids that were given already.
        events = cls(max([now_ms, *(event.id + 1 for event in found[-1:])]))
        events._ring.extend(found)
        return events

    def take_records(self) -> dict[str, dict[str, Any]]:
        """Return what has not been returned yet, by id, to be remembered."""
        fresh = self._after(self._written_id)[-WRITTEN_MAX:]
        self._written_id = self._next_id - 1
        return {str(event.id): event.as_json() for event in fresh}

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
        return self._after(event_id)[:count]

    def _after(self, event_id: int) -> list[ClusterEvent]:
        start = bisect_right(self._ring, event_id, key=lambda event: event.id)
        return list(islice(self._ring, start, None))
