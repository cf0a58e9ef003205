"""What is said of a medium: notes that warn, a table, JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pocketkv.calibrate import report
from pocketkv.calibrate.measure import Measurements, Samples
from pocketkv.calibrate.medium import Medium

DISK = Medium("ext4", "sda", rotational=True, available_bytes=10**12, tier="hdd")
MIB = 1 << 20

SLOW = Measurements(
    write=Samples((0.5,) * 4, 4 * MIB, 2.0),
    read=Samples((0.25,) * 4, 4 * MIB, 1.0),
    random=Samples((0.012,) * 10, 40_960, 0.12),
    random_deep=Samples((0.1,) * 20, 81_920, 0.2),
    sync=Samples((0.03,), 4096, 0.03),
    is_direct=True,
    cpu_bound=False,
    duration_s=4.0,
)


def notes(measured: Measurements, medium: Medium = DISK, size_bytes: int = 4 * MIB) -> list[str]:
    return report.notes(measured, medium, size_bytes, is_guessed=True, has_network=True)


def test_what_is_as_it_should_be_needs_no_note() -> None:
    assert notes(SLOW) == []


def test_what_makes_figures_doubtful_is_said() -> None:
    (note,) = notes(replace(SLOW, is_direct=False))
    assert "no O_DIRECT here" in note
    (note,) = notes(replace(SLOW, cpu_bound=True))
    assert "limited by this process" in note
    (note,) = notes(SLOW, size_bytes=8 * MIB)
    assert note == "4mb of 8mb were written in the time given"
    (note,) = notes(replace(SLOW, random=Samples((0.0001,), 4096, 0.0001)))
    assert note.startswith("sda says that it turns, but reads take 100 us")
    (note,) = notes(SLOW, Medium("tmpfs", None, None, 1, "dram"))
    assert note == "tmpfs is memory: nothing was read cold"
    (note,) = report.notes(SLOW, DISK, 4 * MIB, is_guessed=False, has_network=False)
    assert "--network RATE" in note


def test_the_table_has_rates_and_latencies() -> None:
    lines = report.table(Path("values"), DISK, SLOW)
    assert lines[0] == "values: ext4 on sda, rotational; past the page cache, 4.0 s"
    text = " ".join(" ".join(lines[2:]).split())
    assert "write, 1 MiB after the other 2mb/s p50 500,000 us p99 500,000 us" in text
    assert "read 4 KiB at random, 16 at a time 100/s p50 100,000 us" in text


def test_samples_are_json_without_numbers_that_json_has_not() -> None:
    nothing = report._samples(Samples((), 0, 0.0))
    assert json.loads(json.dumps(nothing, allow_nan=False))["per_s"] == 0
