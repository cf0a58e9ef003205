"""Large values on their way back from a spill medium: into extents of their own, by a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pocketkv.engine.charge import Charge
from pocketkv.engine.errors import OUT_OF_MEMORY, CommandError
from pocketkv.engine.large_string import LargeString

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pocketkv.engine.cold import Cold, SpillJournal
    from pocketkv.engine.extents import Extent
    from pocketkv.engine.shelf import Shelf


class LargeRead:
    """A large value that has to be read; commands that wait for the same one share it.

    Args:
        shelf: Whose value it is.
        cold: Where it is.

    Raises:
        NoRoom: There is no room for it yet.
        CommandError: OOM: there is none.
    """

    def __init__(self, shelf: Shelf, cold: Cold) -> None:
        keyspace = shelf.keyspace
        spilling, extents = keyspace.spilling, keyspace.extents
        # Or it would not have been moved.
        assert spilling is not None
        assert extents is not None
        spilling.admit_read(cold.length)
        # Only addresses: to have them backed takes long, and is done by the worker.
        chain = extents.allocate(cold.length)
        if not chain:
            raise CommandError(OUT_OF_MEMORY)
        self._shelf = shelf
        self._journal = cast("SpillJournal", shelf.journal)
        self._cold = cold
        self._lock = self._journal.new_lock()
        self._is_read = False
        self._error: CommandError | None = None
        self._string: LargeString | None = LargeString(extents, chain, cold.length)
        self._string.charge = Charge(shelf.db.space)
        self._string.charge.add(cold.length)
        self._extents = extents
        self._chain = chain
        self._filled: list[Extent] = []
        self._spilling = spilling
        spilling.reads += 1

    def __del__(self) -> None:
        self._end()

    @property
    def is_coming(self) -> bool:
        """Nobody reads it before a worker does."""
        return False

    def try_read(self) -> bytes | None:
        """Nothing of it is there before."""
        return None

    def read(self) -> bytes:
        """Read it; for a worker thread.

        Raises:
            CommandError: It cannot be read.
        """
        with self._lock:
            # Once only: when the first one who waits was told, the extents may be others'.
            if not self._is_read:
                self._is_read = True
                self._error = CommandError(b"IOERR what is stored at this key was not read")
                try:
                    self._read()
                except CommandError as error:
                    # What it was raised in would keep the extents.
                    self._error = error.with_traceback(None)
                else:
                    self._error = None
        if self._error is not None:
            raise self._error
        return b""

    def _read(self) -> None:
        string = self._string
        assert string is not None  # Whoever reads is waited for.
        page_bytes = self._extents.page_bytes
        for extent in self._chain:
            missing = extent.pages - extent.backed_pages
            if missing:
                offset = (extent.start + extent.backed_pages) * page_bytes
                if not self._extents.medium.fill(offset, missing * page_bytes):
                    raise CommandError(OUT_OF_MEMORY)
                self._filled.append(extent)
        self._journal.read_into(self._cold, string.views(0, self._cold.length))

    def keep(self, result: bytes | CommandError) -> bool:
        """Have it at hand; false if it cannot be had."""
        self._note_filled()
        string = self._string
        if isinstance(result, CommandError):
            self.forget()
            return False
        if string is not None:
            self._shelf.fetched[self._cold] = string
            self._end()
        return True

    def prepare(self) -> Iterator[None]:
        """There is nothing to do."""
        return iter(())

    def forget(self) -> None:
        """It is a value now, or not needed any more."""
        self._shelf.fetched.pop(self._cold, None)
        self._end()

    def _note_filled(self) -> None:
        """Have the extents know what the worker has done, before they are used or go back."""
        filled, self._filled = self._filled, []
        for extent in filled:
            self._extents.note_backed(extent)

    def _end(self) -> None:
        """It is not under way any more."""
        if getattr(self, "_string", None) is None:
            return
        self._note_filled()
        self._string = None
        self._chain = []
        self._spilling.reads -= 1
        if self._shelf.reading.get(self._cold) is self:
            del self._shelf.reading[self._cold]
