"""What clients did: operations with the times between which they took effect, and a recorder."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Outcome(Enum):
    """Stands for a result that nobody knows."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Outcome.UNKNOWN
LOST: Final = "LOST"
"""The name of an operation of no client: the key's server died, and the key may have gone."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One command on one key.

    Attributes:
        client: Who sent it.
        name: The command, in capitals.
        arguments: What follows the key.
        begin_s: When it was sent, on the clock of all operations.
        end_s: When its reply was there; infinite if none came, since a request that is still on
            its way may be executed at any later time.
        result: The reply as redis-py gives it, a set as a frozenset; `UNKNOWN` if none came.
    """

    client: str
    name: str
    arguments: tuple[Any, ...]
    begin_s: float
    end_s: float = math.inf
    result: Any = UNKNOWN

    @property
    def is_certain(self) -> bool:
        """Whether it has taken effect for sure."""
        return self.result is not UNKNOWN

    def __str__(self) -> str:
        request = " ".join(map(str, (self.name, *self.arguments)))
        if self.result is UNKNOWN:
            return f"{request} -> ?"
        result = sorted(self.result) if isinstance(self.result, frozenset) else self.result
        return f"{request} -> {result!r}"


def loss(begin_s: float, end_s: float, cause: str = "") -> Operation:
    """Return what allows a key to be lost, once, at some time between the two."""
    return Operation(cause, LOST, (), begin_s, end_s)


class Recorder:
    """Takes down what many threads do, in histories by key.

    Args:
        clock: Seconds that never go back, the same for all clients.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._histories: dict[str, list[Operation]] = defaultdict(list)

    def call(
        self,
        client: str,
        key: str,
        name: str,
        arguments: tuple[Any, ...],
        send: Callable[[], Any],
        refusals: Callable[[Exception], bool] = lambda error: False,
    ) -> Any:
        """Send a command by `send`, note it with its times, and return its result.

        Args:
            client: Who sends it.
            key: The history that it belongs to.
            name: The command.
            arguments: What follows the key.
            send: Does it, and returns the reply.
            refusals: Whether an error says that nothing was executed; of other errors nobody
                knows.

        Raises:
            Exception: Whatever `send` raised, after it was noted.
        """
        begin_s = self.clock()
        try:
            result = send()
        except Exception as error:
            if not refusals(error):
                self.add(key, Operation(client, name, arguments, begin_s))
            raise
        noted = frozenset(result) if isinstance(result, set) else result
        self.add(key, Operation(client, name, arguments, begin_s, self.clock(), noted))
        return result

    def add(self, key: str, operation: Operation) -> None:
        """Note an operation as it is."""
        with self._lock:
            self._histories[key].append(operation)

    def histories(self) -> dict[str, list[Operation]]:
        """Return a copy of what was noted, by key, in the order of sending."""
        with self._lock:
            return {
                key: sorted(operations, key=lambda operation: operation.begin_s)
                for key, operations in self._histories.items()
            }
