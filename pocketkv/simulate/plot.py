"""The picture of a simulation as SVG: what was provided and used over time, and what it cost.

As in the benchmarks, a few lines and bars are written by hand: a plotting library would be the
largest dependency of the whole project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from pocketkv.simulate.comparing import POCKET, POCKETKV, STATIC_DRAM, Outcome

_LEFT: Final = 64
_TOP: Final = 56
_WIDTH: Final = 640
_HEIGHT: Final = 260
_GAP: Final = 130
_BARS_WIDTH: Final = 240
_BOTTOM: Final = 50
_TICKS: Final = 4
_COLOURS: Final = {
    POCKETKV: "#1f6feb",
    POCKET: "#d1570a",
    STATIC_DRAM: "#8250df",
}
_USED: Final = "#9aa4af"


def draw(outcomes: Sequence[Outcome], length_s: float, caption: str) -> str:
    """Return the picture; `length_s` is how long the trace is."""
    width = _LEFT + _WIDTH + _GAP + _BARS_WIDTH + 70
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, 20, caption, size=12),
        *_over_time(outcomes, length_s),
        *_costs(outcomes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _over_time(outcomes: Sequence[Outcome], length_s: float) -> list[str]:
    shown = [one for one in outcomes if one.policy in _COLOURS]
    most = max((p.provided_bytes_s for one in shown for p in one.points), default=0.0) or 1.0
    parts = [_text(_LEFT, _TOP - 14, "Bandwidth, GB/s: provided (lines) and used (grey)")]
    for tick in range(_TICKS + 1):
        y = _TOP + _HEIGHT * (1 - tick / _TICKS)
        x = _LEFT + _WIDTH * tick / _TICKS
        parts += [
            f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}" stroke="#e4e7eb"/>',
            _text(_LEFT - 6, y + 4, f"{most * tick / _TICKS / 1e9:.3g}", anchor="end"),
            _text(x, _TOP + _HEIGHT + 16, _time(length_s * tick / _TICKS), anchor="middle"),
        ]
    own = next((one for one in shown if one.policy == POCKETKV), None)
    if own is not None:
        used = _line([p.used_bytes_s for p in own.points], most)
        first, last = f"{_LEFT},{_TOP + _HEIGHT}", f"{_LEFT + _WIDTH},{_TOP + _HEIGHT}"
        parts.append(f'<polygon points="{first} {used} {last}" fill="{_USED}" opacity="0.5"/>')
    for one in shown:
        line = _line([p.provided_bytes_s for p in one.points], most)
        colour = _COLOURS[one.policy]
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
    for number, one in enumerate(shown):
        x = _LEFT + 130 * number
        y = _TOP + _HEIGHT + 38
        parts.append(
            f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{_COLOURS[one.policy]}"/>'
        )
        parts.append(_text(x + 15, y, one.policy))
    return parts


def _line(values: Sequence[float], most: float) -> str:
    step = _WIDTH / max(1, len(values))
    return " ".join(
        f"{_LEFT + step * (i + 0.5):.1f},{_TOP + _HEIGHT * (1 - value / most):.1f}"
        for i, value in enumerate(values)
    )


def _costs(outcomes: Sequence[Outcome]) -> list[str]:
    left = _LEFT + _WIDTH + _GAP
    most = max((one.cost_usd for one in outcomes), default=0.0) or 1.0
    step = _HEIGHT / max(1, len(outcomes))
    parts = [_text(left, _TOP - 14, "Cost, USD, and what jobs missed of their hints")]
    for number, one in enumerate(outcomes):
        y = _TOP + step * number
        length = _BARS_WIDTH * one.cost_usd / most
        colour = _COLOURS.get(one.policy, _USED)
        parts += [
            (
                f'<rect x="{left}" y="{y:.1f}" width="{length:.1f}" height="{step * 0.6:.1f}"'
                f' fill="{colour}"/>'
            ),
            _text(left - 6, y + step * 0.35, one.policy, anchor="end"),
            _text(left + length + 4, y + step * 0.35, f"{one.cost_usd:,.2f}; {one.missed:.1%}"),
        ]
    return parts


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds / 60:.3g} min"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
