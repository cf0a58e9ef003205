"""The files in which a job's large values stand: regions of them are handed out and taken back.

A file grows to some GiB, then the next one is begun; no offset is handed out twice. What goes back
becomes a hole, or the whole file is removed. That is done by workers, and only after the journal
is safe on the device: a crash brings back what the journal says, and that must then be there. So
the order of things, once a second or when it has become much, is:

    1. `take_released`, right after the journal was committed     serving thread
    2. `sync`, then the journal's own                             worker
    3. `punch` what was taken                                     worker

After a restart, everything that no record claims (`adopt`) is free.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, WeakValueDictionary

from pocketkv import limits
from pocketkv.tiers.holes import punch_hole
from pocketkv.tiers.volume.data_file import DataFile, Descriptors
from pocketkv.tiers.volume.large_region import BLOCK_BYTES, PAGE_BYTES, REGION_BYTES_MAX, Region

if TYPE_CHECKING:
    from pocketkv.tiers.volume.file_string import FileString
    from pocketkv.tiers.volume.pacing import Pacer

FILE_BYTES: Final = 4 * limits.GIB
# A file without a live byte is left for a new one from this size on: removing it is quicker than
# making holes.
_LEFT_BYTES: Final = 64 * limits.MIB
# What is backed of a region at once.
_FIRST_BYTES: Final = limits.MIB
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NAME: Final = re.compile(r"large-(\d{6,})\.dat")

# What was given back: file, offset, size.
Range = tuple[DataFile, int, int]


class LargeFile:
    """The large values of one job.

    Args:
        directory: Of the job; it is made when it is first needed.
        descriptors: Shared by all jobs of a server.
        pacer: Who counts what was written; shared by all jobs.
        may_use: Asked before so many bytes more are taken on the device.
        file_bytes: From this size on the next file is begun.

    Attributes:
        live_bytes: What is handed out, in whole pages.
        punched_bytes: What was given back to the system so far, whole files included.
        lost: Regions that the device may have lost a part of, and the system will not bring there.
        is_recovering: Whether files were found, and it is not known yet what of them is claimed.

    Raises:
        OSError: The directory cannot be read.
    """

    def __init__(
        self,
        directory: Path,
        descriptors: Descriptors,
        *,
        pacer: Pacer | None = None,
        may_use: Callable[[int], bool] | None = None,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self.directory = directory
        self.descriptors = descriptors
        self.pacer = pacer
        self.may_use = may_use
        self._file_bytes = file_bytes
        self._files: dict[int, DataFile] = {}
        self._current: DataFile | None = None
        self._released: list[Range] = []
        # What was written since it was last brought to the device, and what of it is on its way.
        self._dirty: dict[DataFile, WeakSet[Region]] = {}
        self._syncing: dict[DataFile, WeakSet[Region]] = {}
        self.lost: WeakSet[Region] = WeakSet()
        self._is_directory_dirty = False
        self.live_bytes = 0
        self.punched_bytes = 0
        self._adopted: WeakValueDictionary[tuple[int, int], Region] = WeakValueDictionary()
        # Strings that were read from their records, as long as it matters who has which region.
        self._strings: WeakSet[FileString] = WeakSet()
        for number in self._found():
            self._files[number] = DataFile(self, number)
        self.is_recovering = bool(self._files)
        self._next_number = max(self._files, default=0) + 1

    def _found(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in names if match)

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self._files)

    # --- handing out ---------------------------------------------------------------------------

    def allocate(self, size: int, room: int = 0) -> Region | None:
        """A region for `size` bytes and `room` more; ``None`` if the device has no room.

        The first 1 MiB of `size` are backed, the rest must be (`Region.back`). Addresses alone
        take no room.

        Raises:
            OSError: The device failed.
            ValueError: It is more than a region can have.
        """
        if not 0 < size <= REGION_BYTES_MAX:
            raise ValueError("no size of a region")
        pages = -(-min(size + room, REGION_BYTES_MAX) // PAGE_BYTES)
        # A worker may find meanwhile that nothing of the file is needed any more.
        with self.descriptors.lock:
            file = self._file_with(pages * PAGE_BYTES)
            if file is None:
                return None
            region = Region(file, file.end, pages * PAGE_BYTES)
            file.end += region.size
            file.live_bytes += region.size
            file.held_bytes += region.size
            self.live_bytes += region.size
        # What is dropped goes back.
        return region if region.back(min(size, _FIRST_BYTES)) else None

    def _file_with(self, size: int) -> DataFile | None:
        """A file with addresses for so much; ``None`` if there is no room for a new one.

        The caller has the lock.
        """
        file = self._current
        if file is not None and (file.end == 0 or file.end + size <= self._file_bytes):
            return file
        file = DataFile(self, self._next_number)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file.create()
        except OSError as error:
            if error.errno in _NO_ROOM:
                return None
            raise
        self._next_number += 1
        self._leave_current()
        self._files[file.number] = file
        self._current = file
        self._is_directory_dirty = True
        return file

    def _leave_current(self) -> None:
        """Nothing more will be handed out of the current file."""
        file, self._current = self._current, None
        if file is not None and file.held_bytes == 0:
            # Otherwise it is removed when the last of it was punched.
            self._released.append((file, 0, 0))

    def wrote(self, file: DataFile, region: Region, offset: int, size: int) -> None:
        """A part of a region was written."""
        with file.lock:
            regions = self._dirty.get(file)
            if regions is None:
                regions = self._dirty[file] = WeakSet()
            regions.add(region)
        if self.pacer is not None:
            self.pacer.wrote(region, offset, size)

    def is_synced(self, file: DataFile, region: Region) -> bool:
        """Whether the device has all that was written to a region."""
        with file.lock:
            return not any(
                region in regions.get(file, ()) for regions in (self._dirty, self._syncing)
            )

    # --- taking back ---------------------------------------------------------------------------

    def release(self, file: DataFile, offset: int, size: int) -> None:
        """A region, or the end of one, is not needed any more."""
        with file.lock:
            if self.is_recovering and file is not self._current:
                # All that is not claimed in the end goes back then.
                return
            file.live_bytes -= size
            self.live_bytes -= size
            self._released.append((file, offset, size))
            if file is self._current and file.live_bytes == 0 and file.end >= _LEFT_BYTES:
                self._leave_current()

    def release_part(self, file: DataFile, offset: int, size: int) -> None:
        """A part within a region is not needed any more; it still counts until the region goes."""
        with file.lock:
            self._released.append((file, offset, -size))

    @property
    def has_released(self) -> bool:
        """Whether something was given back since `take_released`."""
        return bool(self._released)

    def take_released(self) -> list[Range]:
        """What was given back since the last call, for `punch`.

        To be called when the journal has all that happened until now.
        """
        with self.descriptors.lock:
            if self.is_recovering:
                return []
            released, self._released = self._released, []
        return released

    def punch(self, released: list[Range]) -> None:
        """Give room back to the system; for a worker, when the journal is safe on the device.

        Raises:
            OSError: The device failed; what was not given back is so after the next restart.
        """
        by_file: dict[DataFile, list[tuple[int, int]]] = {}
        for file, offset, size in released:
            by_file.setdefault(file, []).append((offset, size))
        for file, parts in by_file.items():
            if not file.is_closed:
                self._punch_file(file, parts)

    def punch_pending(self) -> None:
        """`punch` all that was given back; for who keeps no journal.

        Raises:
            OSError: As `punch`.
        """
        self.punch(self.take_released())

    def _punch_file(self, file: DataFile, parts: list[tuple[int, int]]) -> None:
        whole = sum(size for _, size in parts if size > 0)
        with file.lock:
            file.held_bytes -= whole
            is_dead = file.held_bytes == 0 and file is not self._current
        if is_dead:
            self._remove(file, whole)
            return
        try:
            fd = file.pin()
        except FileNotFoundError:
            # It was missing when the server started.
            return
        try:
            for offset, size in _joined(parts):
                punch_hole(fd, offset, size)
                self.punched_bytes += size
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            # Such a file system gets its room back by whole files only.
        finally:
            file.unpin()

    def _remove(self, file: DataFile, size: int) -> None:
        file.close()
        with file.lock:
            self._files.pop(file.number, None)
            self._dirty.pop(file, None)
            self._is_directory_dirty = True
        file.path.unlink(missing_ok=True)
        self.punched_bytes += size

    # --- the device ----------------------------------------------------------------------------

    def sync(self) -> None:
        """Have all that was written on the device; for a worker.

        Raises:
            OSError: The device failed. What was written since the last call is `lost`.
        """
        with self.descriptors.lock:
            dirty, self._dirty = self._dirty, {}
            self._syncing = dirty
            is_directory_dirty, self._is_directory_dirty = self._is_directory_dirty, False
        try:
            for file in list(dirty):
                if not file.is_closed:
                    self._sync_file(file)
                dirty.pop(file, None)
        finally:
            with self.descriptors.lock:
                # After an error, for the next call.
                for file, regions in dirty.items():
                    self._dirty.setdefault(file, WeakSet()).update(regions)
                self._syncing = {}
        if is_directory_dirty:
            self._sync_directory()

    def _sync_file(self, file: DataFile) -> None:
        try:
            fd = file.pin()
        except FileNotFoundError:
            # The job has just ended.
            return
        try:
            os.fdatasync(fd)
        except OSError:
            self.failed(file)
            raise
        finally:
            file.unpin()

    def failed(self, file: DataFile) -> None:
        """The device has failed to take something of a file, and will not be told again."""
        with self.descriptors.lock:
            for regions in (self._dirty.pop(file, None), self._syncing.pop(file, None)):
                if regions is not None:
                    self.lost.update(regions)

    def _sync_directory(self) -> None:
        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """The job has ended, or the server stops: nothing is given back any more.

        Replies that are under way still have their bytes.
        """
        with self.descriptors.lock:
            self._released = []
            for file in self._files.values():
                file.close()
            self._files = {}
            self._current = None

    # --- after a restart -----------------------------------------------------------------------

    def adopt(self, number: int, offset: int, used: int) -> Region:
        """The region that a record names; the same one for all that name it during recovery.

        Its file may be missing: then reading it is an error.
        """
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = DataFile(self, number)
            self._next_number = max(self._next_number, number + 1)
        region = self._adopted.get((number, offset)) if self.is_recovering else None
        if region is None:
            region = Region(file, offset, -(-used // PAGE_BYTES) * PAGE_BYTES)
            if self.is_recovering:
                self._adopted[number, offset] = region
            elif file.live_bytes == 0:
                # No file was found, so there is nothing to give back.
                region.is_kept = True
        return region

    def claim(self, string: FileString) -> None:
        """A string was made from its record."""
        if self.is_recovering:
            self._strings.add(string)

    def finish_recovery(self, *, free: bool = True) -> None:
        """Every record was read: what no string claims is free, whole files that nobody needs.

        Args:
            free: False if not every record could be read: then what is not claimed stays until the
                next start.

        Raises:
            OSError: The files cannot be looked at.
        """
        if not self.is_recovering:
            return
        kept: dict[DataFile, list[tuple[int, int]]] = {}
        owners: dict[Region, int] = {}
        for string in self._strings:
            for region in {part[0] for part in string.parts()}:
                owners[region] = owners.get(region, 0) + 1
            for region, start, size in string.parts():
                first = start // BLOCK_BYTES * BLOCK_BYTES
                last = min(-(-(start + size) // BLOCK_BYTES) * BLOCK_BYTES, region.size)
                spans = kept.setdefault(region.file, [])
                spans.append((region.offset + first, last - first))
        for region, count in owners.items():
            region.is_shared = count > 1
            region.file.live_bytes += region.size
            region.file.held_bytes += region.size
            self.live_bytes += region.size
        self.is_recovering = False
        self._adopted = WeakValueDictionary()
        self._strings = WeakSet()
        for file in list(self._files.values()):
            if file is self._current or not file.path.exists():
                continue
            if free:
                self._free_gaps(file, kept.get(file, []))
            else:
                # So it never counts as one that nobody needs.
                file.held_bytes += PAGE_BYTES

    def _free_gaps(self, file: DataFile, kept: list[tuple[int, int]]) -> None:
        """Give back what of a file that was found is not kept."""
        length = file.path.stat().st_size
        if not kept:
            self._released.append((file, 0, 0))
            return
        position = 0
        for offset, size in [*_joined(kept), (length, 0)]:
            if offset > position:
                self._released.append((file, position, position - offset))
            position = max(position, offset + size)


def _joined(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch each other made one; sizes may be negative."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted((offset, abs(size)) for offset, size in parts):
        if joined and offset <= joined[-1][0] + joined[-1][1]:
            first, length = joined.pop()
            joined.append((first, max(length, offset + size - first)))
        elif size:
            joined.append((offset, size))
    return joined
