"""A controller that says what a test has it say, and real storage servers that follow it.

The servers are processes of `pocketkv storage`; only the controller is played, so that a test
decides when which map comes, and hears what it is told.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pocketkv.placement import PlacementMap, Server, SlotMove, SlotRange
from pocketkv.slots import SLOT_COUNT
from pocketkv.tokens import job_token
from tests.tiers.storage_process import Client, Storage, eventually, storage

SECRET = bytes(range(32))
JOB = "sort-0123456789abcdef"
IDS = ["a" * 40, "b" * 40, "c" * 40]
LAST_SLOT = SLOT_COUNT - 1


class Controller:
    """Takes members, tells them maps, and notes what they say."""

    def __init__(self) -> None:
        self.epoch = 0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.reports: dict[str, dict[str, Any]] = {}
        self.servers: dict[str, Server] = {}
        self.placements: dict[str, PlacementMap] = {}
        self._links: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError):
            while header := stream.readline():
                request = []
                for _ in range(int(header[1:])):
                    length = int(stream.readline()[1:])
                    request.append(stream.read(length + 2)[:-2])
                with self._lock:
                    self._answer(sock, request)

    def _answer(self, sock: socket.socket, request: list[bytes]) -> None:
        name = request[0].decode()
        if name == "HELLO":
            sock.sendall(b"%1\r\n+proto\r\n:3\r\n")
        elif name == "MEMBER.CHALLENGE":
            sock.sendall(b"$5\r\nnonce\r\n")
        elif name == "MEMBER.JOIN":
            member = json.loads(request[1])
            self.epoch += 1
            self._links[member["id"]] = sock
            if member["role"] == "storage":
                self._add_server(member)
            text = self._update()
            sock.sendall(b"$%d\r\n%b\r\n" % (len(text), text))
            self._push(but=sock)
        else:
            if name == "MEMBER.REPORT":
                report = json.loads(request[1])
                self.reports[str(sock.getpeername()[1])] = report
            elif name.startswith("MEMBER.MOVE"):
                self.told.append((name, json.loads(request[1])))
            sock.sendall(b"+OK\r\n")

    def _add_server(self, member: dict[str, Any]) -> None:
        self.servers[member["id"]] = Server(
            id=member["id"],
            tier=member["tier"],
            host=member["host"],
            port=member["port"],
            machine=member["machine"],
            capacity_bytes=member["capacity_bytes"],
            bandwidth_bytes_s=0,
        )

    def _update(self) -> bytes:
        return json.dumps(
            {
                "epoch": self.epoch,
                "servers": [s.as_json() for s in self.servers.values()],
                "placements": [p.as_json() for p in self.placements.values()],
                "full": True,
            }
        ).encode()

    def _push(self, but: socket.socket | None = None) -> None:
        text = self._update()
        frame = b">2\r\n$15\r\npocketkv.update\r\n$%d\r\n%b\r\n" % (len(text), text)
        for link in self._links.values():
            if link is not but:
                with contextlib.suppress(OSError):
                    link.sendall(frame)

    # --- what a test has it do -----------------------------------------------------------------

    def place_job(
        self,
        ranges: list[tuple[int, int, str]],
        moves: list[tuple[int, int, str, str]] = [],  # noqa: B006 - it is not changed
        job_id: str = JOB,
        quota: int | None = None,
    ) -> list[str]:
        """Tell all a new map of a job; the ids of the moves that it orders."""
        with self._lock:
            self.epoch += 1
            ordered = tuple(SlotMove(f"{self.epoch}-{m[0]}", *m) for m in moves)
            self.placements[job_id] = PlacementMap(
                job_id=job_id,
                epoch=self.epoch,
                ranges=tuple(SlotRange(*r) for r in ranges),
                quotas=dict.fromkeys(IDS, quota),
                weights={ranges[0][2]: 1.0},
                moves=ordered,
            )
            self._push()
            return [move.id for move in ordered]

    def end_job(self, job_id: str = JOB) -> None:
        with self._lock:
            self.epoch += 1
            del self.placements[job_id]
            self._push()

    def announce(self) -> None:
        """Tell the list of servers anew."""
        with self._lock:
            self.epoch += 1
            self._push()

    def forget_server(self, server_id: str) -> None:
        with self._lock:
            self.epoch += 1
            del self.servers[server_id]
            self._links.pop(server_id)
            self._push()

    def messages(self, name: str, move_id: str) -> list[dict[str, Any]]:
        return [m for n, m in list(self.told) if n == name and m["move"] == move_id]

    def wait_moved(self, move_id: str, timeout_s: float = 60.0) -> None:
        eventually(lambda: len(self.messages("MEMBER.MOVED", move_id)) >= 2, timeout_s)

    def close(self) -> None:
        self._listener.close()


class Cluster:
    """The controller and servers under it."""

    def __init__(
        self, controller: Controller, servers: list[Storage], router: Storage | None
    ) -> None:
        self.controller = controller
        self.servers = servers
        self.router = router

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
            ours = [*common, "--server-id", IDS[number], "--memory", "512mb", *options]
            started.append(stack.enter_context(storage(own, *ours, may_be_killed=may_be_killed)))
        eventually(lambda: len(controller.servers) == len(started))
        router = None
        if with_router:
            (folder / "router").mkdir()
            router = stack.enter_context(storage(folder / "router", *common, role="router"))
        yield Cluster(controller, started, router)
