"""The store of a file tier: a journal and large files for each job, in one directory.

Everything that a command changes is written to the journal before it is answered; the system has
it then, so it outlives this process. Once a second a worker brings it to the device, so that no
more than about a second is lost with the machine.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pocketkv.engine.chains import Chain
from pocketkv.engine.cold import Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.replay import Replay, StoredIndex
from pocketkv.tiers.volume.data_file import Descriptors
from pocketkv.tiers.volume.file_sinks import FileSinks, warm_buffer
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.journal import JobJournal
from pocketkv.tiers.volume.large_file import LargeFile, Range
from pocketkv.tiers.volume.layout import layout_of
from pocketkv.tiers.volume.pacing import Pacer
from pocketkv.tiers.volume.volume import Volume

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import Keyspace
    from pocketkv.engine.session import Session

# What is left free on the device for journals, whatever large values there are.
RESERVED_BYTES: Final = 16 * 1024 * 1024

# A deletion, and what the index repeats of it, takes some 70 % of what its key takes in memory; the
# rest is for collection.
_DELETIONS_SHARE: Final = 1.0


class FileStore:
    """Implements `pocketkv.engine.cold.Store` on a directory.

    Args:
        directory: Made if it does not exist.
        tier: Which kind of medium it is on.
        capacity_bytes: What may be stored; ``None``: what the disk has.
        log: Where it is told what was found.

    Attributes:
        durable, keeps_large, change_bytes: As `Store` says.
        volume: The journals.
        pacer: Counts what large values wait to be brought to the device.

    Raises:
        VolumeError: The directory cannot be used.
    """

    durable = True
    keeps_large = True

    def __init__(
        self, directory: Path, tier: str, capacity_bytes: int | None, log: logging.Logger
    ) -> None:
        self._index = StoredIndex()
        self._capacity_bytes = capacity_bytes
        self._log = log
        layout = layout_of(tier)
        self.change_bytes = layout.change_bytes
        self.volume = Volume(
            directory, index=self._index, capacity_bytes=capacity_bytes, layout=layout
        )
        # What `pending` looks at, with every turn of every connection.
        self._state = self.volume.state
        self.pacer = Pacer()
        self._descriptors = Descriptors()
        self._warm = warm_buffer()
        self._large: dict[str, LargeFile] = {}
        self._keyspace: Keyspace | None = None
        # By jobs that have ended.
        self._punched_bytes = 0

    # --- what the engine asks ------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether `commit` has something to do."""
        state = self._state
        return bool(state.dirty or state.emptied)

    @property
    def refusal(self) -> str:
        """Why a journal's `reserve` last said no."""
        return self.volume.refusal

    @property
    def lacks_room(self) -> bool:
        """Whether that was for want of room."""
        return self.volume.state.lacks_room

    def journal(self, job_id: str) -> JobJournal:
        """A job's journal, made if it is new."""
        return self.volume.open(job_id)

    def new_string(self, job_id: str) -> FileString:
        """An empty string in a job's large files."""
        return FileString(self.large(job_id))

    def drop(self, job_id: str) -> None:
        """Forget all that a job has.

        Raises:
            OSError: It would be back after a restart.
        """
        large = self._large.pop(job_id, None)
        if large is not None:
            large.close()
            self._punched_bytes += large.punched_bytes
        self.volume.drop(job_id)

    def commit(self) -> None:
        """Have the system take what was written.

        Raises:
            OSError: Some of it could not be written; it is tried again by the next call.
        """
        if self._keyspace is not None:
            # However full the disk is, every key can be deleted.
            deletions_bytes = int(self._keyspace.index_bytes * _DELETIONS_SHARE)
            self.volume.state.ballast.resize(deletions_bytes)
        self.volume.commit()

    @property
    def identity(self) -> str:
        """40 hexadecimal digits that tell the directory from every other."""
        return hashlib.sha1(b"%016x" % self.volume.state.secret).hexdigest()

    # --- large values --------------------------------------------------------------------------

    def large(self, job_id: str) -> LargeFile:
        """A job's large files; made when something is put into them.

        Raises:
            OSError: They cannot be looked at.
        """
        large = self._large.get(job_id)
        if large is None:
            large = self._large[job_id] = LargeFile(
                Path(self.volume.open(job_id).folder),
                self._descriptors,
                pacer=self.pacer,
                may_use=self._may_use,
            )
        return large

    def _may_use(self, size: int) -> bool:
        """Whether large values may take so much more of the device."""
        if self._capacity_bytes is not None:
            used_bytes = self.volume.used_bytes + self.large_bytes + size
            if used_bytes > self._capacity_bytes:
                return False
        return self.volume.free_bytes > size + RESERVED_BYTES

    @property
    def large_bytes(self) -> int:
        """What large values take."""
        return sum(large.live_bytes for large in self._large.values())

    def sinks_of(self, session: Session) -> FileSinks:
        """Where large arguments of a session's requests go."""
        return FileSinks(session, self.large, self._warm)

    def read_directly(self) -> None:
        """From now on there is somebody who reads large values past the page cache."""
        self._descriptors.reads_directly = True

    # --- after a restart -----------------------------------------------------------------------

    def restore(self, keyspace: Keyspace) -> None:
        """Have a keyspace, still empty, hold what is in the directory.

        Raises:
            OSError: The directory cannot be read.
        """
        self._keyspace = self._index.keyspace = keyspace
        for job_id in self.volume.jobs():
            space = keyspace.open(job_id)
            replay = Replay(space)
            replay.run(partial(self.volume.replay, job_id))
            large = self.large(job_id)
            restored = [
                self._restore_large(db, key, entry, large) for db, key, entry in replay.large()
            ]
            # What nobody tells of may belong to one that could not be read this time.
            large.finish_recovery(free=all(restored))
            keys = sum(db.size for db in space.databases.values())
            self._log.info("job found", extra={"job": job_id, "keys": keys})
        self.volume.empty_trash()

    def _restore_large(self, db: Database, key: bytes, entry: Cold, large: LargeFile) -> bool:
        """Hold a large string, whose records are read for that; false if they cannot be."""
        shelf = db.shelf
        assert shelf is not None  # This is what it stands for.
        chain = shelf.chains.setdefault(key, Chain([entry]))
        try:
            whole, *changes = [shelf.journal.read(record) for record in chain]
            string = FileString.from_payload(large, whole)
            for change in changes:
                string.apply_change(change)
        except CommandError as error:
            # It stays as it is, and whoever asks for it is told.
            self._log.error(
                "large value damaged", extra={"job": db.space.job_id, "error": error.text.decode()}
            )
            del shelf.chains[key]
            return False
        db.exchange(key, entry, string)
        return True

    # --- for workers ---------------------------------------------------------------------------

    def take_released(self) -> list[tuple[LargeFile, list[Range]]]:
        """What large values gave back; right after a commit, on the serving thread."""
        return [
            (large, large.take_released()) for large in self._large.values() if large.has_released
        ]

    def sync(self) -> None:
        """Bring everything to the device; for one worker.

        Raises:
            OSError: The device did not take all of it.
        """
        failure: OSError | None = None
        for sync in (*[large.sync for large in list(self._large.values())], self.volume.sync):
            try:
                sync()
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    @staticmethod
    def punch(released: list[tuple[LargeFile, list[Range]]]) -> None:
        """Give back what is free, after `sync`; for one worker.

        Raises:
            OSError: The device failed.
        """
        for large, ranges in released:
            large.punch(ranges)

    @property
    def has_lost(self) -> bool:
        """Whether the device has lost something that has to be written again."""
        return self.volume.has_lost or any(large.lost for large in self._large.values())

    def lost_large(self) -> list[tuple[str, LargeFile]]:
        """The jobs of which large values have lost something, with their files."""
        return [(job_id, large) for job_id, large in self._large.items() if large.lost]

    def used_bytes(self) -> int:
        """What the directory takes on the device."""
        return self.volume.used_bytes + self.large_bytes

    @property
    def free_bytes(self) -> int:
        """What can still be written, as of the last `sync`."""
        free_bytes = self.volume.free_bytes
        if self._capacity_bytes is None:
            return free_bytes
        return max(min(free_bytes, self._capacity_bytes - self.used_bytes()), 0)

    @property
    def punched_bytes(self) -> int:
        """What large values gave back to the system so far."""
        return self._punched_bytes + sum(large.punched_bytes for large in self._large.values())

    def close(self) -> None:
        """Write everything, and let others use the directory.

        Raises:
            OSError: Not everything could be written.
        """
        try:
            if self._keyspace is not None:
                self._keyspace.commit()
            for large in self._large.values():
                large.sync()
        finally:
            self.volume.close()
            for large in self._large.values():
                large.close()
