"""LATENCY: when something took long, of each job, by the kind of event."""

from __future__ import annotations

from collections import deque
from typing import Final

_SAMPLES_MAX: Final = 160


class History:
    """The last times at which one kind of event took long.

    Attributes:
        samples: Seconds of the Unix epoch and milliseconds; one for each second, its longest.
        longest_ms: The longest ever.
    """

    __slots__ = ("longest_ms", "samples")

    def __init__(self) -> None:
        self.samples: deque[tuple[int, int]] = deque(maxlen=_SAMPLES_MAX)
        self.longest_ms = 0

    def add(self, time_s: int, duration_ms: int) -> None:
        """It took so long."""
        self.longest_ms = max(self.longest_ms, duration_ms)
        if self.samples and self.samples[-1][0] == time_s:
            duration_ms = max(duration_ms, self.samples.pop()[1])
        self.samples.append((time_s, duration_ms))


class LatencyMonitor:
    """Of each job, what took long: by the name of the event, in the order of the first."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[str, History]] = {}

    def add(self, job_id: str, event: str, time_s: int, duration_ms: int) -> None:
        """Something took long."""
        events = self._jobs.setdefault(job_id, {})
        events.setdefault(event, History()).add(time_s, duration_ms)

    def events(self, job_id: str) -> dict[str, History]:
        """What a job is shown."""
        return self._jobs.get(job_id, {})

    def reset(self, job_id: str, names: list[str]) -> int:
        """Forget events of a job, or all of them; how many there were."""
        events = self._jobs.get(job_id, {})
        forgotten = [name for name in (names or list(events)) if events.pop(name, None) is not None]
        if not events:
            self._jobs.pop(job_id, None)
        return len(forgotten)


def sparkline(history: History, now_s: int) -> list[str]:
    """A picture of a history: columns of characters, the latest at the right, with their ages."""
    samples = list(history.samples)
    high = max(duration_ms for _, duration_ms in samples)
    low = min(duration_ms for _, duration_ms in samples)
    rows = 4
    span = max(1, high - low)
    heights = [round((duration_ms - low) * (rows - 1) / span) for _, duration_ms in samples]
    lines = []
    for row in range(rows - 1, -1, -1):
        marks = ("#" if h == row else "|" if h > row else " " for h in heights)
        lines.append("".join(marks).rstrip())
    ages = [_age(now_s - time_s) for time_s, _ in samples]
    depth = max(map(len, ages))
    below = ["".join(age[i : i + 1] or " " for age in ages).rstrip() for i in range(depth)]
    return [*lines, *below]


def _age(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"
