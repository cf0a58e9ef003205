"""Receives a large argument into memory; `byte_sink.pyx` is the same without a copy at the end."""

from __future__ import annotations

from pocketkv import limits


class ByteSink:
    """Receives one bulk of a known length into memory of its own.

    Memory follows what was received: the announced length alone reserves no more than
    `limits.LARGE_BULK_FIRST_BYTES`.
    """

    __slots__ = ("_buffer", "_filled", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._buffer = bytearray(min(size, limits.LARGE_BULK_FIRST_BYTES))
        self._filled = 0

    @property
    def buffered_bytes(self) -> int:
        """Memory that this holds."""
        return len(self._buffer)

    def writable(self) -> memoryview:
        """Where the next bytes belong; empty when all are there. Valid until the next call."""
        room = len(self._buffer)
        if self._filled == room and room < self._size:
            # Double, up to the announced length: reserved memory follows received bytes.
            self._buffer.extend(bytes(min(self._size - room, room)))
        return memoryview(self._buffer)[self._filled :]

    def wrote(self, count: int) -> None:
        """So many bytes were received into what `writable` gave."""
        self._filled += count

    def finish(self) -> bytes:
        """The whole bulk.

        Raises:
            ValueError: It is not whole.
        """
        if self._filled != self._size:
            raise ValueError("the bulk is not whole")
        return bytes(self._buffer)

    def abort(self) -> None:
        """The bulk will never be whole."""
        self._buffer = bytearray()
