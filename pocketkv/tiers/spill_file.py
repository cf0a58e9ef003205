"""Spilling to a directory: small values in a volume's journal, large ones in its large files.

Nothing of it outlives the process: what an earlier one left is thrown away at the start.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

import trio

from pocketkv.engine.cold import SPILLED_LARGE, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.swapping import stored_database
from pocketkv.tiers.collecting import collect
from pocketkv.tiers.rescue import copy_piece, rescue_records
from pocketkv.tiers.spill import Item, SpillError, SpillFullError
from pocketkv.tiers.volume.checksums import RunningChecksum
from pocketkv.tiers.volume.data_file import Descriptors
from pocketkv.tiers.volume.file_pieces import FilePiece
from pocketkv.tiers.volume.journal import JobJournal, record_bytes
from pocketkv.tiers.volume.large_file import LargeFile
from pocketkv.tiers.volume.large_region import (
    BLOCK_BYTES,
    DAMAGED,
    REGION_BYTES_MAX,
    Region,
    io_error,
    read_into,
)
from pocketkv.tiers.volume.layout import LAYOUTS
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.volume import Volume

_TEND_INTERVAL_S: Final = 1.0
_COLLECT_INTERVAL_S: Final = 0.1
# Written before it is waited until the device has it, so that values leave memory no faster than
# the device takes them.
_SYNC_BYTES: Final = 16 * 1024 * 1024
_STEP_BYTES: Final = 1024 * 1024


class _Index:
    """Tells the volume which of its records are needed."""

    def __init__(self) -> None:
        self.keyspace: Keyspace | None = None

    def record_of(self, job_id: str, db: int, key: bytes) -> Cold | None:
        """A key's record, if that is its value."""
        assert self.keyspace is not None  # It was set before anything was written.
        space = self.keyspace.spaces.get(job_id)
        database = None if space is None else stored_database(space, db)
        entry = None if database is None else database.find_stored(key)
        if isinstance(entry, Cold):
            return None if entry.kind == SPILLED_LARGE else entry
        # A collection that is in memory and has not changed since is still there as well.
        shelf = None if database is None else database.shelf
        chain = None if shelf is None else shelf.chains.get(key)
        return None if chain is None or chain[0].kind == SPILLED_LARGE else chain[0]

    def large_in(self, job_id: str, regions: set[Region]) -> list[Cold]:
        """The large values of a job that stand in some regions."""
        assert self.keyspace is not None  # As above.
        space = self.keyspace.spaces.get(job_id)
        found: list[Cold] = []
        for database in [] if space is None else list(space.databases.values()):
            entries = [entry for _, table in database.slot_tables() for entry in table.values()]
            if database.shelf is not None:
                # What is in memory again, and has not changed since.
                entries += [chain[0] for chain in database.shelf.chains.values()]
            found += [
                entry
                for entry in entries
                if isinstance(entry, Cold)
                and entry.kind == SPILLED_LARGE
                and any(region in regions for region in entry.place)
            ]
        return found

    def due_ms(self, job_id: str, db: int, key: bytes) -> int:
        """When it expires, which nobody reads there."""
        return 0

    def exists(self, job_id: str, db: int, key: bytes) -> bool:
        """Whether it must be written anew if it is not just one record: never."""
        return False

    def rewrite(self, job_id: str, db: int, key: bytes, place: Segment, *, now: bool) -> None:
        """Nothing has to be."""


class FileSpillJournal:
    """What one job has in the directory (`pocketkv.engine.cold.Journal`)."""

    def __init__(self, journal: JobJournal, descriptors: Descriptors) -> None:
        self.journal = journal
        self.large = LargeFile(Path(journal.folder), descriptors)
        self.reserve = journal.reserve
        self.put = journal.put
        self.change = journal.change
        self.part = journal.part
        self.delete = journal.delete
        self.expire = journal.expire
        self.clear = journal.clear

    def read_now(self, cold: Cold) -> bytes | None:
        """What is stored of a small value, if it can be had without waiting."""
        return None if cold.kind == SPILLED_LARGE else self.journal.read_now(cold)

    def try_read(self, cold: Cold) -> bytes | None:
        """The same."""
        return self.read_now(cold)

    def read(self, cold: Cold) -> bytes:
        """What is stored."""
        if cold.kind != SPILLED_LARGE:
            return self.journal.read(cold)
        value = bytearray(cold.length)
        self.read_into(cold, [memoryview(value)])
        return bytes(value)

    def new_lock(self) -> threading.Lock:
        """What keeps two workers from reading the same value."""
        return threading.Lock()

    def read_into(self, cold: Cold, views: list[memoryview]) -> None:
        """Read a large value to where it is to stand; for a worker."""
        regions: list[Region] = cold.place
        # A view may begin in one region and end in another.
        region_index = 0
        reader = _Reader(regions[0])
        for view in views:
            while view:
                part = view[: min(_STEP_BYTES, reader.left)]
                reader.read(part)
                view = view[len(part) :]
                if not reader.left and region_index + 1 < len(regions):
                    region_index += 1
                    reader = _Reader(regions[region_index])

    def release(self, cold: Cold) -> None:
        """Nobody needs a value any more."""
        if cold.kind == SPILLED_LARGE:
            # Its regions go back when nobody reads them any more.
            cold.place = []
        else:
            self.journal.release(cold)


