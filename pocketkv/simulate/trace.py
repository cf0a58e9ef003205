"""Traces of jobs: what each says of itself, when it runs, and what it really does; as CSV.

One line per job under a line of names, in any order of columns; `COLUMNS` says what stands in
them. Amounts are written as in hints (``100gb``, ``7.5g``, ``600mbps``); what is
empty was not said.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

from pocketkv.amounts import parse_bytes, parse_rate
from pocketkv.catalog import TIER_NAMES
from pocketkv.jobs import Hints, Latency, check_job_name
from pocketkv.options import quoted

SECONDS_MAX: Final = 366 * 86_400
"""A trace is no longer than a leap year."""

JOBS_MAX: Final = 10_000_000
"""More jobs than a day of any cluster, few enough for memory."""

STEPS: Final = 4
"""What a job writes in the first half of its time becomes visible in so many equal steps."""


class TraceError(ValueError):
    """A trace cannot be read or is not one; the message is one line naming the place."""


@dataclass(frozen=True, slots=True)
class TracedJob:
    """A job of a trace.

    Attributes:
        name: What it is called; names may repeat.
        start_s, duration_s: When it registers, from the start of the trace, and how long it runs.
        hints: What it says of itself.
        written_bytes: What it writes, evenly over the first half of its time; kept to its end.
        read_bytes: What it reads, evenly over the second half.
    """

    name: str
    start_s: float
    duration_s: float
    hints: Hints
    written_bytes: int
    read_bytes: int

    @property
    def end_s(self) -> float:
        """When it ends, if it need not wait for anything."""
        return self.start_s + self.duration_s

    def phases(self) -> list[tuple[int, int, int]]:
        """Return what it does from when on: ms of its own time, bytes/s, bytes held.

        The last one is its end, when it does and holds nothing.
        """
        duration_ms = milliseconds(self.duration_s)
        half_ms = duration_ms // 2
        writing = round(self.written_bytes * 1000 / half_ms)
        reading = round(self.read_bytes * 1000 / (duration_ms - half_ms))
        steps = [
            (half_ms * step // STEPS, writing, self.written_bytes * step // STEPS)
            for step in range(STEPS)
        ]
        return [*steps, (half_ms, reading, self.written_bytes), (duration_ms, 0, 0)]


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds."""
    return round(seconds * 1000)


# --- reading -----------------------------------------------------------------------------------


def read_trace(lines: Iterable[str], origin: str) -> list[TracedJob]:
    """Return the jobs of a CSV text, in the order of their start; `origin` is for messages.

    Raises:
        TraceError: It is not such a text, or has no job.
    """
    reader = csv.reader(lines, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        _check_names(names, origin)
        jobs = []
        for row in reader:
            if row and any(cell.strip() for cell in row):
                jobs.append(_job(names, row, f"{origin}, line {reader.line_num}"))
            if len(jobs) > JOBS_MAX:
                raise TraceError(f"{origin}: more than {JOBS_MAX} jobs")
    except csv.Error as error:
        raise TraceError(f"{origin}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{origin}, after line {reader.line_num}: not UTF-8") from error
    if not jobs:
        raise TraceError(f"{origin}: there are no jobs in it")
    return sorted(jobs, key=lambda job: job.start_s)


def _check_names(names: list[str], origin: str) -> None:
    for name in names:
        if name not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise TraceError(f"{origin}: no column is called {quoted(name)}, only {known}")
        if names.count(name) > 1:
            raise TraceError(f"{origin}: the column {name} is there twice")
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise TraceError(f"{origin}: there is no column {missing[0]}")


def _job(names: list[str], row: list[str], where: str) -> TracedJob:
    if len(row) != len(names):
        raise TraceError(f"{where}: {len(row)} values for {len(names)} columns")
    cells = {name: cell.strip() for name, cell in zip(names, row, strict=True)}
    values: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell:
            try:
                values[name] = COLUMNS[name](cell)
            except ValueError as error:
                raise TraceError(f"{where}, {name}: {error}") from error
        elif name in _NEEDED:
            raise TraceError(f"{where}: {name} is empty")
    try:
        hints = Hints(
            values.get("lambdas"),
            values.get("capacity"),
            values.get("throughput"),
            values.get("latency"),
            values.get("tiers"),
        )
    except ValueError as error:
        raise TraceError(f"{where}: {error}") from error
    return TracedJob(
        values["name"],
        values["start_s"],
        values["duration_s"],
        hints,
        values["written"],
        values.get("read", values["written"]),
    )


def _name(text: str) -> str:
    check_job_name(text)
    return text


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= SECONDS_MAX:
        raise ValueError(f"{quoted(text)} is not a number of seconds up to {SECONDS_MAX}")
    return number


def _duration(text: str) -> float:
    duration_s = _number(text)
    if duration_s < 0.01:
        raise ValueError(f"{quoted(text)} is shorter than a hundredth of a second")
    return duration_s


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(f"{quoted(text)} is not a whole number")
    return int(text)


def _latency(text: str) -> Latency:
    try:
        return Latency(text.lower())
    except ValueError as error:
        known = " or ".join(Latency)
        raise ValueError(f"{quoted(text)} is not {known}") from error


def _tiers(text: str) -> tuple[str, ...]:
    tiers = tuple(text.lower().split())
    for tier in tiers:
        if tier not in TIER_NAMES:
            raise ValueError(f"{quoted(tier)} is none of {', '.join(TIER_NAMES)}")
    return tiers


COLUMNS: Final[Mapping[str, Callable[[str], Any]]] = {
    "start_s": _number,
    "duration_s": _duration,
    "name": _name,
    "lambdas": _count,
    "capacity": parse_bytes,
    "throughput": parse_rate,
    "latency": _latency,
    "tiers": _tiers,
    "written": parse_bytes,
    "read": parse_bytes,
}
"""The columns of a trace, and what reads what stands in them; tiers have spaces between them."""

_NEEDED: Final = ("start_s", "duration_s", "name", "written")


# --- writing -----------------------------------------------------------------------------------


def write_trace(jobs: Iterable[TracedJob], file: TextIO) -> None:
    """Write jobs as `read_trace` reads them."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for job in jobs:
        hints = job.hints
        writer.writerow(
            [
                f"{job.start_s:.3f}",
                f"{job.duration_s:.3f}",
                job.name,
                _or_empty(hints.lambdas),
                _or_empty(hints.capacity_bytes),
                _or_empty(hints.throughput_bytes_s),
                "" if hints.latency is None else hints.latency.value,
                " ".join(hints.tiers or ()),
                job.written_bytes,
                job.read_bytes,
            ]
        )


def _or_empty(number: int | None) -> str:
    return "" if number is None else str(number)
