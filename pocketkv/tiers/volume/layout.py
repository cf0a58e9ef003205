"""How a journal is laid out, by the medium that it is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pocketkv.limits import KIB, MIB


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of one volume.

    Attributes:
        segment_bytes: From this size on a job's next records go to a new file.
        sparse_share: A file of which less than this is live is collected.
        collect_bytes: What one step of collection reads.
        change_bytes: As `pocketkv.engine.cold.Store` has it.
        open_files_max: Segments that are held open; each takes a descriptor.
        ballast_bytes: Kept free for deletions and collection on a disk that is full.
    """

    segment_bytes: int
    sparse_share: float = 0.5
    collect_bytes: int = 512 * 1024
    change_bytes: int = 4096
    open_files_max: int = 512
    ballast_bytes: int = 8 * MIB


LAYOUTS: Final = {
    # Random reads cost what sequential ones do, so small segments give space back early.
    "nvme": Layout(segment_bytes=64 * MIB),
    # As NVMe, but the bus is ten times slower: what is moved is taken from the clients' share.
    "ssd": Layout(segment_bytes=64 * MIB, sparse_share=0.4, change_bytes=16 * KIB),
    # A seek costs as much as reading a MiB: fewer and longer runs, and nothing is moved that frees
    # little.
    "hdd": Layout(
        segment_bytes=256 * MIB, sparse_share=0.25, collect_bytes=4 * MIB, change_bytes=64 * KIB
    ),
}


def layout_of(tier: str) -> Layout:
    """The layout of a tier's medium; that of `ssd` where it is not known."""
    return LAYOUTS.get(tier, LAYOUTS["ssd"])
