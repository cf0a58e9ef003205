"""What the controller asks of whatever runs its storage servers.

A backend starts and stops servers, and tells of those that died. It decides nothing: how many
there are to be is the cluster state's business, and what they hold is none of the backend's. Its
calls return at once; what comes of them is told later, as `ProcessDied`, or seen when the server
joins under the id that it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import trio

from pocketkv.controller.fleet import BackendTraits
from pocketkv.controller.messages import ProcessDied, ServerWaits

Tell: TypeAlias = Callable[[ProcessDied | ServerWaits], None]


class Backend(Protocol):
    """Runs storage servers."""

    @property
    def plan(self) -> Mapping[str, int]:
        """How many servers of each tier a new cluster begins with."""
        ...

    @property
    def plan_id(self) -> str:
        """Tells this plan from others: it replaces what is remembered of another one."""
        ...

    @property
    def traits(self) -> BackendTraits:
        """What is peculiar to it."""
        ...

    def servers_max(self, tier: str) -> int:
        """How many servers a tier can have at most."""
        ...

    def new_server_id(self, tier: str) -> str:
        """Return the id of the server of a tier that will be started next; never one again."""
        ...

    def may_leave(self, tier: str, server_ids: Sequence[str]) -> Sequence[str]:
        """Return which of these servers of a tier could be the next one to be stopped for good.

        A backend that numbers its servers may be able to do without the last ones only.
        """
        ...

    def start(self, server_id: str, tier: str) -> None:
        """Start a server, which will join under its id. Starting it twice does nothing."""
        ...

    def watch(self, server_id: str, pid: int) -> None:
        """Watch a server that joined: one that was started before the controller was."""
        ...

    def stop(self, server_id: str, *, force: bool, returns: bool = False) -> None:
        """Stop a server; with `force`, at once. Its death is told, also if it does not run.

        One that `returns` is started again under its id after that, unless this is called again
        before without: what holds its place may be kept.
        """
        ...

    async def run(
        self,
        controller: tuple[str, int],
        tell: Tell,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Work until cancelled; servers go on. Nothing else may be called before it has begun.

        Args:
            controller: Where servers find the controller.
            tell: Is called, in the task's thread, with the deaths of servers, and with what
                those that were asked for wait for.
            task_status: For `trio.Nursery.start`.
        """
        ...
