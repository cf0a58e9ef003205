"""What a cluster takes of the machine that it runs on: a port, a directory, orphaned processes."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pocketkv.serving.shell import StartError, listen

LOOPBACK: Final = "127.0.0.1"
# Addresses to listen on that are none to be told to anybody.
WILDCARDS: Final = ("0.0.0.0", "::")
_PR_SET_CHILD_SUBREAPER: Final = 36


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Have a port that only processes of ours, which share it, can listen on.

    Raises:
        StartError: Somebody listens on it.
    """
    # Somebody who shares the port would not be noticed by one who does.
    with listen(host, port) as probe:
        address = probe.getsockname()
        family = probe.family
    with socket.socket(family, socket.SOCK_STREAM) as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            # Bound and not listening, it gets no connections.
            reservation.bind(address)
            # Needed only for what connections of the past have left; kept, it would let in others.
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield int(address[1])


@contextmanager
def private_directory(parent: Path | None, option: str = "--dir") -> Iterator[Path]:
    """Have a new directory below `parent` (or the system's for such), until the block ends.

    Parents that do not exist are made, and removed if nothing else is in them by then.

    Raises:
        StartError: It cannot be made.
    """
    made: list[Path] = []
    try:
        if parent is not None:
            missing = [path for path in (parent, *parent.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir()
                made.append(path)
        directory = Path(tempfile.mkdtemp(prefix="pocketkv-", dir=parent))
    except OSError as error:
        _remove_empty(made)
        raise StartError(f"{option} {parent}: {error.strerror}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _remove_empty(made)


def _remove_empty(directories: list[Path]) -> None:
    for directory in reversed(directories):
        try:
            directory.rmdir()
        except OSError:
            return  # Somebody has put something there.


def adopt_orphans() -> None:
    """Have processes below this one become its children when their parent dies.

    Raises:
        StartError: The system cannot do it.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise StartError(f"cannot adopt orphaned processes: {os.strerror(ctypes.get_errno())}")


def primary_address(wildcard: str) -> str:
    """Return this machine's address towards others, the loopback's if it has none."""
    family, outside, loopback = (
        (socket.AF_INET6, "2001:db8::1", "::1")
        if ":" in wildcard
        else (socket.AF_INET, "192.0.2.1", LOOPBACK)
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            # Connecting a datagram socket sends nothing; it only chooses a route.
            sock.connect((outside, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return loopback
