"""How a store talks to S3; the defaults fit AWS and a store in the same data centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pocketkv import limits

BLOCK_BYTES: Final = 256 * limits.KIB
"""What one checksum of a large value covers: as little as is read to answer for one byte of it."""

PART_BYTES_MIN: Final = 5 * limits.MIB
"""S3 takes no smaller parts, but for the last."""

PARTS_MAX: Final = 10_000
"""S3 takes no more parts of one object."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """How a store talks to S3.

    What is None here is found in the usual places of AWS: environment variables, the files below
    ``~/.aws``, the role of a container, a service account or a machine.

    Attributes:
        endpoint_url: Of a store other than AWS.
        region: Where the bucket is.
        profile: A section of the files below ``~/.aws``.
        part_bytes: Larger values are sent, and read, in parts of this size, some at a time; a
            multiple of `BLOCK_BYTES`, and at least `PART_BYTES_MIN`.
        transfers_max: So many parts are under way at one time, of all values together.
        in_flight_bytes_max: So many bytes are held for what is being sent, as many for what is
            being read, and as many for what is read ahead. Who has more waits.
        connect_timeout_s, read_timeout_s: For a connection, and for each piece of an answer.
        attempts_max: So often is a request sent before it has failed, with growing waits that
            botocore's "standard" mode chooses.
        failures_max: So many calls in a row that found S3 away stop all others.
        probe_wait_s, probe_wait_max_s: From then on, S3 is asked at growing intervals.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    part_bytes: int = 8 * limits.MIB
    transfers_max: int = 8
    in_flight_bytes_max: int = 64 * limits.MIB
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    attempts_max: int = 4
    failures_max: int = 3
    probe_wait_s: float = 1.0
    probe_wait_max_s: float = 15.0

    def __post_init__(self) -> None:
        if self.part_bytes % BLOCK_BYTES or self.part_bytes < PART_BYTES_MIN:
            raise ValueError(f"parts of {self.part_bytes} bytes: S3 or the checksums forbid it")
        if min(self.transfers_max, self.attempts_max, self.failures_max) < 1:
            raise ValueError("a store needs at least one transfer, attempt and failure")
