"""What a router asks storage servers for itself: whether they are alive, to end a client's wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.commands import find_command
from pocketkv.resp.replies import Reply
from pocketkv.router.exchange import Asker, Exchange, Forward
from pocketkv.router.upstream import Binding, Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketkv.router.routing import Router
    from pocketkv.router.view import JobView


class Nobody(Asker):
    """The client of what no client has asked."""

    __slots__ = ()

    def __init__(self, router: Router) -> None:
        self.router = router
        self.closed = False
        self.in_flight = 0
        self.is_unsettled = False

    def finished(self, exchange: Exchange, reply: Reply, size_bytes: int) -> None:
        """Nobody counts it."""

    def hold(self) -> None:
        """There is nothing to hold back."""

    def release(self) -> None:
        """As above."""


class Errand(Forward):
    """A request of the router itself to one server, in a job's database 0, over RESP2.

    Args:
        router: Whose it is.
        upstream: The server.
        job_id: The job.
        request: What is asked.
        on_reply: Called once with the answer: `Encoded`, or an `ErrorReply`.
    """

    __slots__ = ("_on_reply", "_target")

    streams = False

    def __init__(
        self,
        router: Router,
        upstream: Upstream,
        job_id: str,
        request: list[bytes],
        on_reply: Callable[[Reply], None],
    ) -> None:
        super().__init__(router.nobody, find_command(request), request)
        self._target = upstream
        self._on_reply = on_reply
        self.binding = router.errand_binding(job_id)

    def start(self) -> None:
        """Send it."""
        self.send(self._target)

    def owner(self, view: JobView) -> Upstream:
        """The server that it is for, whatever the map says."""
        return self._target

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """Tell whoever sent it."""
        self.complete(reply)
        self._on_reply(reply)


def errand_binding(job_id: str) -> Binding:
    """The shared lanes that errands in a job take."""
    return Binding((job_id, 0, 2, 0))
