"""What long replies pass through between a storage server's connection and a client's.

Two ways: a buffer, which is always there, and a pipe, through which the kernel moves what was
received without copying it (a third of the cost). Both are empty between two pieces, so one of
each is enough for all connections: what a client does not take at once is kept for it as bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

from pocketkv import limits

# What a pipe must hold to be worth it: with less, its calls cost more than copying.
_PIPE_BYTES_MIN: Final = 512 * limits.KIB


class Relay:
    """The buffer and the pipe of one router.

    Attributes:
        buffer: Good until the next piece is received.
        pipe_bytes: What the pipe is asked to hold; 0: there is none.
    """

    __slots__ = ("_held_bytes", "_read_fd", "_write_fd", "buffer", "pipe_bytes")

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(limits.RECEIVE_LARGE_BYTES))
        self.pipe_bytes = 0
        self._read_fd = self._write_fd = -1
        # In the pipe; anything there when a piece begins belongs to somebody else's reply.
        self._held_bytes = 0

    def open_pipe(self) -> None:
        """Have a pipe, if the system has them and lets this one be large enough."""
        if not hasattr(os, "splice") or self.pipe_bytes:
            return
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._write_fd, fcntl.F_SETPIPE_SZ, limits.RECEIVE_LARGE_BYTES)
        self.pipe_bytes = fcntl.fcntl(self._write_fd, fcntl.F_GETPIPE_SZ)
        if self.pipe_bytes < _PIPE_BYTES_MIN:
            self.close()

    def close(self) -> None:
        """Close the pipe."""
        if self._read_fd >= 0:
            os.close(self._read_fd)
            os.close(self._write_fd)
        self._read_fd = self._write_fd = -1
        self._held_bytes = 0
        self.pipe_bytes = 0

    def fill(self, fd: int, count: int) -> int:
        """Move up to `count` received bytes of a socket into the pipe; 0 at the stream's end.

        Raises:
            OSError: As `socket.socket.recv`.
        """
        if self._held_bytes:
            # What was to take it out has failed.
            self.close()
            self.open_pipe()
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        self._held_bytes = os.splice(fd, self._write_fd, count, flags=flags)
        return self._held_bytes

    def drain(self, fd: int, count: int, more: bool) -> int:
        """Send up to `count` bytes of what is in the pipe; `more` will be sent very soon.

        Raises:
            OSError: As `socket.socket.send`.
        """
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK | (os.SPLICE_F_MORE if more else 0)
        sent = os.splice(self._read_fd, fd, count, flags=flags)
        self._held_bytes -= sent
        return sent

    def take(self, count: int) -> bytes:
        """The bytes that are left in the pipe, which are `count`."""
        rest = os.read(self._read_fd, count)
        self._held_bytes -= len(rest)
        assert self._held_bytes == 0
        return rest
