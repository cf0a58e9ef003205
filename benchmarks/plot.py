"""The picture of ratio over value size, as SVG.

Two panels, four lines and an axis are written by hand here: a plotting library would be the
largest dependency of the whole project, for one picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.comparison import Spread
from benchmarks.exchanges import Operation
from benchmarks.sampling import CPU, MEASURES, THROUGHPUT, Result
from benchmarks.works import size_title

_PANEL_WIDTH: Final = 380
_PANEL_HEIGHT: Final = 260
_LEFT: Final = 54
_TOP: Final = 58
_GAP: Final = 70
_BOTTOM: Final = 56
# What the name of a size takes of the axis, being turned.
_NAME_WIDTH: Final = 14
_COLOURS: Final[dict[Operation, str]] = {"GET": "#1f6feb", "SET": "#d1570a"}
_MARKS: Final = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_TITLES: Final = {
    THROUGHPUT: "Throughput: higher is better",
    CPU: "Server CPU time per operation: lower is better",
}


@dataclass(frozen=True, slots=True)
class Point:
    """What is known of one size."""

    operation: Operation
    value_bytes: int
    ratio: Spread


def points(results: Iterable[Result], measure: str) -> list[Point]:
    """Return the points of one panel: unpipelined GET and SET by many connections, by size.

    Where a size was measured with two drivers it is the one that saturates the server that
    counts.
    """
    found: dict[tuple[Operation, int], Point] = {}
    for result in results:
        work = result.work
        if work.operation is None or work.pipeline > 1 or work.group not in _GROUPS:
            continue
        ratio = result.rows()[MEASURES.index(measure)].compared
        where = (work.operation, work.value_bytes)
        if work.is_own_driver or where not in found:
            found[where] = Point(*where, ratio)
    return sorted(found.values(), key=lambda point: (point.operation, point.value_bytes))


_GROUPS: Final = frozenset(("small", "sizes", "large"))


def draw(results: Sequence[Result], caption: str) -> str:
    """Return the picture.

    Raises:
        ValueError: Nothing of what it shows was measured.
    """
    panels = [(measure, points(results, measure)) for measure in (THROUGHPUT, CPU)]
    if not panels[0][1]:
        raise ValueError("no GET or SET of any size was measured")
    width = _LEFT + 2 * _PANEL_WIDTH + _GAP + 20
    height = _TOP + _PANEL_HEIGHT + _BOTTOM
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    parts = [
        f'{head} viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (measure, shown) in enumerate(panels):
        left = _LEFT + number * (_PANEL_WIDTH + _GAP)
        parts += _Panel(left, shown).draw(_TITLES[measure])
    parts.append(_text(_LEFT, height - 8, caption, fill="#666", size=9))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


class _Panel:
    """A pair of axes and what is between them.

    Both scales are logarithmic, so that half and double are as far from even. A size too near to
    the one before has a mark and no name.
    """

    def __init__(self, left: int, shown: Sequence[Point]) -> None:
        self._left = left
        self._shown = shown
        self._sizes = sorted({point.value_bytes for point in shown})
        ends = [end for point in shown for end in (point.ratio.low, point.ratio.high)]
        self._low = max(mark for mark in _MARKS if mark <= max(min(ends), _MARKS[0]))
        self._high = min(mark for mark in _MARKS if mark >= min(max(*ends, 1.1), _MARKS[-1]))

    def draw(self, title: str) -> list[str]:
        """Return the elements."""
        parts = [_text(self._left, _TOP - 34, title, size=13, weight="bold")]
        for mark in _MARKS:
            if self._low <= mark <= self._high:
                parts += self._draw_mark(mark)
        parts += self._draw_sizes()
        for number, (operation, colour) in enumerate(_COLOURS.items()):
            x = self._left + 60 * number
            parts.append(_line(x, _TOP - 16, x + 18, _TOP - 16, colour, width=2))
            parts.append(_text(x + 23, _TOP - 12, operation))
            own = [point for point in self._shown if point.operation == operation]
            parts += self._draw_line(own, colour)
        return parts

    def _draw_sizes(self) -> list[str]:
        parts = []
        bottom = _TOP + _PANEL_HEIGHT
        named_x = -math.inf
        for size_bytes in self._sizes:
            x = self._x(size_bytes)
            parts.append(_line(x, bottom, x, bottom + 4, "#888"))
            if x - named_x >= _NAME_WIDTH:
                named_x = x
                parts.append(
                    f'<text transform="translate({x + 3:.1f} {bottom + 12}) rotate(-35)"'
                    f' text-anchor="end">{size_title(size_bytes)}</text>'
                )
        return parts

    def _draw_mark(self, mark: float) -> list[str]:
        y = self._y(mark)
        right = self._left + _PANEL_WIDTH
        is_even = mark == 1.0
        return [
            _line(self._left, y, right, y, "#333" if is_even else "#ddd", width=1.2),
            _text(self._left - 6, y + 4, "Redis" if is_even else f"{mark:g}", anchor="end"),
        ]

    def _draw_line(self, own: Sequence[Point], colour: str) -> list[str]:
        places = [(self._x(p.value_bytes), self._y(p.ratio.median)) for p in own]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts = [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>']
        for point, (x, y) in zip(own, places, strict=True):
            low, high = self._y(point.ratio.low), self._y(point.ratio.high)
            parts.append(_line(x, low, x, high, colour, width=1))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        return parts

    def _x(self, size_bytes: int) -> float:
        low, high = math.log(self._sizes[0]), math.log(self._sizes[-1])
        share = (math.log(size_bytes) - low) / (high - low) if high > low else 0.5
        return self._left + 10 + share * (_PANEL_WIDTH - 20)

    def _y(self, ratio: float) -> float:
        low, high = math.log(self._low), math.log(self._high)
        inside = min(max(ratio, self._low), self._high)
        return _TOP + (high - math.log(inside)) / (high - low) * _PANEL_HEIGHT


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        f' stroke="{colour}" stroke-width="{width}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = "#222",
    size: int = 11,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"'
        f' font-size="{size}" font-weight="{weight}">{escape(text)}</text>'
    )
