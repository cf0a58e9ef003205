"""Storage servers as the router sees them: where they are, and whether they have room.

Clients share a few connections to each server, called lanes (`pocketkv.router.lane`). What a
server has been sent and has not answered is limited; requests beyond that are held here.
"""

from __future__ import annotations

import enum
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv import limits

if TYPE_CHECKING:
    from pocketkv.router.exchange import Forward
    from pocketkv.router.lane import Lane
    from pocketkv.router.routing import Router

# Job, database, protocol version, number: which of those that clients share, or one of these; those
# of one client alone have its number, made negative.
LISTENING_NUMBER: Final = limits.UPSTREAM_LANES
SCRIPTING_NUMBER: Final = limits.UPSTREAM_LANES + 1
KILLING_NUMBER: Final = limits.UPSTREAM_LANES + 2
SPARE_NUMBER: Final = limits.UPSTREAM_LANES + 3
LaneKey: TypeAlias = tuple[str, int, int, int]
Address: TypeAlias = tuple[socket.AddressFamily, tuple[str, int]]


class Failure(enum.Enum):
    """Why a lane ended."""

    CLOSED = "closed"  # by this side, in an orderly way
    UNREACHABLE = "unreachable"  # before anything was sent on it
    REJECTED = "rejected"  # the server would not take it: it may not know the job yet
    BROKEN = "broken"  # it was cut off
    SILENT = "silent"  # nothing was answered for too long


class Binding:
    """Which lanes a client's requests take, for as long as its job and database are the same.

    Attributes:
        key: Of its lane on every server.
        lanes: By server; a closed one is replaced when it is needed.
    """

    __slots__ = ("key", "lanes")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.lanes: dict[Upstream, Lane] = {}


class Upstream:
    """One storage server.

    Attributes:
        id, host, port: As in the list of servers.
        address: What `host` and `port` mean; ``None`` while its name is not resolved.
        lanes: Open connections.
        in_flight_bytes: Of requests that were sent and not answered.
        in_flight_max_bytes: What may be, before further requests are held.
        held: Requests that wait until there is room, or until the host's name is resolved.
        is_open: Whether requests may be sent without asking `admits`.
        is_retired: Whether it has left the list of servers, so that idle lanes close.
    """

    __slots__ = (
        "_failure",
        "_suspended_until_s",
        "address",
        "held",
        "host",
        "id",
        "in_flight_bytes",
        "in_flight_max_bytes",
        "is_open",
        "is_retired",
        "lanes",
        "port",
        "router",
    )

    def __init__(self, router: Router, server_id: str, host: str, port: int) -> None:
        self.router = router
        self.id = server_id
        self.host = host
        self.port = port
        self.address = _literal_address(host, port)
        self.lanes: dict[LaneKey, Lane] = {}
        self.in_flight_bytes = 0
        self.in_flight_max_bytes = limits.UPSTREAM_BACKLOG_MAX_BYTES
        self.held: deque[Forward] = deque()
        self.is_open = self.address is not None
        self.is_retired = False
        # Why it cannot be reached, for as long as requests fail at once because of that.
        self._failure = ""
        self._suspended_until_s = 0.0

    @property
    def name(self) -> str:
        """What an error message calls it."""
        return f"{self.id[:12]} at {self.host}:{self.port}"

    def admits(self, forward: Forward) -> bool:
        """Whether a request may be sent now; else it is held, or has failed already."""
        if self._failure:
            if time.monotonic() < self._suspended_until_s:
                if forward.may_block:
                    self.router.refused([forward], self.unreachable(self._failure))
                else:
                    forward.fail(self.unreachable(self._failure))
                return False
            self._failure = ""
        # Nobody overtakes those that are held already, or they might wait for ever.
        if self.held or self.address is None or self._is_full():
            self.held.append(forward)
            forward.client.hold()
            if self.address is None:
                self.router.resolve(self)
            return False
        self.is_open = True
        return True

    def relieve(self) -> None:
        """Send what was held back, once there is room again."""
        if self.address is None and not self._failure:
            return
        if self.held and self.in_flight_bytes > self.in_flight_max_bytes // 2:
            return
        for _ in range(len(self.held)):
            if self._is_full():
                break
            forward = self.held.popleft()
            forward.client.release()
            if self._failure or forward.client.closed:
                forward.fail(self.unreachable(self._failure))
            else:
                forward.dispatch(self)
        self.is_open = not (self.held or self._failure or self.address is None or self._is_full())

    def _is_full(self) -> bool:
        return self.in_flight_bytes > self.in_flight_max_bytes

    def suspend(self, reason: str) -> None:
        """It cannot be reached: let requests fail at once for a while."""
        if not self._failure:
            self.router.log.warning(
                "storage server does not answer", extra={"server": self.name, "reason": reason}
            )
        self._failure = reason
        if _literal_address(self.host, self.port) is None:
            # The name may mean another address by now.
            self.address = None
        self._suspended_until_s = time.monotonic() + limits.UPSTREAM_SUSPEND_S
        self.is_open = False

    def unreachable(self, reason: str) -> bytes:
        """The error of a request that was certainly not executed."""
        return f"CLUSTERDOWN Storage server {self.name} does not answer: {reason}".encode()

    def close_spares(self) -> None:
        """Close lanes that are nobody's."""
        for key, lane in list(self.lanes.items()):
            if key[3] == SPARE_NUMBER:
                lane.give_up(Failure.CLOSED, "it is used no more")

    def close_lanes(self, job_id: str | None = None) -> None:
        """Close all lanes, or those of one job; what they still owe fails."""
        for key, lane in list(self.lanes.items()):
            if job_id is None or key[0] == job_id:
                lane.give_up(Failure.CLOSED, "it is used no more")


def _literal_address(host: str, port: int) -> Address | None:
    """The address of a host that is written as a number; ``None`` for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port)
    return None
