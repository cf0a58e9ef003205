"""A controller that says what it is told to say: for servers that are looked at by themselves."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any

from pocketkv.placement import PlacementMap, Server, SlotMove, SlotRange

JOB = "sort-0123456789abcdef"


class Controller:
    """Takes members, tells them maps, and notes what they say.

    Attributes:
        told: What members said about moves, in order, by the message's name.
        reports: The last report of each, by the port that it is connected from.
        servers, placements: What all of them are told.
    """

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
        """Where it listens."""
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
                quotas=dict.fromkeys([r[2] for r in ranges] + [m[3] for m in moves], quota),
                weights={ranges[0][2]: 1.0},
                moves=ordered,
            )
            self._push()
            return [move.id for move in ordered]

    def end_job(self, job_id: str = JOB) -> None:
        """Tell all that a job has ended."""
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
        """Tell all that a server is no more."""
        with self._lock:
            self.epoch += 1
            del self.servers[server_id]
            self._links.pop(server_id)
            self._push()

    def messages(self, name: str, move_id: str) -> list[dict[str, Any]]:
        """What was said of a move by one kind of message."""
        return [m for n, m in list(self.told) if n == name and m["move"] == move_id]

    def close(self) -> None:
        """Take no more members."""
        self._listener.close()
