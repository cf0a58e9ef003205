"""Small file systems that fill, slow down or fail: loop devices and tmpfs, where tests are root."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocketkv.limits import MIB

# Of the system's own headers: inode flags, and what has a file system stop as if its device had
# been pulled out.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x10
_SHUTDOWN = 0x8004587D
_BLKIO = Path("/sys/fs/cgroup/blkio")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, text=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _require(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount file systems")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@contextlib.contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory of so many bytes."""
    _require("mount", "umount")
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    except OSError as error:
        pytest.skip(f"no tmpfs can be mounted: {error}")
    try:
        yield folder
    finally:
        _run("umount", "-l", str(folder))


class Disk:
    """A mounted ext4 file system in a file.

    Attributes:
        image: The file.
        device: The block device.
        folder: Where it is mounted.
    """

    def __init__(self, image: Path, device: str, folder: Path) -> None:
        self.image = image
        self.device = device
        self.folder = folder

    def mount(self) -> None:
        """Mount it (again)."""
        _run("mount", "-t", "ext4", self.device, str(self.folder))

    def unmount(self) -> None:
        """Take it out of the tree; who has files open keeps them."""
        _run("umount", "-l", str(self.folder))

    def pull_out(self) -> None:
        """Have every access fail from now on, until it is mounted again. What was written stays."""
        _run("sync", "-f", str(self.folder))
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, array.array("I", [0]))
        finally:
            os.close(fd)


@contextlib.contextmanager
def ext4(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """A file system on a loop device, of so many bytes with its own tables."""
    _require("mount", "umount", "losetup", "mkfs.ext4")
    image = folder.with_name(folder.name + ".img")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    try:
        device = _run("losetup", "--find", "--show", str(image))
    except OSError as error:
        pytest.skip(f"there are no loop devices: {error}")
    disk = Disk(image, device, folder)
    folder.mkdir()
    try:
        disk.mount()
        try:
            yield disk
        finally:
            with contextlib.suppress(OSError):
                disk.unmount()
    finally:
        _run("losetup", "--detach", device)


class ThinDisk(Disk):
    """A disk that says to have more room than it has: what it takes may fail when it is written."""

    def __init__(self, image: Path, device: str, folder: Path) -> None:
        super().__init__(image, device, folder)
        self._filler = image.with_name("filler")
        self._works = threading.Event()
        self._is_full = threading.Event()
        self._thread: threading.Thread | None = None

    def fail(self) -> None:
        """Have it take nothing from now on, but for what is written over."""
        _run("sync", "-f", str(self.folder))
        self._works.clear()
        self._thread = threading.Thread(target=self._fill)
        self._thread.start()
        self._is_full.wait(30.0)

    def _fill(self) -> None:
        """Take all room that there is, and what the file system gives back."""
        with self._filler.open("wb", buffering=0) as file:
            while not self._works.wait(0.001):
                with contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
                self._is_full.set()

    def work(self) -> None:
        """Have it take everything again."""
        self._works.set()
        if self._thread is not None:
            self._thread.join(30.0)
            self._filler.unlink()
            self._thread = None

    def remount(self) -> None:
        """Forget what is in memory of it."""
        _run("umount", str(self.folder))
        self.mount()


@contextlib.contextmanager
def thin_ext4(folder: Path, size_bytes: int) -> Iterator[ThinDisk]:
    """A file system of so many bytes that can be made to fail when it is written.

    What it needs for itself from the beginning, its journal above all, has room in any case: so for
    a while this concerns only what is in its files.
    """
    _require("mount", "umount", "losetup", "mkfs.ext4", "dumpe2fs")
    backing = folder.with_name(folder.name + ".backing")
    with tmpfs(backing, size_bytes):
        image = backing / "image"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", "-b", "4096", str(image))
        with image.open("r+b") as file:
            begin = 0
            for first, last in [*_free_blocks(image), (size_bytes // 4096, 0)]:
                if first > begin:
                    os.posix_fallocate(file.fileno(), begin * 4096, (first - begin) * 4096)
                begin = last + 1
        try:
            device = _run("losetup", "--find", "--show", str(image))
        except OSError as error:
            pytest.skip(f"there are no loop devices: {error}")
        disk = ThinDisk(image, device, folder)
        folder.mkdir()
        try:
            # A loop device takes a write for done of which only the first page found room.
            limit = Path("/sys/block") / Path(device).name / "queue" / "max_sectors_kb"
            limit.write_text("4")
            disk.mount()
            try:
                yield disk
            finally:
                disk.work()
                with contextlib.suppress(OSError):
                    disk.unmount()
        finally:
            _run("losetup", "--detach", device)


def _free_blocks(image: Path) -> Iterator[tuple[int, int]]:
    """The ranges of blocks that a file system in a file has not used yet."""
    for line in _run("dumpe2fs", str(image)).splitlines():
        if line.startswith("  Free blocks: "):
            for text in line[15:].split(", "):
                first, _, last = text.partition("-")
                if first:
                    yield int(first), int(last or first)


@contextlib.contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Let nothing below a folder be changed, not even by those who have it open."""
    paths = [folder, *folder.rglob("*")]
    try:
        _set_immutable(paths, wanted=True)
    except OSError as error:
        _set_immutable(paths, wanted=False)
        pytest.skip(f"files cannot be made immutable here: {error.strerror}")
    try:
        yield
    finally:
        _set_immutable(paths, wanted=False)


def _set_immutable(paths: list[Path], *, wanted: bool) -> None:
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            flags = array.array("L", [0])
            fcntl.ioctl(fd, _GET_FLAGS, flags)
            flags[0] = flags[0] | _IMMUTABLE if wanted else flags[0] & ~_IMMUTABLE
            fcntl.ioctl(fd, _SET_FLAGS, flags)
        finally:
            os.close(fd)


@contextlib.contextmanager
def slow_reads(pid: int, device: str, bytes_per_s: int) -> Iterator[Callable[[], object]]:
    """Let a process read no more than so much from a device, until what this gives is called."""
    with _slowed("blkio.throttle.read_bps_device", pid, device, bytes_per_s) as end:
        yield end


@contextlib.contextmanager
def slow_writes(pid: int, device: str, bytes_per_s: int) -> Iterator[Callable[[], object]]:
    """The same for what it has written to the device by itself."""
    with _slowed("blkio.throttle.write_bps_device", pid, device, bytes_per_s) as end:
        yield end


@contextlib.contextmanager
def _slowed(
    setting: str, pid: int, device: str, bytes_per_s: int
) -> Iterator[Callable[[], object]]:
    if not (_BLKIO / setting).exists() or not os.access(_BLKIO, os.W_OK):
        pytest.skip("there is no control group that slows a device down")
    status = Path(device).stat()
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    group = _BLKIO / f"pocketkv-test-{pid}"
    group.mkdir()
    try:
        (group / setting).write_text(f"{number} {bytes_per_s}")
        (group / "cgroup.procs").write_text(str(pid))
        yield lambda: (group / setting).write_text(f"{number} 0")
    finally:
        (_BLKIO / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def leave_cache(folder: Path) -> None:
    """Have the system forget what it has in memory of the files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def used_bytes(folder: Path) -> int:
    """What the files below a folder take on their device."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.exists())


SMALL_DISK_BYTES = 96 * MIB
