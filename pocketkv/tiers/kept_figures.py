"""What a server tells of the store for what jobs retain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pocketkv.observability.metrics import Figures, Name

if TYPE_CHECKING:
    from pocketkv.tiers.kept_s3 import S3Kept

AVAILABLE: Final = Name(
    "retained_store_available", "gauge", "Whether the store of --retain answers, as far as known."
)
REQUESTS: Final = Name(
    "retained_store_requests_total", "counter", "Requests to the store of --retain.", ("operation",)
)
SECONDS: Final = Name(
    "retained_store_request_seconds_total",
    "counter",
    "Time spent in them, with waits between repetitions.",
    ("operation",),
)
ERRORS: Final = Name(
    "retained_store_errors_total", "counter", "Requests to it that failed.", ("kind",)
)
RETRIES: Final = Name(
    "retained_store_retries_total", "counter", "Requests to it that were sent again."
)
SENT: Final = Name("retained_store_sent_bytes_total", "counter", "Bytes of values sent to it.")
RECEIVED: Final = Name(
    "retained_store_received_bytes_total", "counter", "Bytes of values received from it."
)
DAMAGED: Final = Name(
    "retained_store_damaged_objects_total",
    "counter",
    "Objects in it whose keys are lost, since they are not what was written.",
)


class KeptFigures:
    """Tells of the store of one server.

    Args:
        kept: The store.
    """

    def __init__(self, kept: S3Kept) -> None:
        self._kept = kept

    def metrics(self) -> Iterator[Figures]:
        """A source of `NodeMetrics`."""
        figures = self._kept.store.figures()
        counts = figures.counts
        yield Figures(AVAILABLE).add(int(figures.available))
        requests, seconds, errors = Figures(REQUESTS), Figures(SECONDS), Figures(ERRORS)
        for operation, number in counts.requests.items():
            requests.add(number, operation)
            seconds.add(counts.seconds.get(operation, 0.0), operation)
        for kind, number in counts.errors.items():
            errors.add(number, kind)
        yield from (requests, seconds, errors)
        yield Figures(RETRIES).add(counts.retries)
        yield Figures(SENT).add(counts.sent_bytes)
        yield Figures(RECEIVED).add(counts.received_bytes)
        yield Figures(DAMAGED).add(self._kept.damaged)
