"""The figures in the documentation: written there by the run that measured them.

They stand between two markers in a Markdown file, with the machine that they are from; what is
around them is written by people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import report
from benchmarks.client import BenchmarkError
from benchmarks.comparison import Row
from benchmarks.kept import Outcome
from benchmarks.sampling import CPU, MEASURES
from benchmarks.works import MOVES_PREFIX, ROUTER_PREFIX, TIERS_PREFIX

BEGIN: Final = "<!-- figures: begin, written by `make bench` -->"
END: Final = "<!-- figures: end -->"

_WORKS_HEAD: Final = ("work", "driver", *MEASURES, "floor, CPU")
_TIERS_HEAD: Final = ("what", "measure", "PocketKV", "beside it", "ratio", "target", "verdict")
_OTHERS_HEAD: Final = ("what", "measure", "PocketKV", "Redis", "ratio", "target", "verdict")


def write(path: Path, outcome: Outcome) -> None:
    """Put the figures between the markers of a file.

    Raises:
        BenchmarkError: The file is not there, or has not one of each marker, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise BenchmarkError(f"{path}: must have one line {BEGIN} and one {END} below")
    path.write_text(f"{before}{BEGIN}\n\n{section(outcome)}\n\n{END}{after}", encoding="utf-8")


def section(outcome: Outcome) -> str:
    """Return all figures as Markdown."""
    of_tiers = [row for row in outcome.rows if row.work.startswith(TIERS_PREFIX)]
    of_moves = [row for row in outcome.rows if row.work.startswith(MOVES_PREFIX)]
    rest = [row for row in outcome.rows if row not in of_tiers and row not in of_moves]
    of_works = [row for row in rest if row.measure in MEASURES]
    others = [row for row in rest if row.measure not in MEASURES]
    direct = [row for row in of_works if not row.work.startswith(ROUTER_PREFIX)]
    routed = [row for row in of_works if row.work.startswith(ROUTER_PREFIX)]
    head = report.heading(outcome)
    parts = [f"Measured on {outcome.machine['measured_at'][:10]}. {head[0]}", *head[1:]]
    if direct:
        parts += ["### Beside Redis", "PocketKV / Redis **ratio**, and the target.", _works(direct)]
    if others:
        parts += ["### Memory, and light clients beside a heavy one", _others(_OTHERS_HEAD, others)]
    if of_tiers:
        parts += [
            "### File tiers",
            "PocketKV / what stands beside it.",
            _others(_TIERS_HEAD, of_tiers),
        ]
    if of_moves:
        parts += [
            "### Live moves",
            "PocketKV / what stands beside it; of holds, their time.",
            _others(_TIERS_HEAD, of_moves),
        ]
    if routed:
        parts += ["### Through the router", "Router / direct **ratio**.", _works(routed)]
    said = [*report.losses(outcome.rows), *outcome.remarks]
    parts += ["### Where PocketKV loses", "\n".join(_as_list(said))]
    return "\n\n".join(parts)


def _works(rows: Sequence[Row]) -> str:
    """One line for each work and driver, one cell for each measure."""
    by_work: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        named = (row.work.removeprefix(ROUTER_PREFIX), row.driver)
        by_work.setdefault(named, {})[row.measure] = row
    lines = []
    for (work, driver), measures in by_work.items():
        floor = measures[CPU].floor
        floor_text = "" if floor is None else report.figure(floor, measures[CPU].unit)
        lines.append((work, driver, *[_cell(measures[name]) for name in MEASURES], floor_text))
    return _table(_WORKS_HEAD, lines)


def _cell(row: Row) -> str:
    ours = report.figure(row.ours, row.unit).removesuffix(row.unit).rstrip()
    theirs = report.figure(row.theirs, row.unit)
    text = f"{ours} / {theirs} **{report.compared_text(row, row.compared.median)}**"
    if row.target is not None:
        text += f" {row.verdict} {row.target}"
    return f"{text} ({row.note})" if row.note else text


def _others(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [
        (
            row.work.removeprefix(TIERS_PREFIX).removeprefix(MOVES_PREFIX),
            f"{row.measure} ({row.note})" if row.note else row.measure,
            report.figure(row.ours, row.unit),
            "" if row.is_own and not row.theirs else report.figure(row.theirs, row.unit),
            report.compared_text(row, row.compared.median),
            "" if row.target is None else str(row.target),
            row.verdict,
        )
        for row in rows
    ]
    return _table(head, lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    listed = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in listed)


def _as_list(said: Iterable[str]) -> list[str]:
    """The sentences of the terminal as Markdown: what is indented there belongs to a list."""
    lines: list[str] = []
    for sentence in said:
        is_item = sentence.startswith("  - ")
        # Only the items of one list stand together.
        if lines and not (is_item and lines[-1].startswith("- ")):
            lines.append("")
        lines.append(sentence.strip())
    return lines
