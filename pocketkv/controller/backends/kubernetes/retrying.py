"""How long to wait before the API is asked again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0


class Backoff:
    """Pauses that grow, each with some chance, so that replicas do not ask in step.

    Args:
        dice: Gives a number from 0 to 1.
        longest_s: The longest pause, unless the API itself wants a longer one.
    """

    def __init__(
        self, dice: Callable[[], float] = random.random, longest_s: float = LONGEST_S
    ) -> None:
        self._dice = dice
        self._longest_s = longest_s
        self._base_s = FIRST_S

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Return the next pause; not less than what the API asked for."""
        pause_s = self._base_s * (0.5 + self._dice() / 2)
        self._base_s = min(self._base_s * 2, self._longest_s)
        return pause_s if retry_after_s is None else max(pause_s, retry_after_s)

    def reset(self) -> None:
        """Begin with a short pause again: it went well."""
        self._base_s = FIRST_S
