from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.engine.extents import Extents
from pocketkv.tiers import memfd
from pocketkv.tiers.holes import punch_hole
from pocketkv.tiers.memfd import Memfd

MIB = limits.MIB
PAGE = mmap.PAGESIZE


@pytest.fixture
def medium() -> Iterator[Memfd]:
    medium = Memfd(64 * MIB)
    yield medium
    medium.close()


def mapped_bytes(medium: Memfd) -> int:
    """What of the file counts as this process's memory."""
    for block in Path("/proc/self/smaps").read_text(encoding="ascii").split("memfd:pocketkv")[1:]:
        fields = dict(line.split(":", 1) for line in block.splitlines()[1:6])
        if int(fields["Size"].split()[0]) * 1024 == medium.capacity_bytes:
            return int(fields["Rss"].split()[0]) * 1024
    raise AssertionError("it is not mapped")


def test_a_new_one_takes_no_memory(medium: Memfd) -> None:
    assert medium.capacity_bytes >= 16 * 64 * MIB
    assert medium.capacity_bytes % medium.page_bytes == 0
    assert medium.resident_bytes() == 0


def test_backing_takes_memory_and_punching_gives_it_back(medium: Memfd) -> None:
    assert medium.back(3 * MIB, 2 * MIB)
    assert medium.resident_bytes() == 2 * MIB
    assert mapped_bytes(medium) == 2 * MIB
    medium.view(3 * MIB, 5)[:] = b"hello"
    medium.punch(3 * MIB, MIB)
    assert medium.resident_bytes() == MIB
    assert mapped_bytes(medium) == MIB
    medium.punch(4 * MIB, MIB)
    assert medium.resident_bytes() == 0
    # It can be had again, and holds nothing of before.
    assert medium.back(3 * MIB, 2 * MIB)
    assert bytes(medium.view(3 * MIB, 5)) == bytes(5)


def test_what_is_written_to_the_view_is_in_the_file(medium: Memfd) -> None:
    medium.back(0, PAGE)
    medium.view(100, 5)[:] = b"hello"
    assert os.pread(medium.fd, 7, 99) == b"\0hello\0"


def test_the_end_of_the_file_can_be_used(medium: Memfd) -> None:
    last = medium.capacity_bytes - PAGE
    assert medium.back(last, PAGE)
    medium.view(last, PAGE)[:] = b"x" * PAGE
    assert medium.resident_bytes() == PAGE


def test_an_older_system_backs_pages_too(medium: Memfd, monkeypatch: pytest.MonkeyPatch) -> None:
    # What it does not know is refused as this is.
    monkeypatch.setattr(memfd, "_POPULATE_WRITE", 9999)
    assert medium.back(0, MIB)
    assert medium.resident_bytes() == MIB
    medium.view(0, 5)[:] = b"hello"
    assert medium.back(MIB, MIB)
    assert medium.resident_bytes() == 2 * MIB


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_without_memory_nothing_is_backed(
    medium: Memfd, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        # A part of it was to be had.
        os.pwrite(fd, bytes(PAGE), offset)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(memfd, "_POPULATE_WRITE", 9999)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert not medium.back(MIB, MIB)
    assert medium.resident_bytes() == 0


def test_another_error_is_told(medium: Memfd, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(memfd, "_POPULATE_WRITE", 9999)
    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        medium.back(0, MIB)


def test_punching_what_is_no_file_is_an_error() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match=r"Illegal seek|No such device"):
            punch_hole(write, 0, PAGE)
    finally:
        os.close(read)
        os.close(write)


def test_too_few_addresses_give_a_smaller_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mmap.mmap
    sizes: list[int] = []

    def scarce(fd: int, size: int) -> mmap.mmap:
        sizes.append(size)
        if size > limits.GIB:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(fd, size)

    monkeypatch.setattr(mmap, "mmap", scarce)
    medium = Memfd(100 * MIB)
    assert 512 * MIB < medium.capacity_bytes <= limits.GIB
    assert os.fstat(medium.fd).st_size == medium.capacity_bytes
    medium.close()
    # Less than twice what may be stored is of no use.
    with pytest.raises(OSError, match="Cannot allocate memory"):
        Memfd(2 * limits.GIB)
    assert sizes[-1] == 4 * limits.GIB


def test_extents_are_used_again_and_given_back(medium: Memfd) -> None:
    extents = Extents(medium)
    chain = extents.allocate_backed(8 * MIB)
    chain[0].view(0, 3)[:] = b"old"
    chain.clear()
    chain = extents.allocate_backed(8 * MIB)
    assert medium.resident_bytes() == 8 * MIB
    chain.clear()
    extents.punch_warm(2048)
    assert medium.resident_bytes() == 0
    extents.validate()


def test_bytes_on_their_way_out_stay_as_they_were(medium: Memfd) -> None:
    # The system's buffers refer to the file's own pages until the other side has read them.
    extents = Extents(medium)
    (extent,) = extents.allocate_backed(64 * limits.KIB)
    extent.view(0, extent.size_bytes())[:] = b"a" * extent.size_bytes()
    near, far = _tcp_pair()
    with near, far:
        sent = os.sendfile(near.fileno(), medium.fd, extent.offset(), extent.size_bytes())
        extent.is_sent = True
        del extent
        extents.punch_spent(1000)
        (again,) = extents.allocate_backed(64 * limits.KIB)
        again.view(0, again.size_bytes())[:] = b"b" * again.size_bytes()
        received = b""
        while len(received) < sent:
            received += far.recv(sent)
    assert received == b"a" * sent


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far
