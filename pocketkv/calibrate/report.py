"""What `pocketkv calibrate` says of a medium, to people and to scripts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pocketkv.amounts import format_bytes, format_rate
from pocketkv.calibrate.entry import Entry
from pocketkv.calibrate.measure import DEPTH, Measurements, Samples
from pocketkv.calibrate.medium import Medium
from pocketkv.catalog import MachineType

# No disk that turns finds its data in so short a time.
_TURNING_LATENCY_US_MIN: Final = 1000


def notes(
    measured: Measurements,
    medium: Medium,
    size_bytes: int,
    *,
    is_guessed: bool,
    has_network: bool,
) -> list[str]:
    """Return what people should know before they believe the figures, or the guessed tier."""
    found = []
    latency_us = measured.random.latency_us(0.5)
    if is_guessed and medium.rotational and latency_us < _TURNING_LATENCY_US_MIN:
        found.append(
            f"{medium.device} says that it turns, but reads take {latency_us:,.0f} us: a virtual"
            " disk? --tier TIER says what it is"
        )
    if medium.in_memory:
        found.append(f"{medium.filesystem} is memory: nothing was read cold")
    elif not measured.is_direct:
        found.append(
            "no O_DIRECT here: the kernel was asked to forget the file before it was read;"
            " caches below it may have helped"
        )
    if measured.write.moved_bytes < size_bytes:
        found.append(
            f"{format_bytes(measured.write.moved_bytes)} of {format_bytes(size_bytes)} were"
            " written in the time given"
        )
    if measured.cpu_bound:
        found.append(f"reads at depth {DEPTH} were limited by this process, not by the medium")
    if not has_network:
        found.append("the network was not measured: --network RATE, if it carries less than this")
    return found


def table(directory: Path, medium: Medium, measured: Measurements) -> list[str]:
    """Return the lines for people."""
    way = "past the page cache" if measured.is_direct else "through the page cache"
    rows = [
        ("write, 1 MiB after the other", *_moved(measured.write)),
        ("read, 1 MiB after the other", *_moved(measured.read)),
        ("read 4 KiB at random, 1 at a time", *_timed(measured.random)),
        (f"read 4 KiB at random, {DEPTH} at a time", *_timed(measured.random_deep)),
        ("write 4 KiB and fsync", *_timed(measured.sync)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{directory}: {medium}; {way}, {measured.duration_s:.1f} s",
        "",
        *(
            "  "
            + "  ".join(
                cell.ljust(width) if not column else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ),
    ]


def cost(machine: MachineType) -> str:
    """Return what a server with this entry costs, by the catalog's prices or the operator's."""
    return (
        f"Cost by the catalog: {machine.server_price_per_hour:.4f} USD an hour for a server,"
        f" {machine.gb_price_per_hour:.7f} for each GB on it"
    )


def document(
    directory: Path,
    medium: Medium,
    measured: Measurements,
    entry: Entry,
    machine: MachineType,
    noted: list[str],
) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "directory": str(directory),
        "filesystem": medium.filesystem,
        "device": medium.device,
        "rotational": medium.rotational,
        "available_bytes": medium.available_bytes,
        "direct": measured.is_direct,
        "duration_s": round(measured.duration_s, 3),
        "write": _samples(measured.write),
        "read": _samples(measured.read),
        "random_read_depth_1": _samples(measured.random),
        f"random_read_depth_{DEPTH}": _samples(measured.random_deep),
        "fsync": _samples(measured.sync),
        "cpu_bound": measured.cpu_bound,
        "notes": noted,
        "tier": entry.tier,
        "machine_type": entry.machine_type,
        "entry": {key: _plain(value) for key, value in entry.figures.items()},
        "entry_toml": entry.text(),
        "cost_usd_per_hour": machine.server_price_per_hour,
        "gb_cost_usd_per_hour": machine.gb_price_per_hour,
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str) else str(value)


def _samples(samples: Samples) -> Mapping[str, float]:
    return {
        "operations": len(samples.latencies_s),
        "moved_bytes": samples.moved_bytes,
        "duration_s": round(samples.duration_s, 6),
        "bytes_s": round(samples.bytes_s),
        "per_s": round(samples.per_s, 1),
        "p50_us": round(samples.latency_us(0.5), 1),
        "p99_us": round(samples.latency_us(0.99), 1),
    }


def _moved(samples: Samples) -> tuple[str, str, str]:
    return format_rate(int(samples.bytes_s)), *_latencies(samples)


def _timed(samples: Samples) -> tuple[str, str, str]:
    return f"{samples.per_s:,.0f}/s", *_latencies(samples)


def _latencies(samples: Samples) -> tuple[str, str]:
    return (
        f"p50 {samples.latency_us(0.5):,.0f} us",
        f"p99 {samples.latency_us(0.99):,.0f} us",
    )
