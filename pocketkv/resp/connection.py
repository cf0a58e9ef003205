"""One socket in the reactor: what all connections share.

`Outbox` holds what goes out, without I/O; the class here moves bytes between it and the socket.
A client's connection is a `client_connection.ClientConnection`.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, ClassVar, cast

from pocketkv import limits
from pocketkv.resp.encoder import Outbox
from pocketkv.resp.replies import Listener
from pocketkv.resp.syscalls import receive, receive_into, send, send_before_file, send_file

if TYPE_CHECKING:
    from pocketkv.resp.reactor import Reactor
    from pocketkv.resp.replies import FileRange, StoredOwner

# Errors of a socket that mean no more than that the other side is gone.
_GONE = frozenset(
    {errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.EHOSTUNREACH}
)


class Connection(Listener):
    """A non-blocking socket in a reactor, with what waits to be sent on it.

    Attributes:
        side: Who is on the other end, ``server`` or ``client``; what the reactor counts by.
    """

    side: ClassVar[str] = "server"

    __slots__ = (
        "__weakref__",
        "closed",
        "fd",
        "fetching",
        "input_paused",
        "last_progress_s",
        "last_receive_s",
        "outbox",
        "output_waits",
        "reactor",
        "receive_bytes",
        "received_bytes",
        "scheduled",
        "send_bytes_per_turn",
        "sent_bytes",
        "socket",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reactor = reactor
        self.socket = sock
        self.fd = sock.fileno()
        self.outbox = Outbox()
        self.closed = False
        # Whether the kernel's buffer is full, so that the reactor waits for room.
        self.output_waits = False
        # Whether what is to be sent next is being read from a file.
        self.fetching = False
        # Whether received bytes are left in the kernel on purpose.
        self.input_paused = False
        # Whether a turn is due without the socket having to become readable.
        self.scheduled = False
        self.receive_bytes = limits.RECEIVE_BYTES
        self.send_bytes_per_turn = limits.SEND_BYTES_PER_TURN
        self.received_bytes = 0
        self.sent_bytes = 0
        self.last_receive_s = reactor.now_s
        self.last_progress_s = reactor.now_s

    # --- for subclasses ------------------------------------------------------------------------

    def on_readable(self) -> None:
        """The socket has bytes, its end, or an error."""
        raise NotImplementedError  # An interface: the reactor only holds subclasses.

    def on_turn(self) -> None:
        """A turn that `Reactor.schedule` asked for."""
        raise NotImplementedError  # An interface: the reactor only holds subclasses.

    def on_end(self) -> None:
        """The other side will send nothing more."""
        self.close()

    def on_drained(self) -> None:
        """Everything that waited to be sent was sent."""

    def on_closed(self) -> None:
        """The connection was closed, by either side."""

    def on_sweep(self, now_s: float) -> None:
        """Called about once a second, for time-outs."""

    # --- I/O -----------------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """What the kernel has, at most `receive_bytes`; ``None`` if nothing or closed."""
        try:
            data = receive(self.fd, self.receive_bytes)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.fail(error)
            return None
        if not data:
            self.on_end()
            return None
        self.received_bytes += len(data)
        self.last_receive_s = self.reactor.now_s
        return data

    def receive_into(self, view: memoryview, spill: bool) -> tuple[int, bytes]:
        """Receive into a buffer and, with `spill`, what comes after its bytes.

        Returns:
            How much stands in the buffer, and what came after it; 0 if nothing came or the
            connection was closed.
        """
        try:
            count, after = receive_into(self.fd, view, spill)
        except (BlockingIOError, InterruptedError):
            return 0, b""
        except OSError as error:
            self.fail(error)
            return 0, b""
        if count == 0:
            self.on_end()
        self.received_bytes += count + len(after)
        self.last_receive_s = self.reactor.now_s
        return count, after

    def flush(self) -> None:
        """Send what the kernel takes; wait for room if it does not take all."""
        outbox = self.outbox
        budget_bytes = self.send_bytes_per_turn
        while outbox.pending_bytes and not self.output_waits and not self.closed:
            if budget_bytes <= 0:
                # It takes as fast as we send: the others' turn, before this one goes on.
                self._wait_for_room()
                return
            small = outbox.take_small()
            try:
                if small is not None:
                    count = send(self.fd, small)
                else:
                    count = self._send_large(budget_bytes)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self.fail(error)
                return
            self.sent_bytes += count
            self.last_progress_s = self.reactor.now_s
            budget_bytes -= count
            if small is None:
                outbox.sent(count)
                full = count == 0
            else:
                # A short send means a full buffer: asking again at once would only cost a call.
                full = count < len(small)
                if full:
                    outbox.give_back(small[count:])
            if full:
                self._wait_for_room()
                return

    def _send_large(self, budget_bytes: int) -> int:
        """Send of large replies what the kernel takes; how much that was.

        Raises:
            OSError: As the system calls; a file that ends before its part does is EIO.
        """
        outbox = self.outbox
        part = outbox.file_part()
        if part is None:
            pieces = outbox.pieces()
            if outbox.file_follows(len(pieces)):
                return send_before_file(self.socket, pieces)
            return self.socket.sendmsg(pieces)
        sent = outbox.head_sent
        wanted = min(part.size - sent, budget_bytes)
        if self.reactor.fetch is not None:
            wanted = self._at_hand(part, sent, wanted)
            if wanted == 0:
                return 0
        count = send_file(self.fd, part.fd, part.offset + sent, wanted)
        if count == 0:
            raise OSError(errno.EIO, "a value's file is shorter than the value")
        return count

    def _at_hand(self, part: FileRange, sent: int, wanted: int) -> int:
        """How much of a file can be sent without waiting for it; the rest is fetched.

        Raises:
            OSError: The file cannot be asked.
        """
        owner = cast("StoredOwner", part.owner)
        ready = owner.resident(part.offset + sent, wanted)
        if ready == 0:
            fetch = self.reactor.fetch
            assert fetch is not None  # The caller has looked.
            self.fetching = True
            fetch(part, sent, min(part.size - sent, limits.FETCH_BYTES), self._on_fetched)
        return ready

    def _on_fetched(self, error: Exception | None) -> None:
        """What is to be sent next is at hand now, or never will be."""
        self.fetching = False
        if self.closed:
            return
        if error is not None:
            # Half of the reply was sent: to end here is the only way to say so.
            self.reactor.drop(self, f"a value cannot be read: {error}")
            return
        self.last_progress_s = self.reactor.now_s
        self.on_writable()

    def on_writable(self) -> None:
        """The kernel has room again."""
        if self.fetching:
            return
        self.output_waits = False
        self.flush()
        if not self.output_waits and not self.closed:
            self.reactor.update_interest(self)
            self.on_drained()

    def _wait_for_room(self) -> None:
        self.output_waits = True
        self.last_progress_s = self.reactor.now_s
        self.reactor.update_interest(self)

    def pause_input(self) -> None:
        """Leave further bytes in the kernel, so that the sender is held back by TCP."""
        if not self.input_paused and not self.closed:
            self.input_paused = True
            self.reactor.update_interest(self)

    def resume_input(self) -> None:
        """Undo `pause_input`."""
        if self.input_paused and not self.closed:
            self.input_paused = False
            self.reactor.update_interest(self)

    def fail(self, error: OSError) -> None:
        """Close after an error of the socket; one that is not the peer's doing is logged."""
        if error.errno not in _GONE:
            self.reactor.log.warning(
                "connection failed", extra={"fd": self.fd, "error": str(error)}
            )
        self.close()

    def close(self) -> None:
        """Close now; what was not sent is lost. Closing twice does nothing."""
        if self.closed:
            return
        self.closed = True
        self.reactor.remove(self)
        self.socket.close()
        # Replies may hold what others could use, and this object may outlive its connection.
        self.outbox.clear()
        try:
            self.on_closed()
        except Exception:
            # Whoever closes it may be serving another connection.
            self.reactor.log.exception("internal error after closing", extra={"fd": self.fd})
