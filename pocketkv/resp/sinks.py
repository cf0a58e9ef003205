"""Where large arguments are received to: straight to where they stay."""

from __future__ import annotations

from typing import Any, Protocol


class Sink(Protocol):
    """Receives one bulk of a known length."""

    @property
    def buffered_bytes(self) -> int:
        """Memory that it holds and nobody else accounts for."""
        ...

    def writable(self) -> memoryview:
        """Where the next bytes belong, not empty while some are missing; until the next call."""
        ...

    def wrote(self, count: int) -> None:
        """So many bytes were received into what `writable` gave."""
        ...

    def finish(self) -> Any:
        """What stands in the request for the bulk, which is whole."""
        ...

    def abort(self) -> None:
        """The bulk will never be whole."""
        ...


class SinkFactory(Protocol):
    """Knows where large arguments stay."""

    def open(self, arguments: list[bytes], size: int) -> Sink | None:
        """The sink of an argument of `size` bytes that follows these, or ``None``: in memory."""
        ...
