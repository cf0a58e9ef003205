"""Receiving and sending on a socket's descriptor; the plain twin of `syscalls.pyx`."""

from __future__ import annotations

import os

from pocketkv import limits


def receive(fd: int) -> bytes:
    """What the kernel has, at most `limits.RECEIVE_BYTES`; empty at the end of the stream.

    Raises:
        OSError: As `socket.socket.recv`.
    """
    return os.read(fd, limits.RECEIVE_BYTES)


def send(fd: int, data: bytes) -> int:
    """Send what the kernel takes; how much that was.

    Raises:
        OSError: As `socket.socket.send`.
    """
    return os.write(fd, data)
