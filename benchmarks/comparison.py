"""Figures side by side: medians, ratios of pairs, targets and verdicts. No I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that `percent` of 100 values do not exceed (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Target:
    """What a comparison must be: at least `low`, at most `high`; None is no bound."""

    low: float | None = None
    high: float | None = None
    unit: str = ""

    def is_met(self, figure: float) -> bool:
        """Whether a figure is within the bounds, which belong to it."""
        above = self.low is None or figure >= self.low
        return above and (self.high is None or figure <= self.high)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} - {self.high:g}{self.unit}"
        if self.low is not None:
            return f">= {self.low:g}{self.unit}"
        return f"<= {self.high:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of several figures."""

    median: float
    low: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    """Return the median, the least and the greatest of some figures."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return how ours compare with theirs, pair by pair.

    Machines get slower and faster while one measures; two runs that follow each other at once
    meet the same machine, so it is their ratio that is kept, and the median of these.

    Raises:
        ValueError: There is not one of ours to each of theirs.
    """
    return spread([a / b if b else math.inf for a, b in zip(ours, theirs, strict=True)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return what ours are above theirs, pair by pair; otherwise as `ratios`."""
    return spread([a - b for a, b in zip(ours, theirs, strict=True)])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        work: What was done.
        driver: What sent it, if it was sent in more than one way.
        measure: What of it is compared.
        unit: Of `ours`, `theirs` and `floor`.
        ours, theirs: Medians; of the router and of the server behind it where that is compared.
        compared: Ratio of ours to theirs, or (`is_difference`) how much more ours is, or
            (`is_own`) a figure of ours alone.
        target: What `compared` must be, if anything.
        floor: The same figure of a loop that only receives and sends, if there is one.
        is_less_better: Whether smaller figures are better.
        note: What one should know of this figure.
    """

    work: str
    measure: str
    unit: str
    ours: float
    theirs: float
    compared: Spread
    target: Target | None = None
    floor: float | None = None
    is_less_better: bool = True
    is_difference: bool = False
    is_own: bool = False
    driver: str = ""
    note: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether there is a target, and it is not met."""
        return self.target is not None and not self.target.is_met(self.compared.median)

    @property
    def is_missed_clearly(self) -> bool:
        """Whether no single pair meets the target: then it is hardly noise."""
        if self.target is None:
            return False
        target, compared = self.target, self.compared
        return not any(map(target.is_met, (compared.low, compared.median, compared.high)))

    @property
    def is_behind(self) -> bool:
        """Whether every single pair says that theirs is better, so that it is hardly noise."""
        if self.is_own:
            return False
        even = 0.0 if self.is_difference else 1.0
        worst_is = self.compared.low if self.is_less_better else self.compared.high
        return worst_is > even if self.is_less_better else worst_is < even

    @property
    def verdict(self) -> str:
        """Whether the target is met, in a word; empty where there is none."""
        if self.target is None:
            return ""
        return "MISSES" if self.is_missed else "meets"
