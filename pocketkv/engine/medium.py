"""What a server's medium holds and does, as INFO and metrics show it.

The plane that has the medium tells it (`Node.medium_figures`); a server that keeps its values in
memory has no such figures.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumFigures:
    """A medium at one time. Counters are since the server started.

    Attributes:
        directory: Where the files are.
        capacity_bytes: What may be stored; ``None``: what the disk has.
        used_bytes: What journals and large values take.
        free_bytes: What can still be written, as of about a second ago.
        journal_bytes: What the journals take of `used_bytes`.
        live_bytes: What of the journals is needed.
        large_bytes: What large values take of `used_bytes`.
        buffered_bytes: Written to the journals, and not given to the system yet.
        unsynced_bytes: Of large values: given to the system, and nobody has waited until the device
            had them.
        segments: Files of the journals.
        open_files: How many of them are open.
        commits: How often what was buffered was given to the system.
        written_bytes, read_bytes: Of the journals.
        large_written_bytes: Of large values.
        reads: Records read.
        waits: Look-ups that found a record not in memory, so that its client had to wait.
        reads_waiting: Reads that workers were given and have not done.
        reads_given: Reads that workers were given so far, those of large values among them.
        reads_direct: Those of them that were read past the page cache.
        corrupt_records: Places where there should have been a good record, found without a client.
        read_errors: Reads for clients that failed, or found damage.
        torn_bytes: Cut off the ends of journals when the server started.
        collected_bytes: Live records that were moved, so that what they stood among could go.
        punched_bytes: Of large values, given back to the system.
        error: Why writes are failing or refused now; empty if they are not.
    """

    directory: str
    capacity_bytes: int | None
    used_bytes: int
    free_bytes: int
    journal_bytes: int
    live_bytes: int
    large_bytes: int
    buffered_bytes: int
    unsynced_bytes: int
    segments: int
    open_files: int
    commits: int
    written_bytes: int
    read_bytes: int
    large_written_bytes: int
    reads: int
    waits: int
    reads_waiting: int
    reads_given: int
    reads_direct: int
    corrupt_records: int
    read_errors: int
    torn_bytes: int
    collected_bytes: int
    punched_bytes: int
    error: str
