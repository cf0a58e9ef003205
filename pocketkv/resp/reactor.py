"""The reactor: one epoll set under trio that holds every connection of a server.

One trio task waits for the set's own descriptor; when something is ready it serves every ready
connection, round after round while traffic is hot, and lets trio's other tasks run at least every
`limits.BURST_S`. A task per connection costs three times as much. Everything that is not the data
path (timers, control, background work) is ordinary trio tasks.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import trio

from pocketkv import limits
from pocketkv.resp.connection import Connection
from pocketkv.resp.replies import ErrorReply, FileRange
from pocketkv.resp.syscalls import BROKEN, READABLE, WRITABLE, Poller

_IN: Final = READABLE
_OUT: Final = WRITABLE
_BROKEN: Final = BROKEN
# The side of connections that count as clients (see `Connection.side`).
_CLIENT: Final = "client"
# Accepting failed because something ran out that comes back: wait, then try again.
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE_S = 0.1
_SWEEP_INTERVAL_S = 1.0

ConnectionFactory = Callable[["Reactor", socket.socket], Connection | None]


@dataclass(slots=True)
class Traffic:
    """What went over the connections to one side, closed ones included, and what is open now."""

    connections: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    unsent_bytes: int = 0


# Reads a part of a reply where that may take long: the part, from which byte on, and how many.
Fetch: TypeAlias = "Callable[[FileRange, int, int, Callable[[Exception | None], None]], None]"


class Reactor:
    """Serves all connections of one process.

    Args:
        log: Where connection failures are told.
        on_round: Called with the time before each round of service, so that the engine's clock
            is read once per round and not once per command.
        on_burst_end: Called when the reactor is about to leave the thread to other tasks.

    Attributes:
        now_s: Monotonic time of the round under way.
        connections: By descriptor.
        connections_max: How many clients may be connected; own connections do not count.
        dropped: Connections closed because they broke a limit, by reason.
        commit: Has what requests changed kept before they are answered; ``None``: nothing is. Why
            it could not be kept, if so: the answer to all of them. For connections that are made
            after it was set.
        poll: Looks for something that nobody tells of, after each round; whether it has to be
            looked for again, soon. ``None``: there is no such thing.
        holds_large: Whether no more of large arguments is to be received, until `release_large`.
        fetch: Has a part of a file read by who may wait, then calls back, with an error if there
            was one; ``None``: no file is ever anywhere but in memory.
        on_stall: Waited for, before anything else is served, when the process turns out to have
            stood still for longer than `stall_s`: what it knows may be out of date. ``None``:
            nothing is done about that.
        stall_s: `limits.STALL_S`.
    """

    def __init__(
        self,
        log: logging.Logger,
        on_round: Callable[[], None] | None = None,
        on_burst_end: Callable[[], None] | None = None,
    ) -> None:
        self.log = log
        self.now_s = time.monotonic()
        self.connections: dict[int, Connection] = {}
        self._descriptors_max = _descriptors_max()
        self.connections_max = min(limits.CONNECTIONS_MAX, self._descriptors_max)
        self._own = 0
        self.accepted = 0
        self.dropped: dict[str, int] = {}
        # Received and sent over connections that are closed, by side.
        self._closed_bytes: dict[str, tuple[int, int]] = {"client": (0, 0)}
        self.commit: Callable[[], ErrorReply | None] | None = None
        self.poll: Callable[[], bool] | None = None
        self._polling = False
        self.holds_large = False
        self._held: list[Connection] = []
        self.fetch: Fetch | None = None
        self.on_stall: Callable[[], Awaitable[None]] | None = None
        self.stall_s = limits.STALL_S
        # When this process was last seen to run, by itself.
        self._alive_s = self.now_s
        self._stalled = False
        self._on_round = on_round
        self._on_burst_end = on_burst_end
        self._epoll = Poller()
        self._listeners: dict[int, tuple[socket.socket, ConnectionFactory]] = {}
        self._scheduled: deque[Connection] = deque()
        # Wakes the reactor when a turn is scheduled while it waits for the kernel.
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, _IN)
        self._linger_ms = limits.LINGER_MS
        # Whether a task is to have the thread soon.
        self._tasks_wait = False
        self._serving = False
        self._accept_resume_s: float | None = None
        self._closed = False

    # --- connections ---------------------------------------------------------------------------

    def listen(self, sock: socket.socket, factory: ConnectionFactory) -> None:
        """Accept connections on a listening socket; `factory` makes the connection of each.

        A factory that answers ``None`` has refused and closed the socket.
        """
        sock.setblocking(False)
        self._listeners[sock.fileno()] = (sock, factory)
        self._epoll.register(sock.fileno(), _IN)

    def stop_listening(self) -> None:
        """Close all listening sockets; connections stay."""
        for fd, (sock, _) in list(self._listeners.items()):
            self._unregister(fd)
            sock.close()
        self._listeners.clear()

    def add(self, connection: Connection, *, writable: bool = False) -> None:
        """Watch a connection; with `writable`, also until it can be written (a connect)."""
        self.connections[connection.fd] = connection
        connection.output_waits = writable
        self._own += connection.side != _CLIENT
        self._epoll.register(connection.fd, _IN | (_OUT if writable else 0))

    def remove(self, connection: Connection) -> None:
        """Stop watching a connection (called by `Connection.close`)."""
        if self.connections.pop(connection.fd, None) is not None:
            self._own -= connection.side != _CLIENT
            self._unregister(connection.fd)
        received, sent = self._closed_bytes.get(connection.side, (0, 0))
        self._closed_bytes[connection.side] = (
            received + connection.received_bytes,
            sent + connection.sent_bytes,
        )

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError) as error:
            self.log.warning("epoll unregister failed", extra={"fd": fd, "error": str(error)})

    def update_interest(self, connection: Connection) -> None:
        """Tell the kernel what the connection now waits for."""
        if connection.closed:
            return
        mask = 0 if connection.input_paused else _IN
        if connection.output_waits and not connection.fetching:
            mask |= _OUT
        self._epoll.modify(connection.fd, mask)

    def traffic(self) -> dict[str, Traffic]:
        """What went over all connections so far, by side (`Connection.side`)."""
        sides = {
            side: Traffic(received_bytes=received, sent_bytes=sent)
            for side, (received, sent) in self._closed_bytes.items()
        }
        for connection in self.connections.values():
            traffic = sides.setdefault(connection.side, Traffic())
            traffic.connections += 1
            traffic.received_bytes += connection.received_bytes
            traffic.sent_bytes += connection.sent_bytes
            traffic.unsent_bytes += connection.outbox.pending_bytes
        return sides

    @property
    def received_bytes(self) -> int:
        """Bytes received so far, over all connections."""
        return sum(traffic.received_bytes for traffic in self.traffic().values())

    @property
    def sent_bytes(self) -> int:
        """Bytes sent so far, over all connections."""
        return sum(traffic.sent_bytes for traffic in self.traffic().values())

    def schedule(self, connection: Connection) -> None:
        """Give the connection a turn in the next round, whether or not bytes arrive."""
        if not connection.scheduled and not connection.closed:
            connection.scheduled = True
            self._scheduled.append(connection)
            if len(self._scheduled) == 1:
                self.wake()

    def wake(self) -> None:
        """Have a round served, and `poll` called, soon if none is being served."""
        if not self._serving:
            os.eventfd_write(self._wake_fd, 1)

    def drop(self, connection: Connection, reason: str) -> None:
        """Close a connection that broke a limit, and say so."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.log.warning(
            "connection dropped",
            extra={
                "fd": connection.fd,
                "reason": reason,
                "pending_bytes": connection.outbox.pending_bytes,
            },
        )
        connection.close()

    def hold_large(self, connection: Connection) -> None:
        """Have a connection wait with its large argument."""
        connection.pause_input()
        self._held.append(connection)

    def release_large(self) -> None:
        """Go on receiving large arguments."""
        self.holds_large = False
        held, self._held = self._held, []
        for connection in held:
            # It did not stall: it was not asked.
            connection.last_receive_s = self.now_s
            connection.resume_input()

    def let_tasks_run(self) -> None:
        """Leave the thread when what is ready has had its turn: a task has something to do."""
        self._tasks_wait = True

    @property
    def wake_fd(self) -> int:
        """A descriptor for events (`os.eventfd`): each has a round served, and `poll` called."""
        return self._wake_fd

    # --- serving -------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then close everything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            self._alive_s = time.monotonic()
            task_status.started()
            try:
                while True:
                    if self._scheduled or self._polling:
                        await trio.lowlevel.checkpoint()
                    else:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._burst()
                    if self._stalled:
                        await self._recover()
            finally:
                nursery.cancel_scope.cancel()
                self.close()

    async def _recover(self) -> None:
        """Find out what has happened while the process stood still."""
        try:
            if self.on_stall is not None:
                await self.on_stall()
        finally:
            self._alive_s = time.monotonic()
            self._stalled = False

    def _look_at_clock(self) -> None:
        """Read the time of the next round; notice if the process has stood still until then."""
        self.now_s = time.monotonic()
        if self.now_s - self._alive_s > self.stall_s:
            self._stalled = True
        self._alive_s = self.now_s

    def _burst(self) -> None:
        """Serve rounds while there is work, for at most `limits.BURST_S`."""
        self._serving = True
        started_s = time.monotonic()
        ready = self._epoll.poll(0)
        try:
            while ready or self._scheduled or self._polling:
                # What came meanwhile waits in the kernel until it is known what is true.
                self._look_at_clock()
                if self._stalled:
                    return
                if ready or self._scheduled:
                    self._round(ready)
                if self.poll is not None:
                    self._polling = self.poll()
                if self._tasks_wait or self.now_s - started_s > limits.BURST_S:
                    return
                # While traffic is hot the next request comes sooner than a way through trio's
                # scheduler and back takes.
                if self._polling and not self._scheduled:
                    ready = self._epoll.poll_briefly()
                else:
                    ready = self._epoll.poll(0 if self._scheduled else self._linger_ms)
        finally:
            self._serving = False
            self._tasks_wait = False
            if self._on_burst_end is not None:
                self._on_burst_end()

    def _round(self, ready: int) -> None:
        """Serve every ready connection once, then those whose turn was scheduled."""
        if self._on_round is not None:
            self._on_round()
        for index in range(ready):
            fd = self._epoll.fd(index)
            connection = self.connections.get(fd)
            if connection is not None:
                self._serve(connection, self._epoll.mask(index))
            elif fd in self._listeners:
                self._accept(fd)
            elif fd == self._wake_fd:
                os.eventfd_read(fd)
        for _ in range(len(self._scheduled)):
            connection = self._scheduled.popleft()
            connection.scheduled = False
            if not connection.closed:
                try:
                    connection.on_turn()
                except Exception as error:  # noqa: BLE001 - it is logged there
                    self._contain(connection, error)

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & _BROKEN and connection.input_paused:
            # It would be reported again and again to somebody who does not read.
            error = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            connection.fail(OSError(error or errno.EPIPE, "the other side is gone"))
            return
        try:
            if mask & _OUT and not connection.closed:
                connection.on_writable()
            if mask & (_IN | _BROKEN) and not connection.closed:
                connection.on_readable()
        except Exception as error:  # noqa: BLE001 - it is logged there
            self._contain(connection, error)

    def guard(self, connection: Connection, step: Callable[[], None]) -> None:
        """Do something for a connection.

        A defect met while serving one connection costs that connection and no other.
        """
        try:
            step()
        except Exception as error:  # noqa: BLE001 - it is logged there
            self._contain(connection, error)

    def _contain(self, connection: Connection, error: Exception) -> None:
        """Close the connection that a defect was met with."""
        self.log.error(
            "internal error, connection closed", exc_info=error, extra={"fd": connection.fd}
        )
        connection.close()

    def _accept(self, fd: int) -> None:
        sock, factory = self._listeners[fd]
        for _ in range(limits.ACCEPTS_PER_TURN):
            try:
                accepted, _address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OVERLOADED:
                    self._pause_accepting(fd)
                    self.log.warning("cannot accept", extra={"error": str(error)})
                    return
                continue
            if self._is_full():
                _refuse(accepted)
                self.dropped["maxclients"] = self.dropped.get("maxclients", 0) + 1
                continue
            self.accepted += 1
            self._admit(accepted, factory)

    def _is_full(self) -> bool:
        """Whether there are too many clients, or connections that nobody has descriptors for."""
        count = len(self.connections)
        return count - self._own >= self.connections_max or count >= self._descriptors_max

    def _admit(self, sock: socket.socket, factory: ConnectionFactory) -> None:
        """Make the connection of a socket; a defect in that costs this socket only."""
        try:
            connection = factory(self, sock)
        except Exception:
            self.log.exception("internal error, connection not accepted")
            sock.close()
            return
        if connection is not None:
            self.add(connection)

    def _pause_accepting(self, fd: int) -> None:
        self._epoll.modify(fd, 0)
        self._accept_resume_s = time.monotonic() + _ACCEPT_PAUSE_S

    # --- tasks ---------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_INTERVAL_S)
            now_s = time.monotonic()
            if now_s - self._alive_s > self.stall_s:
                self._stalled = True
            self._alive_s = now_s
            self.sweep(now_s)

    def sweep(self, now_s: float) -> None:
        """See to time-outs, as of a monotonic time; runs about once a second."""
        for connection in list(self.connections.values()):
            if not connection.closed:
                try:
                    connection.on_sweep(now_s)
                except Exception as error:  # noqa: BLE001 - it is logged there
                    self._contain(connection, error)
        if self._accept_resume_s is not None and now_s > self._accept_resume_s:
            self._accept_resume_s = None
            for fd in self._listeners:
                self._epoll.modify(fd, _IN)

    def close(self) -> None:
        """Close all connections, the listening sockets and the epoll set."""
        if self._closed:
            return
        self._closed = True
        self.stop_listening()
        for connection in list(self.connections.values()):
            connection.close()
        self._epoll.close()
        os.close(self._wake_fd)


def _refuse(sock: socket.socket) -> None:
    """Tell a client, as Redis does, that there are too many."""
    sock.setblocking(False)
    try:
        sock.send(b"-ERR max number of clients reached\r\n")
    except OSError:
        pass  # The client is refused either way.
    finally:
        sock.close()


def _descriptors_max() -> int:
    """How many connections the process's descriptor limit allows, which is raised if it may be.

    As many clients as there may be can each need a connection to a server at the same time.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * limits.CONNECTIONS_MAX + limits.RESERVED_DESCRIPTORS
    if soft == resource.RLIM_INFINITY:
        soft = wanted
    elif soft < wanted:
        soft = _raised_limit(soft, hard, wanted)
    return max(1, min(soft, wanted) - limits.RESERVED_DESCRIPTORS)


def _raised_limit(soft: int, hard: int, wanted: int) -> int:
    """The limit of descriptors after an attempt to raise it, beyond the hard one if that may be."""
    is_unlimited = hard == resource.RLIM_INFINITY
    if not is_unlimited and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            wanted = hard  # Only root may go beyond it.
        else:
            return wanted
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
