"""What a file tier tells of its medium: for INFO, for metrics, for the controller."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.engine.medium import MediumFigures
from pocketkv.observability.metrics import Figures, Kind, Name
from pocketkv.tiers.file_store import RESERVED_BYTES

if TYPE_CHECKING:
    from pocketkv.engine.node import Node
    from pocketkv.tiers.file_store import FileStore
    from pocketkv.tiers.readers import Readers
    from pocketkv.tiers.upkeep import Upkeep

# What the controller is told at most of an error.
_ERROR_CHARACTERS_MAX: Final = 200
_OVER_QUOTA: Final = os.strerror(errno.EDQUOT)


def _name(name: str, kind: Kind, text: str) -> Name:
    return Name(f"medium_{name}", kind, text, ("tier",))


USED: Final = _name("used_bytes", "gauge", "Bytes that journals and large values take.")
CAPACITY: Final = _name(
    "capacity_bytes", "gauge", "Bytes that may be stored; absent where the disk is the limit."
)
FREE: Final = _name("free_bytes", "gauge", "Bytes that can still be written.")
JOURNAL: Final = _name("journal_bytes", "gauge", "Bytes that journals take of it.")
LIVE: Final = _name("journal_live_bytes", "gauge", "Bytes of journals that are needed.")
LARGE: Final = _name("large_bytes", "gauge", "Bytes that large values take of it.")
BUFFERED: Final = _name(
    "buffered_bytes", "gauge", "Bytes that were not given to the system yet; no reply waits long."
)
UNSYNCED: Final = _name(
    "unsynced_bytes", "gauge", "Bytes of large values that were not waited for; 16 MiB are usual."
)
SEGMENTS: Final = _name("journal_segments", "gauge", "Files of journals.")
OPEN_FILES: Final = _name("journal_open_files", "gauge", "Files of journals that are open.")
READS_WAITING: Final = _name("reads_waiting", "gauge", "Reads that were asked for and not done.")
FAILING: Final = _name("failing", "gauge", "Whether writes fail, or are refused for want of room.")
LAST_WRITE_ERROR: Final = _name(
    "last_write_error_timestamp_seconds", "gauge", "When a write failed last; 0 if none did."
)
RESIDENTS: Final = _name(
    "resident_collections", "gauge", "Collections in memory that could be left to the medium."
)
COMMITS: Final = _name("commits_total", "counter", "Times that journals were given to the system.")
WRITTEN: Final = _name("journal_written_bytes_total", "counter", "Bytes written to journals.")
READ: Final = _name("journal_read_bytes_total", "counter", "Bytes read from journals.")
READS: Final = _name("journal_reads_total", "counter", "Records read from journals.")
WAITS: Final = _name(
    "journal_waits_total", "counter", "Look-ups whose record was not in memory, so that they wait."
)
READS_GIVEN: Final = _name(
    "worker_reads_total", "counter", "Reads done by workers, those of large values among them."
)
READS_DIRECT: Final = _name(
    "reads_direct_total", "counter", "Reads of large values that went past the page cache."
)
LARGE_WRITTEN: Final = _name(
    "large_written_bytes_total", "counter", "Bytes of large values written."
)
PUNCHED: Final = _name(
    "large_punched_bytes_total", "counter", "Bytes of large values given back to the system."
)
COLLECTED: Final = _name(
    "collected_bytes_total", "counter", "Bytes moved so that what lay around them could go."
)
CORRUPT: Final = _name(
    "corrupt_records_total", "counter", "Damaged places found at the start or by collection."
)
READ_ERRORS: Final = _name(
    "read_errors_total", "counter", "Reads for clients that failed, or found damage."
)
TORN: Final = _name("torn_bytes_total", "counter", "Bytes cut off journals at the start.")
WRITE_ERRORS: Final = _name("write_errors_total", "counter", "Times that a write or sync failed.")
EVICTIONS: Final = _name(
    "evictions_total", "counter", "Collections that left memory for the medium."
)

_READERS: Final[tuple[tuple[Name, Callable[[MediumFigures], int]], ...]] = (
    (USED, lambda f: f.used_bytes),
    (FREE, lambda f: f.free_bytes),
    (JOURNAL, lambda f: f.journal_bytes),
    (LIVE, lambda f: f.live_bytes),
    (LARGE, lambda f: f.large_bytes),
    (BUFFERED, lambda f: f.buffered_bytes),
    (UNSYNCED, lambda f: f.unsynced_bytes),
    (SEGMENTS, lambda f: f.segments),
    (OPEN_FILES, lambda f: f.open_files),
    (READS_WAITING, lambda f: f.reads_waiting),
    (FAILING, lambda f: int(bool(f.error))),
    (COMMITS, lambda f: f.commits),
    (WRITTEN, lambda f: f.written_bytes),
    (READ, lambda f: f.read_bytes),
    (READS, lambda f: f.reads),
    (WAITS, lambda f: f.waits),
    (READS_GIVEN, lambda f: f.reads_given),
    (READS_DIRECT, lambda f: f.reads_direct),
    (LARGE_WRITTEN, lambda f: f.large_written_bytes),
    (PUNCHED, lambda f: f.punched_bytes),
    (COLLECTED, lambda f: f.collected_bytes),
    (CORRUPT, lambda f: f.corrupt_records),
    (READ_ERRORS, lambda f: f.read_errors),
    (TORN, lambda f: f.torn_bytes),
)


class FileMedium:
    """Tells of the medium of one server.

    Args:
        node: The server.
        store: What it keeps there.
        readers: Who reads it.
        upkeep: Who looks after it.
    """

    def __init__(self, node: Node, store: FileStore, readers: Readers, upkeep: Upkeep) -> None:
        self._node = node
        self._store = store
        self._readers = readers
        self._upkeep = upkeep

    @property
    def error(self) -> str:
        """Why writes are failing or refused now, in one line; empty if they are not."""
        refused = self._node.write_error
        if refused is not None:
            text = refused.text.decode("utf-8", "replace")
        else:
            text = self._upkeep.failure or self._shortage()
        return text[:_ERROR_CHARACTERS_MAX]

    def _shortage(self) -> str:
        """Why writes are refused for want of room; empty if they are not."""
        state = self._store.volume.state
        if self._store.free_bytes < RESERVED_BYTES:
            return state.refusal if state.full else "no room is left for large values"
        # What was refused stays noted until somebody asks again, so only what cannot be seen
        # otherwise is believed.
        return _OVER_QUOTA if state.full and state.refusal == _OVER_QUOTA else ""

    def figures(self) -> MediumFigures:
        """All that there is to tell now."""
        store, volume, state = self._store, self._store.volume, self._store.volume.state
        pacer = store.pacer
        journal_bytes, large_bytes = volume.used_bytes, store.large_bytes
        return MediumFigures(
            directory=str(state.root),
            capacity_bytes=state.capacity_bytes,
            used_bytes=journal_bytes + large_bytes,
            free_bytes=store.free_bytes,
            journal_bytes=journal_bytes,
            live_bytes=volume.live_bytes,
            large_bytes=large_bytes,
            buffered_bytes=volume.buffered_bytes,
            unsynced_bytes=pacer.outstanding_bytes,
            segments=volume.segments,
            open_files=volume.open_files,
            commits=state.commits,
            written_bytes=state.written_bytes,
            read_bytes=state.read_bytes,
            large_written_bytes=pacer.outstanding_bytes + pacer.drained_bytes,
            reads=state.reads,
            waits=state.waits,
            reads_waiting=self._readers.waiting,
            reads_given=self._readers.given,
            reads_direct=self._readers.given_direct,
            corrupt_records=state.corrupt_records,
            read_errors=state.read_errors,
            torn_bytes=state.torn_bytes,
            collected_bytes=state.collected_bytes,
            punched_bytes=store.punched_bytes,
            error=self.error,
        )

    def metrics(self) -> Iterator[Figures]:
        """The same as a source of `NodeMetrics`."""
        node, figures = self._node, self.figures()
        tier = node.tier
        for name, read in _READERS:
            yield Figures(name).add(read(figures), tier)
        capacity = Figures(CAPACITY)
        if figures.capacity_bytes is not None:
            capacity.add(figures.capacity_bytes, tier)
        yield capacity
        yield Figures(LAST_WRITE_ERROR).add(node.last_write_error_ms / 1000, tier)
        yield Figures(WRITE_ERRORS).add(node.write_errors, tier)
        yield Figures(RESIDENTS).add(len(node.keyspace.residents), tier)
        yield Figures(EVICTIONS).add(node.keyspace.evictions, tier)
