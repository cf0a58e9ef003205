"""Reads that go on by themselves: begun by one call, and told of when they are done.

The system's own asynchronous reads of files (`io_submit`), which exist for files that are read past
the page cache. Unlike io_uring they are allowed in containers. A descriptor for events wakes
whoever waits for one; what is done is then found in memory that the system shares.

`async_reads.pyx` is the same without objects for what goes in.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

# io_setup, io_destroy, io_submit, io_getevents.
_X86_CALLS: Final = (206, 207, 209, 208)
_OTHER_CALLS: Final = (0, 1, 2, 4)
_CALLS: Final = {"x86_64": _X86_CALLS, "aarch64": _OTHER_CALLS, "riscv64": _OTHER_CALLS}
_READ: Final = 0
_TELLS: Final = 1
# The system shares its list in a form that this number stands for.
_RING_MAGIC: Final = 0xA10A10A1

# The interpreter's lock is kept: no call waits.
_libc = ctypes.PyDLL(None, use_errno=True)
_call = _libc.syscall
_call.restype = ctypes.c_long


class _Request(ctypes.Structure):
    """`struct iocb`, as far as it is the same on every little-endian machine."""

    _fields_ = (
        ("token", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("how", ctypes.c_uint32),
        ("operation", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("unused", ctypes.c_uint64),
        ("tells", ctypes.c_uint32),
        ("wake_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("token", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("more", ctypes.c_int64),
    )


class _Ring(ctypes.Structure):
    """`struct aio_ring`, where the system says how much there is to be taken."""

    _fields_ = (
        ("id", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("head", ctypes.c_uint32),
        ("tail", ctypes.c_uint32),
        ("magic", ctypes.c_uint32),
    )


class AsyncReads:
    """For one thread.

    Attributes:
        under_way: How many reads were begun and are not taken.

    Args:
        depth: How many reads may be under way.
        wake_fd: A descriptor for events (`os.eventfd`), written to with each that is done.
        nowait: Whether what could not be begun without waiting is refused (EAGAIN): for parts that
            the system does not have to divide.

    Raises:
        OSError: The system has no such reads, or does not let us have them.
    """

    def __init__(self, depth: int, wake_fd: int, *, nowait: bool = False) -> None:
        calls = _CALLS.get(os.uname().machine)
        if calls is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._submit, self._getevents = calls
        self._context = ctypes.c_ulong(0)
        if _call(setup, ctypes.c_uint(depth), ctypes.byref(self._context)) != 0:
            raise _error()
        self._ring = _Ring.from_address(self._context.value)
        self._is_shared = self._ring.magic == _RING_MAGIC
        self._events = (_Event * depth)()
        self._requests = (_Request * depth)()
        first = ctypes.addressof(self._requests)
        size = ctypes.sizeof(_Request)
        self._pointers = (ctypes.c_void_p * depth)(*(first + n * size for n in range(depth)))
        for request in self._requests:
            request.operation, request.tells, request.wake_fd = _READ, _TELLS, wake_fd
            request.how = os.RWF_NOWAIT if nowait else 0
        self._depth = depth
        # How many of the requests the system has not been given yet.
        self._begun = 0
        self._refused: list[tuple[int, int]] = []
        self.under_way = 0

    def begin(self, fd: int, offset: int, address: int, size: int, token: int) -> bool:
        """Have a part of a file read to where it is to stand in memory, from `submit` on.

        Args:
            fd: The file, opened with ``O_DIRECT``.
            offset: Of the part, in bytes; like the others a multiple of the device's block size.
            address: Of the memory, which must stay until the read is taken, or all is closed.
            size: Of both, in bytes.
            token: What `take` tells it by.

        Returns:
            Whether there is room for it among those that are under way.
        """
        if self.under_way == self._depth or not self._context.value:
            return False
        request = self._requests[self._begun]
        request.fd, request.offset = fd, offset
        request.address, request.size = address, size
        request.token = token
        self._begun += 1
        self.under_way += 1
        return True

    def submit(self) -> None:
        """Give the system all that was begun; what it refuses is told by `take`."""
        done = 0
        while done < self._begun:
            pointers = ctypes.byref(self._pointers, done * ctypes.sizeof(ctypes.c_void_p))
            count = _call(self._submit, self._context, ctypes.c_long(self._begun - done), pointers)
            if count > 0:
                done += count
            else:
                self._refused.append((self._requests[done].token, -ctypes.get_errno()))
                done += 1
        self._begun = 0

    def take(self, count: int) -> list[tuple[int, int]]:
        """Reads that are done, at most so many: token, and bytes read or minus the error's code."""
        taken: list[tuple[int, int]] = []
        while self._refused and count > 0:
            taken.append(self._refused.pop())
            count -= 1
            self.under_way -= 1
        if count <= 0 or self.under_way == self._begun + len(self._refused):
            return taken
        if self._is_shared and self._ring.head == self._ring.tail:
            return taken
        most = ctypes.c_long(min(count, self._depth))
        found = _call(
            self._getevents, self._context, ctypes.c_long(0), most, self._events, ctypes.c_void_p()
        )
        if found < 0:
            raise _error()
        self.under_way -= found
        return taken + [(event.token, event.result) for event in self._events[:found]]

    def close(self) -> None:
        """End it; this waits for what is under way."""
        if self._context.value:
            _call(self._destroy, self._context)
            self._context.value = 0
            self.under_way = self._begun = 0


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
