"""Has the controller change a job's terms, for a client of this member."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import trio

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError

_AWAY: Final = b"CLUSTERDOWN The controller does not answer: "


class _Call(Protocol):
    def __call__(self, *arguments: bytes, timeout_s: float) -> Awaitable[Any]: ...


class ControllerTerms:
    """What `Node.term_keeper` is in a cluster.

    Args:
        call: `Membership.call`.
        nursery: Where it waits for answers.
    """

    def __init__(self, call: _Call, nursery: trio.Nursery) -> None:
        self._call = call
        self._nursery = nursery

    def __call__(
        self, request: list[bytes], on_answer: Callable[[CommandError | None], None]
    ) -> None:
        """Send a request; `on_answer` is told when all members know, or why not."""
        self._nursery.start_soon(self._ask, request, on_answer)

    async def _ask(
        self, request: list[bytes], on_answer: Callable[[CommandError | None], None]
    ) -> None:
        error: CommandError | None = None
        try:
            await self._call(*request, timeout_s=limits.CONTROL_TIMEOUT_S)
        except RemoteError as refusal:
            error = CommandError(str(refusal).encode())
        except PeerError as failure:
            error = CommandError(_AWAY + str(failure).encode())
        on_answer(error)
