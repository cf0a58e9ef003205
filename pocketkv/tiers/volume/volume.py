"""A volume: the directory of one server, with a journal for each of its jobs.

On disk: ``FORMAT`` (what this is, and the secret that seeds its checksums), ``lock`` (held by the
server; it tells whether the machine was started since), ``ballast`` (room for emergencies),
``jobs/<job id>/`` and ``trash/``.
A job's folder holds ``NNNNNNNN.log`` (a segment), ``NNNNNNNN.idx`` (its index), and what
other modules keep there.

What is committed survives the end of the process. What is synced survives the machine's. A segment
is removed only after what replaced its contents is synced.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pocketkv.tiers.holes import punch_hole
from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.collector import Claim, Collector, Index, Part
from pocketkv.tiers.volume.journal import JobJournal, folder_of
from pocketkv.tiers.volume.layout import LAYOUTS, Layout
from pocketkv.tiers.volume.records import SEGMENT_HEADER_BYTES
from pocketkv.tiers.volume.recovery import Replay, Visitor
from pocketkv.tiers.volume.rescuer import Rescuer
from pocketkv.tiers.volume.segment import Segment
from pocketkv.tiers.volume.space import free_bytes
from pocketkv.tiers.volume.state import VolumeState

__all__ = ["Claim", "Index", "Part", "Visitor", "Volume", "VolumeError"]

logger: Final = logging.getLogger("pocketkv.volume")

_FORMAT: Final = "pocketkv 3"
# The same, but that no collection is in parts: what is written from now on may be.
_FORMER_FORMAT: Final = "pocketkv 2"
_SECRET: Final = re.compile(r"secret ([0-9a-f]{16}) ([0-9a-f]{16})")

# Another one each time that the machine is started.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

# Where in the file of the lock it is tried whether the device can be written.
_PROBED_OFFSET: Final = 64

# Of the capacity, or of the disk: from here on collection takes what it can get.
_PRESSED_SHARE: Final = 0.9


class VolumeError(Exception):
    """A directory cannot be used as a volume; the text is one line for the operator."""


class Volume:
    """The journals of one server.

    For the serving thread, but for what says otherwise.

    Args:
        directory: Made if it does not exist.
        index: Tells collection what is needed.
        capacity_bytes: What the segments may take; None: what the disk has.
        layout: Sizes, by the medium.
        fresh: What is in the directory is thrown away, and nothing is kept for a next start.

    Raises:
        VolumeError: The directory cannot be used, or another server uses it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        index: Index,
        capacity_bytes: int | None = None,
        layout: Layout = LAYOUTS["ssd"],
        fresh: bool = False,
    ) -> None:
        self._root = Path(directory).absolute()
        self._jobs = self._root / "jobs"
        self._trash = self._root / "trash"
        self._lock = -1
        self._dropped = 0
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self._root / "lock")
            trusts = _is_same_boot(self._lock)
            secret = self._secret()
            self._trash.mkdir(mode=0o700, exist_ok=True)
            if fresh and self._jobs.exists():
                self._discard(self._jobs)
            self._jobs.mkdir(mode=0o700, exist_ok=True)
            self._state = VolumeState(
                self._root, secret, layout, capacity_bytes, indexed=not fresh, trusts=trusts
            )
            self._disk_free = free_bytes(self._root)
        except OSError as error:
            self._unlock()
            raise VolumeError(f"{directory}: {error.strerror or error}") from error
        except VolumeError:
            self._unlock()
            raise
        self._state.ballast.take()
        self._journals: dict[str, JobJournal] = {}
        self._collector = Collector(self._state, index, self._journals)
        self._rescuer = Rescuer(self._state, index, self._journals)

    # --- jobs ----------------------------------------------------------------------------------

    def jobs(self) -> list[str]:
        """The jobs that have files here."""
        return sorted(unquote(path.name) for path in self._jobs.iterdir() if path.is_dir())

    def open(self, job_id: str) -> JobJournal:
        """A job's journal; it has no file before the first write."""
        journal = self._journals.get(job_id)
        if journal is None:
            journal = JobJournal(self._state, job_id, folder_of(self._jobs, job_id))
            self._journals[job_id] = journal
        return journal

    def replay(self, job_id: str, visitor: Visitor) -> None:
        """Tell `visitor` what a job's journal holds; before anything is written to it.

        Raises:
            OSError: Its directory cannot be read.
        """
        Replay(self._state, self.open(job_id), visitor).run()

    def drop(self, job_id: str) -> None:
        """Forget a job. Its files no longer count; `empty_trash` removes them.

        Raises:
            OSError: They cannot be renamed, so they would be back after a restart.
        """
        journal = self._journals.pop(job_id, None)
        state = self._state
        if journal is not None:
            journal.drop()
            if journal in state.dirty:
                state.dirty.remove(journal)
            if not state.dirty:
                state.error = None
        with contextlib.suppress(FileNotFoundError):
            self._discard(Path(folder_of(self._jobs, job_id)))

    # --- writing -------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write all that the journals were told. Costs next to nothing if that is nothing.

        Raises:
            OSError: Something could not be written. Nothing of it is lost: it stays in memory, and
                the next call tries again.
        """
        state = self._state
        if state.dirty or state.emptied or state.drained:
            state.commit()

    def sync(self) -> None:
        """Bring what was committed to the medium, and remove segments that are not needed.

        For a worker thread, one at a time.

        Raises:
            OSError: The medium did not take it; it is tried again by the next call.
        """
        state = self._state
        removable = [state.removable.popleft() for _ in range(len(state.removable))]
        punchable = [state.punchable.popleft() for _ in range(len(state.punchable))]
        try:
            self._sync_written()
            if state.lost:
                # What is to be removed may be all that there is.
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            while removable:
                self._remove(*removable[0])
                removable.pop(0)
            while punchable:
                self._punch(*punchable[0])
                punchable.pop(0)
        finally:
            state.removable.extendleft(reversed(removable))
            state.punchable.extendleft(reversed(punchable))
        self._disk_free = free_bytes(self._root)
        state.ballast.take()

    def _sync_written(self) -> None:
        state = self._state
        folders = set()
        while state.unindexed:
            segment = state.unindexed[0]
            if not segment.retired:
                _copy_index(segment)
                folders.add(segment.folder)
            state.unindexed.popleft()
        while state.unsynced:
            segment = state.unsynced.popleft()
            # Before the call: what is written from now on is not covered by it.
            segment.unsynced = False
            if segment.retired or segment.lost_from >= 0:
                # Of what is lost, `Rescuer` takes care.
                continue
            written = segment.written
            try:
                _sync_data(state, segment)
                _sync_index(segment)
                segment.synced = written
                state.synced.append(segment)
                if segment.made:
                    folders.add(segment.folder)
                    segment.made = False
            except FileNotFoundError:
                # Its job may have ended just now.
                if not segment.retired:
                    logger.error("%s is gone", segment.path)  # noqa: TRY400
            except OSError:
                segment.lost_from = max(segment.synced, SEGMENT_HEADER_BYTES)
                state.lost.append(segment)
                raise
        for folder in (*folders, *([str(self._jobs)] if folders else [])):
            with contextlib.suppress(FileNotFoundError):
                _sync_folder(folder)

    def _remove(self, journal: JobJournal, segment: Segment) -> None:
        if journal.dropped:
            return
        # The index first: one without its segment would tell of values that cannot be read.
        for path in (segment.index_path, segment.path):
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
        self._state.removed.append((journal, segment))

    def _punch(self, segment: Segment, offset: int, size: int) -> None:
        """Give back a part of a segment."""
        if segment.retired:
            return
        files = self._state.files
        try:
            fd = files.pin(segment)
        except FileNotFoundError:
            return
        try:
            punch_hole(fd, offset, size)
            self._state.punched.append((segment, size))
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            # Such a file system gets its room back by whole files only.
        finally:
            files.unpin(segment)

    # --- collection ----------------------------------------------------------------------------

    def collect_pick(self, effort_bytes: int = 0) -> Claim | None:
        """What collection has to read next; None if there is nothing to do.

        Args:
            effort_bytes: Of one step; 0: what the layout says.
        """
        effort = effort_bytes or self._state.layout.collect_bytes
        return self._collector.pick(effort, pressed=self.pressed)

    def collect_read(self, claim: Claim) -> Part:
        """Read what was picked; for a worker thread."""
        return self._collector.read(claim)

    def collect_apply(self, part: Part) -> bool:
        """Move what is live of it; to be followed by `commit`. False: there is no room for it."""
        return self._collector.apply(part)

    def collect_step(self, effort_bytes: int = 0) -> bool:
        """The three together, which may wait for the disk; False: nothing was done."""
        claim = self.collect_pick(effort_bytes)
        return claim is not None and self.collect_apply(self.collect_read(claim))

    # --- what the medium has lost ----------------------------------------------------------------

    @property
    def has_lost(self) -> bool:
        """Whether a `sync` has failed, and what it concerned was not written again."""
        return bool(self._state.lost)

    def takes_writes(self) -> bool:
        """Whether the medium can be written now: it is tried; for a worker thread."""
        try:
            os.pwrite(self._lock, b"\n", _PROBED_OFFSET)
            os.fdatasync(self._lock)
        except OSError:
            return False
        return True

    def rescue_pick(self) -> Claim | None:
        """What has to be read next, to be written again; None if there is nothing to do.

        Raises:
            OSError: As `commit`.
        """
        self._rescuer.seal_lost()
        self.commit()
        return self._rescuer.pick(self._state.layout.collect_bytes, pressed=False)

    def rescue_read(self, claim: Claim) -> Part:
        """Read what was picked; for a worker thread."""
        return self._rescuer.read(claim)

    def rescue_apply(self, part: Part) -> bool:
        """Write again what is needed of it; to be followed by `commit`. False: there is no room."""
        return self._rescuer.apply(part)

    def rescue(self) -> bool:
        """All of it at once, which may wait for the disk; false if something is still lost.

        Raises:
            OSError: As `commit`.
        """
        while self.has_lost and self.takes_writes():
            claim = self.rescue_pick()
            if claim is not None and not self.rescue_apply(self.rescue_read(claim)):
                break
        self.commit()
        return not self.has_lost

    # --- removing ------------------------------------------------------------------------------

    def empty_trash(self) -> None:
        """Remove what was dropped; for a worker thread."""
        for path in list(self._trash.iterdir()):
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Write everything, make the next start quick, and let others use the directory.

        Raises:
            OSError: Not everything could be written.
        """
        try:
            for journal in self._journals.values():
                journal.seal()
            self.commit()
            try:
                self.sync()
            except OSError:
                if not self.rescue():
                    raise
                self.sync()
        finally:
            self._state.files.close_all()
            self._unlock()

    # --- figures -------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What the segments take on the medium."""
        self._state.tidy()
        return self._state.used_bytes

    @property
    def live_bytes(self) -> int:
        """What of it is needed."""
        return sum(journal.live_bytes for journal in self._journals.values())

    @property
    def buffered_bytes(self) -> int:
        """What waits in memory to be written."""
        return sum(
            len(segment.buffer)
            for journal in self._state.dirty
            for segment in journal.segments.values()
        )

    @property
    def free_bytes(self) -> int:
        """What can still be written, as of the last `sync`."""
        capacity = self._state.capacity_bytes
        if capacity is None:
            return self._disk_free
        return max(min(self._disk_free, capacity - self._state.used_bytes), 0)

    @property
    def pressed(self) -> bool:
        """Whether room is short."""
        state = self._state
        used = state.used_bytes
        return state.full or used > _PRESSED_SHARE * (used + self.free_bytes)

    @property
    def segments(self) -> int:
        """How many segments there are."""
        self._state.tidy()
        return sum(len(journal.segments) for journal in self._journals.values())

    @property
    def open_files(self) -> int:
        """How many of them are open."""
        return len(self._state.files)

    @property
    def corrupt_records(self) -> int:
        """Places where there should have been a good record; reading counts for itself."""
        return self._state.corrupt_records

    @property
    def error(self) -> OSError | None:
        """What the last `commit` failed at; None if it did not."""
        return self._state.error

    @property
    def refusal(self) -> str:
        """Why `reserve` last said no."""
        return self._state.refusal

    @property
    def state(self) -> VolumeState:
        """Counters, and what the journals share."""
        return self._state

    # --- inside --------------------------------------------------------------------------------

    def _secret(self) -> int:
        """The secret in FORMAT, which is made in an empty directory.

        Raises:
            VolumeError: It is not ours, of another version, or damaged.
        """
        path = self._root / "FORMAT"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            if self._jobs.exists():
                raise VolumeError(f"{self._root}: there are jobs, but no FORMAT") from None
            return self._make_format(path)
        if not lines or lines[0] not in (_FORMAT, _FORMER_FORMAT):
            raise VolumeError(f"{path}: its first line is not '{_FORMAT}'")
        found = _SECRET.fullmatch(lines[1]) if len(lines) > 1 else None
        if found is None or f"{checksum(found[1].encode()):016x}" != found[2]:
            raise VolumeError(f"{path}: is damaged")
        if lines[0] == _FORMER_FORMAT:
            self._write_format(path, found[1])
        return int(found[1], 16)

    def _make_format(self, path: Path) -> int:
        secret = secrets.token_hex(8)
        self._write_format(path, secret)
        return int(secret, 16)

    def _write_format(self, path: Path, secret: str) -> None:
        text = f"{_FORMAT}\nsecret {secret} {checksum(secret.encode()):016x}\n"
        made = path.with_suffix(".tmp")
        made.write_text(text, encoding="utf-8")
        fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        made.replace(path)
        _sync_folder(str(self._root))

    def _discard(self, folder: Path) -> None:
        """Move a folder to the trash, under a name that is free."""
        while True:
            self._dropped += 1
            target = self._trash / f"{folder.name}.{os.getpid()}.{self._dropped}"
            if not target.exists():
                folder.rename(target)
                return

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _locked(path: Path) -> int:
    """Lock a file, and return its descriptor, which holds the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise VolumeError(f"{path.parent}: another server uses it") from None
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_same_boot(lock: int) -> bool:
    """Whether the machine has run ever since the last server wrote to the file of its lock.

    What was given to the system then is there, whether the server had the time to sync it or not.
    """
    try:
        boot = _BOOT_ID.read_bytes().strip()
    except OSError:
        boot = b""
    said = os.pread(lock, _PROBED_OFFSET, 0).rstrip(b"\0")
    if said != boot:
        # If this fails, the next server takes the machine for restarted, too.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, boot, 0)
    return said == boot != b""


def _sync_data(state: VolumeState, segment: Segment) -> None:
    fd = state.files.pin(segment)
    try:
        os.fdatasync(fd)
    finally:
        state.files.unpin(segment)


def _sync_index(segment: Segment) -> None:
    """Bring a segment's index to the medium; what it cannot have is found in the segment."""
    with contextlib.suppress(OSError):
        fd = os.open(segment.index_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


def _copy_index(segment: Segment) -> None:
    """Write a finished segment's index again, to another file that takes its place.

    Raises:
        OSError: It is where it was.
    """
    path = Path(segment.index_path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    made = path.with_suffix(".idx.tmp")
    with made.open("wb") as file:
        file.write(data)
        file.flush()
        os.fdatasync(file.fileno())
    made.replace(path)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
