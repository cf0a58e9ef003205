"""Has a file tier write again what its device has lost, as soon as the device can be written.

When a device does not take what the system gives it, the system tells so once (`fdatasync` fails),
and takes what it concerned for written from then on. It has it in its memory for a while: there it
is read, compared with its checksum, and written to another place. What cannot be read any more is
an error at its key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from pocketkv.engine.database import Database
from pocketkv.engine.errors import CommandError
from pocketkv.engine.node import Node
from pocketkv.tiers.file_store import FileStore
from pocketkv.tiers.volume.file_pieces import FilePiece
from pocketkv.tiers.volume.file_string import FileString
from pocketkv.tiers.volume.large_file import LargeFile
from pocketkv.tiers.volume.large_region import BLOCK_BYTES, REGION_BYTES_MAX, Region
from pocketkv.tiers.volume.volume import Volume

_STEP_BYTES: Final = 4 * BLOCK_BYTES
# Between two attempts pass no more than so many calls.
_SKIPS_MAX: Final = 31


class Rescue:
    """Writes again what the device has lost.

    Args:
        node: The server.
        store: Its store.
        log: Where it is told.
    """

    def __init__(self, node: Node, store: FileStore, log: logging.Logger) -> None:
        self._node = node
        self._store = store
        self._log = log
        # While what is written again is lost again, it is tried less and less often.
        self._skipped = 0
        self._skips = 0

    async def run(self) -> None:
        """Try it, if there is something to be written again; to be followed by `FileStore.sync`.

        What fails is tried again by the next call.

        Raises:
            OSError: The device failed.
        """
        store = self._store
        if not store.has_lost:
            self._skips = 0
            return
        if self._skipped < self._skips:
            self._skipped += 1
            return
        # Or what is written again would be lost again, and fill the disk.
        if not await trio.to_thread.run_sync(store.volume.takes_writes):
            return
        self._skipped = 0
        self._skips = min(2 * self._skips + 1, _SKIPS_MAX)
        if store.volume.has_lost and await rescue_records(
            store.volume, lambda: self._node.retry_commit() is None
        ):
            self._log.info("records that the device had lost are written again")
        for job_id, large in store.lost_large():
            await self._large(job_id, large)

    # --- large values --------------------------------------------------------------------------

    async def _large(self, job_id: str, large: LargeFile) -> None:
        """Write a job's large values again.

        A region that no key has may belong to a value that is still being received: it stays
        noted.
        """
        lost = set(large.lost)
        space = self._node.keyspace.spaces.get(job_id)
        count = 0
        for db in [] if space is None else list(space.databases.values()):
            for key, string in await self._strings_in(db, lost):
                if not await self._rewrite(large, db, key, string, lost):
                    return
                count += 1
        if count and self._node.retry_commit() is None:
            self._log.info(
                "large values that the device had lost are written again",
                extra={"job": job_id, "keys": count},
            )

    @staticmethod
    async def _strings_in(db: Database, lost: set[Region]) -> list[tuple[bytes, FileString]]:
        """The strings of a database that stand in some regions."""
        found: list[tuple[bytes, FileString]] = []
        slot = db.next_occupied(0)
        while slot >= 0:
            found += [
                (key, entry)
                for key, entry in db.table(slot).items()
                if isinstance(entry, FileString)
                and any(region in lost for region, _, _ in entry.parts())
            ]
            await trio.lowlevel.checkpoint()
            slot = db.next_occupied(slot + 1)
        return found

    async def _rewrite(
        self, large: LargeFile, db: Database, key: bytes, string: FileString, lost: set[Region]
    ) -> bool:
        """Write again what a string has in some regions; false if there is no room."""
        copies: list[tuple[FilePiece, Region]] = []
        for piece in string.pieces_in(lost):
            region = large.allocate(piece.size)
            if region is None:
                self._log.error("no room to write again what the device has lost")
                return False
            try:
                if not await trio.to_thread.run_sync(partial(copy_piece, piece, region)):
                    return False
            except CommandError as error:
                # What is left of it stays where it is.
                self._log.error(
                    "a large value is lost",
                    extra={"job": db.space.job_id, "error": error.text.decode()},
                )
                if piece.region is not None:
                    large.lost.discard(piece.region)
                continue
            copies.append((piece, region))
        # It may have been changed meanwhile, or be gone, or another key's: then the next call sees.
        if db.find_stored(key) is string and db.shelf is not None:
            for piece, region in copies:
                string.exchange(piece, region)
            db.shelf.rewrite(key)
        return True


async def rescue_records(volume: Volume, commit: Callable[[], bool]) -> bool:
    """Write records again that the device has lost; whether all of them are.

    Args:
        volume: Whose.
        commit: Has what was written given to the system; false if it cannot be now.

    Raises:
        OSError: The device failed.
    """
    while commit() and volume.has_lost:
        claim = volume.rescue_pick()
        if claim is None:
            break
        part = await trio.to_thread.run_sync(volume.rescue_read, claim)
        if not volume.rescue_apply(part):
            return False
    return commit() and not volume.has_lost


def copy_piece(piece: FilePiece, region: Region) -> bool:
    """Write what a piece has to a region; false if there is no room; for a worker.

    Raises:
        CommandError: IOERR: it cannot be read, or is not what was written.
        OSError: The device failed.
    """
    assert piece.size <= REGION_BYTES_MAX
    for start in range(0, piece.size, _STEP_BYTES):
        data = piece.read(start, min(_STEP_BYTES, piece.size - start))
        if not region.append(memoryview(data)):
            return False
    region.seal()
    return True