class _Reader:
    """Reads a region from its beginning, and compares each block with its checksum."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._offset = 0
        self._running = RunningChecksum()

    @property
    def left(self) -> int:
        """How many bytes were not read yet."""
        return self._region.used - self._offset

    def read(self, view: memoryview) -> None:
        """Read what comes next; no more than is left.

        Raises:
            CommandError: IOERR: it cannot be read, or is not what was written.
        """
        region = self._region
        try:
            fd = region.file.pin()
            try:
                count = read_into(fd, region.offset + self._offset, view)
            finally:
                region.file.unpin()
        except OSError as error:
            raise io_error(error) from error
        if count < len(view):
            raise CommandError(b"IOERR what is stored at this key is missing")
        while view:
            part = view[: BLOCK_BYTES - self._offset % BLOCK_BYTES]
            self._compare(part)
            view = view[len(part) :]

    def _compare(self, part: memoryview) -> None:
        """Count bytes of one block in, and compare when it is whole."""
        self._running.update(part)
        index = self._offset // BLOCK_BYTES
        self._offset += len(part)
        if self._offset % BLOCK_BYTES and self.left:
            return
        if self._running.intdigest() != self._region.sums[index]:
            raise CommandError(DAMAGED)
        self._running = RunningChecksum()


class FileSpill:
    """Implements `pocketkv.tiers.spill.SpillMedium` on a directory.

    Args:
        directory: Made if it does not exist; what is in it is thrown away if it is a volume's.
        log: Where trouble is told.

    Raises:
        VolumeError: The directory cannot be used.
    """

    durable = False
    keeps_large = False
    # No changes are written.
    change_bytes = 1
    pending = False
    batch_bytes = 256 * 1024
    moves_max = 1
    name = "files"

    def __init__(self, directory: Path, log: logging.Logger) -> None:
        self._index = _Index()
        self._log = log
        self.volume = Volume(directory, index=self._index, layout=LAYOUTS["nvme"], fresh=True)
        self._descriptors = Descriptors()
        self._journals: dict[str, FileSpillJournal] = {}
        self._unsynced_bytes = 0

    def attach(self, keyspace: Keyspace) -> None:
        """Whose values these are."""
        self._index.keyspace = keyspace

    # --- what the engine asks ------------------------------------------------------------------

    def journal(self, job_id: str) -> FileSpillJournal:
        """What a job has here."""
        journal = self._journals.get(job_id)
        if journal is None:
            journal = FileSpillJournal(self.volume.open(job_id), self._descriptors)
            self._journals[job_id] = journal
        return journal

    @property
    def refusal(self) -> str:
        """Why values cannot be written now."""
        return self.volume.refusal

    @property
    def lacks_room(self) -> bool:
        """Whether that was for want of room."""
        return self.volume.state.lacks_room

    def new_string(self, job_id: str) -> None:
        """Large strings are in memory, too."""

    def drop(self, job_id: str) -> None:
        """Forget all that a job has."""
        journal = self._journals.pop(job_id, None)
        if journal is not None:
            journal.large.close()
        try:
            self.volume.drop(job_id)
        except OSError as error:
            # It is thrown away at the next start.
            self._log.error("files of a job stay", extra={"job": job_id, "error": str(error)})

    def commit(self) -> None:
        """Nothing has to stand here before it is answered."""

    # --- writing -------------------------------------------------------------------------------

    def accepts(self, job_id: str) -> bool:
        """Always."""
        return True

    async def write(self, job_id: str, items: list[Item]) -> list[Cold]:
        """Write small values.

        Raises:
            SpillError: None of them is written.
        """
        await self._keep_pace()
        journal = self.journal(job_id).journal
        size = sum(record_bytes(len(item.key), len(item.payload)) for item in items)
        if not journal.reserve(size):
            raise self._refused()
        colds = [journal.put(item.db, item.key, item.kind, item.payload, 0) for item in items]
        self._unsynced_bytes += size
        try:
            self.volume.commit()
        except OSError as error:
            # It is tried again by `tend`, and read from the buffer until then.
            self._log.error("the spill directory fails", extra={"error": str(error)})
        return colds

    def _refused(self) -> SpillError:
        text = f"the spill directory takes no more: {self.volume.refusal}"
        return SpillFullError(text) if self.volume.state.full else SpillError(text)

    async def write_large(self, job_id: str, size: int, views: list[memoryview]) -> Cold:
        """Write a large value.

        Raises:
            SpillError: It is not written.
        """
        await self._keep_pace()
        large = self.journal(job_id).large
        regions: list[Region] = []
        try:
            left = size
            while left:
                region = large.allocate(min(left, REGION_BYTES_MAX))
                if region is None:
                    raise SpillFullError(_FULL)
                regions.append(region)
                left -= min(left, REGION_BYTES_MAX)
            await trio.to_thread.run_sync(_write_regions, regions, views)
        except OSError as error:
            raise SpillError(f"the spill directory fails: {error.strerror or error}") from error
        self._unsynced_bytes += size
        return Cold(SPILLED_LARGE, size, regions, 0, size)

    async def _keep_pace(self) -> None:
        if self._unsynced_bytes >= _SYNC_BYTES:
            self._unsynced_bytes = 0
            await self._sync()

    async def _sync(self) -> None:
        try:
            await trio.to_thread.run_sync(self._sync_all)
        except OSError as error:
            raise SpillError(f"the spill directory fails: {error.strerror or error}") from error

    def _sync_all(self) -> None:
        for journal in list(self._journals.values()):
            journal.large.sync()
            journal.large.punch_pending()
        self.volume.sync()

    # --- in the background ---------------------------------------------------------------------

    async def tend(self) -> None:
        """Give back what is not needed any more, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, self.volume, self._commit_moved, _COLLECT_INTERVAL_S)
            while True:
                await trio.sleep(_TEND_INTERVAL_S)
                try:
                    self.volume.commit()
                    had_lost = self._has_lost
                    await self._rescue()
                    await self._sync()
                    if had_lost and not self._has_lost:
                        self._log.info("what the spill directory had lost is written again")
                    await trio.to_thread.run_sync(self.volume.empty_trash)
                except (OSError, SpillError) as error:
                    self._log.error("the spill directory fails", extra={"error": str(error)})

    @property
    def _has_lost(self) -> bool:
        """Whether the device has lost something that it had taken."""
        large = any(journal.large.lost for journal in self._journals.values())
        return large or self.volume.has_lost

    async def _rescue(self) -> None:
        """Write again what the device has lost; what can no longer be read is an error at its key.

        Raises:
            OSError: The device failed.
        """
        if not self._has_lost:
            return
        if not await trio.to_thread.run_sync(self.volume.takes_writes):
            return
        await rescue_records(self.volume, self._commit_moved)
        for journal in list(self._journals.values()):
            if journal.large.lost:
                await self._rescue_large(journal)

    async def _rescue_large(self, journal: FileSpillJournal) -> None:
        regions = set(journal.large.lost)
        for cold in self._index.large_in(journal.journal.job_id, regions):
            places: list[Region] = cold.place
            for index, region in enumerate(places):
                fresh = journal.large.allocate(region.used) if region in regions else None
                if fresh is None:
                    continue
                piece = FilePiece(region, 0, region.used)
                try:
                    copied = await trio.to_thread.run_sync(copy_piece, piece, fresh)
                except CommandError as error:
                    text = error.text.decode()
                    self._log.error("a large value is lost", extra={"error": text})
                    journal.large.lost.discard(region)
                    continue
                # It may have been released meanwhile.
                if copied and cold.place is places:
                    places[index] = fresh

    def _commit_moved(self) -> bool:
        try:
            self.volume.commit()
        except OSError:
            # `tend` tells of it, and tries again.
            return False
        return True

    def close(self) -> None:
        """Throw everything away."""
        for job_id in list(self._journals):
            self.drop(job_id)
        try:
            self.volume.close()
            self.volume.empty_trash()
        except OSError as error:
            self._log.error("the spill directory fails", extra={"error": str(error)})


_FULL: Final = "the spill directory takes no more: No space left on device"


def _write_regions(regions: list[Region], views: list[memoryview]) -> None:
    """Fill regions; for a worker.

    Raises:
        SpillFullError: There is no room.
        OSError: The device failed.
    """
    index = 0
    for view in views:
        while view:
            region = regions[index]
            part = view[: min(_STEP_BYTES, region.room)]
            if not part:
                index += 1
                continue
            if not region.append(part):
                raise SpillFullError(_FULL)
            view = view[len(part) :]
    for region in regions:
        region.seal()
