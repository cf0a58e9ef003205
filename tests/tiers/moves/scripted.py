"""A controller that says what a test has it say, and real storage servers that follow it.

The servers are processes of `pocketkv storage`; only the controller is played, so that a test
decides when which map comes, and hears what it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.played_controller import JOB, Controller
from pocketkv.slots import SLOT_COUNT
from pocketkv.tokens import job_token
from tests.tiers.storage_process import Client, Storage, eventually, storage

SECRET = bytes(range(32))
IDS = ["a" * 40, "b" * 40, "c" * 40]
LAST_SLOT = SLOT_COUNT - 1


class Cluster:
    """The controller and servers under it."""

    def __init__(
        self, controller: Controller, servers: list[Storage], router: Storage | None
    ) -> None:
        self.controller = controller
        self.servers = servers
        self.router = router

    def wait_moved(self, move_id: str, timeout_s: float = 60.0) -> None:
        """Until source and target have told that a move was carried out."""
        told = self.controller.messages
        eventually(lambda: len(told("MEMBER.MOVED", move_id)) >= 2, timeout_s)

    def client(self, number: int, job_id: str = JOB) -> Client:
        """A connection to a server, in the job."""
        client = self.servers[number].client()
        assert client("AUTH", job_id, job_token(SECRET, job_id)) == "OK"
        return client

    def plain_client(self) -> Client:
        """A connection to the router, in the job."""
        assert self.router is not None
        client = self.router.client()
        assert client("AUTH", JOB, job_token(SECRET, JOB)) == "OK"
        return client

    def give_all(self, number: int = 0) -> None:
        """One server has the whole job."""
        self.controller.place_job([(0, LAST_SLOT, IDS[number])])
        self.wait_known()

    def wait_known(self) -> None:
        """Until every server knows the job."""
        for server in [*self.servers, *([self.router] if self.router else [])]:
            eventually(lambda s=server: s.control("AUTH", JOB, job_token(SECRET, JOB)) == "OK")  # type: ignore[misc]

    def move(self, source: int = 0, target: int = 1) -> str:
        """Order that the whole job goes from one server to another; the id of the move."""
        (move_id,) = self.controller.place_job(
            [(0, LAST_SLOT, IDS[source])], [(0, LAST_SLOT, IDS[source], IDS[target])]
        )
        return move_id


@contextlib.contextmanager
def cluster(
    folder: Path,
    *servers: tuple[str, ...],
    count: int = 2,
    with_router: bool = False,
    may_be_killed: bool = False,
) -> Iterator[Cluster]:
    """A controller and storage servers with these options each; or so many without any."""
    controller = Controller()
    secret = folder / "secret"
    secret.write_text(SECRET.hex(), encoding="ascii")
    secret.chmod(0o600)
    common = ["--controller", controller.place, "--secret-file", str(secret)]
    started = []
    with contextlib.ExitStack() as stack:
        stack.callback(controller.close)
        for number, options in enumerate(servers or [()] * count):
            own = folder / f"server-{number}"
            own.mkdir()
            # They are ended at once: nobody orders a drain here.
            ours = [*common, "--server-id", IDS[number], "--drain-timeout", "0"]
            ours += ["--memory", "512mb", *options]
            started.append(stack.enter_context(storage(own, *ours, may_be_killed=may_be_killed)))
        eventually(lambda: len(controller.servers) == len(started))
        router = None
        if with_router:
            (folder / "router").mkdir()
            router = stack.enter_context(storage(folder / "router", *common, role="router"))
        yield Cluster(controller, started, router)
