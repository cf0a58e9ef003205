"""What is shown: one table, and in words where PocketKV loses."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import machine
from benchmarks.comparison import Row
from benchmarks.kept import Outcome

COLUMNS = (
    "work",
    "driver",
    "measure",
    "PocketKV",
    "beside it",
    "ratio",
    "from - to",
    "target",
    "verdict",
    "floor",
    "note",
)
_MEANING = "as ratios, unless they have a unit"
_LEFT = {"work", "driver", "measure", "verdict", "note"}


def figure(amount: float, unit: str = "") -> str:
    """Return a figure for people, with three digits that count."""
    if unit == "/s" or abs(amount) >= 100:
        text = f"{amount:,.0f}"
    else:
        text = f"{amount:.2f}" if abs(amount) < 10 else f"{amount:.1f}"
    return f"{text} {unit}".strip().replace(" /s", "/s")


def heading(outcome: Outcome) -> list[str]:
    """Return what the figures are from, in sentences."""
    plan, settings = outcome.plan, outcome.plan["settings"]
    where = machine.in_one_line(outcome.machine)
    how = f"Medians of {settings['pairs']} pairs of runs of about {settings['run_s']:g} s, in turns"
    said = [
        f"{where}; PocketKV's core: {outcome.machine['pocketkv_core']}.",
        f"{how}; all took {outcome.took_s / 60:.1f} minutes.",
    ]
    if plan["is_quick"]:
        said.append("A quick run: few works, few and short runs. For a first impression only.")
    if plan["with_noise"]:
        said.append("PocketKV's place was taken by another Redis: what differs from 1 is noise.")
    if machine.is_busy(outcome.machine):
        said.append(
            "The machine was busy with something else before: throughput and latency may say more"
            " of that than of the servers. CPU per operation suffers less."
        )
    return said


def table(rows: Sequence[Row]) -> str:
    """Return the table, as Markdown that is aligned for a terminal too."""
    cells = [list(COLUMNS)]
    before = ("", "")
    for row in rows:
        named = (row.work, row.driver)
        cells.append([*(("", "") if named == before else named), *_cells(row)])
        before = named
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    rule = [
        "-" * width if name in _LEFT else "-" * (width - 1) + ":"
        for name, width in zip(COLUMNS, widths, strict=True)
    ]
    cells.insert(1, rule)
    return "\n".join(_line(line, widths) for line in cells)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if name in _LEFT else cell.rjust(width)
        for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def _cells(row: Row) -> list[str]:
    compared = row.compared
    return [
        row.measure,
        figure(row.ours, row.unit),
        figure(row.theirs, row.unit),
        compared_text(row, compared.median),
        f"{compared_text(row, compared.low)} - {compared_text(row, compared.high)}"
        if compared.low < compared.high
        else "",
        "" if row.target is None else str(row.target),
        row.verdict,
        "" if row.floor is None else figure(row.floor, row.unit),
        row.note,
    ]


def compared_text(row: Row, amount: float) -> str:
    """Return a ratio, or a difference with its unit."""
    if row.is_difference:
        return f"{amount:+.0f} {row.unit}"
    return f"{amount:.2f}"


def losses(rows: Sequence[Row]) -> list[str]:
    """Return in plain sentences where PocketKV misses a target or is behind."""
    missed = [row for row in rows if row.is_missed]
    behind = [row for row in rows if row.is_behind and not row.is_missed]
    said = []
    if missed:
        aimed = sum(row.target is not None for row in rows)
        said.append(f"PocketKV misses {len(missed)} of {aimed} targets ({_MEANING}):")
        said += _sentences(missed)
    else:
        said.append("PocketKV misses no target that was measured.")
    if behind:
        said.append(f"Behind in every pair, but within the target or without one ({_MEANING}):")
        said += _sentences(behind)
    return said


def _sentences(rows: Sequence[Row]) -> list[str]:
    """One sentence for each work."""
    by_work: dict[str, list[Row]] = {}
    for row in rows:
        label = f"{row.work} ({row.driver})" if row.driver else row.work
        by_work.setdefault(label, []).append(row)
    return [
        f"  - {work}: {', '.join(_clause(row) for row in of_work)}."
        for work, of_work in by_work.items()
    ]


def _clause(row: Row) -> str:
    text = f"{row.measure} {compared_text(row, row.compared.median)}"
    said = [row.note] if row.note else []
    if row.is_missed:
        doubt = "" if row.is_missed_clearly else ", some pairs meet it"
        said.insert(0, f"target {row.target}{doubt}")
    return f"{text} ({'; '.join(said)})" if said else text
