"""Cuts a stream of replies into frames without decoding them; no I/O.

A router passes replies on as they are: it needs to know only where each one ends. The bytes come
from our own servers, yet they are checked: a wrong address may lead anywhere.
"""

from __future__ import annotations

from typing import Final

from pocketkv import limits
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA
from pocketkv.resp.replies import Marker

# First bytes of a reply: those followed by a line only, by so many bytes, by so many replies.
_LINES: Final = b"+-:_,#("
_BULKS: Final = b"$=!"
_AGGREGATES: Final = b"*~>"  # a push is a frame of its own, told by its first byte
_MAPS: Final = b"%|"
_LINE_MAX: Final = limits.LINE_BYTES_MAX
_DIGITS_MAX: Final = 19
_ATTRIBUTE: Final = 124
_CR: Final = 13
_LF: Final = 10
# The shortest reply, a null, has so many bytes.
_REPLY_BYTES_MIN: Final = 3


class FrameScanner:
    """Finds where replies end.

    A position inside an unfinished frame is remembered, so each byte is looked at once; and what
    was looked at is set aside, so that a long frame is not copied again with every piece of it.
    """

    __slots__ = (
        "_aside",
        "_aside_bytes",
        "_chunks",
        "_chunks_bytes",
        "_data",
        "_missing",
        "_needed",
        "_position",
        "_start",
    )

    def __init__(self) -> None:
        # The beginning of the frame under way, as far as it was looked at in earlier data.
        self._aside: list[bytes] = []
        self._aside_bytes = 0
        self._data = b""
        # Received after `_data`; joined when the frame under way may be whole.
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        # Where in `_data` the frame under way begins (or goes on), and what is next to look at.
        self._start = 0
        self._position = 0
        # Replies missing in the frame under way (an array counts its elements); 0: none begun.
        self._missing = 0
        # Length that `_data` must have before it is worth looking again.
        self._needed = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes received that no complete frame was made of yet."""
        return self._aside_bytes + len(self._data) - self._start + self._chunks_bytes

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        if self._start >= len(self._data) and not self._chunks:
            self._start = self._position = self._needed = 0
            self._data = data
        else:
            self._chunks.append(data)
            self._chunks_bytes += len(data)

    def next_frame(self) -> bytes | Marker:
        """The next whole reply as raw bytes, or `NEED_DATA`.

        Raises:
            ProtocolError: These are not replies, or one is too big.
        """
        if self._chunks:
            if len(self._data) + self._chunks_bytes < self._needed:
                return NEED_DATA
            self._join()
        if self._position >= len(self._data):
            return NEED_DATA
        if self._missing == 0:
            self._missing = 1
        while self._missing > 0:
            if not self._skip_one():
                self._needed = max(self._needed, len(self._data) + 1)
                self._set_aside()
                return NEED_DATA
        frame = self._data[self._start : self._position]
        self._start = self._position
        if self._aside:
            self._aside.append(frame)
            frame = b"".join(self._aside)
            self._aside.clear()
            self._aside_bytes = 0
        return frame

    def _set_aside(self) -> None:
        """Keep what was looked at apart from what has to be joined to the next data."""
        looked_at = self._position - self._start
        if looked_at > 0:
            self._aside.append(self._data[self._start : self._position])
            self._aside_bytes += looked_at
            self._start = self._position
        if self._aside_bytes > limits.REPLY_BYTES_MAX:
            raise _too_big()

    def _join(self) -> None:
        # A frame that has begun was looked at up to its start in this data (see `_set_aside`).
        self._needed = 0
        self._data = b"".join([self._data[self._start :], *self._chunks])
        self._start = self._position = 0
        self._chunks.clear()
        self._chunks_bytes = 0

    def _skip_one(self) -> bool:
        """Move past one line, bulk, or aggregate's head; false if it is not all there."""
        data = self._data
        position = self._position
        if position >= len(data):
            return False
        kind = data[position]
        end = data.find(b"\r\n", position, position + _LINE_MAX)
        if end < 0:
            if len(data) - position >= _LINE_MAX:
                raise ProtocolError("Protocol error: endless line in a reply")
            if kind not in b"+-:_,#($=!*~>%|":
                raise ProtocolError("Protocol error: not a reply")
            return False
        if kind in _LINES:
            self._position = end + 2
            self._missing -= 1
            return True
        size = _length(data, position + 1, end)
        if kind in _BULKS:
            after = end + 2 if size < 0 else end + 2 + size + 2
            if after > len(data):
                if self._aside_bytes + after - self._start > limits.REPLY_BYTES_MAX:
                    raise _too_big()
                self._needed = after
                return False
            if data[after - 2] != _CR or data[after - 1] != _LF:
                raise ProtocolError("Protocol error: expected CRLF after a bulk in a reply")
            self._position = after
            self._missing -= 1
            return True
        self._position = end + 2
        if kind in _AGGREGATES:
            self._missing += max(size, 0) - 1
        elif kind in _MAPS:
            # An attribute precedes the reply that it describes.
            self._missing += 2 * max(size, 0) - (0 if kind == _ATTRIBUTE else 1)
        else:
            raise ProtocolError("Protocol error: not a reply")
        if self._missing * _REPLY_BYTES_MIN > limits.REPLY_BYTES_MAX:
            raise _too_big()
        return True


def _length(data: bytes, start: int, end: int) -> int:
    digits = data[start:end]
    if digits == b"-1":
        return -1
    # So many digits are more than any limit, and few enough to be a number in short time.
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        raise ProtocolError("Protocol error: invalid length in a reply")
    return int(digits)


def _too_big() -> ProtocolError:
    return ProtocolError("Protocol error: too big reply")
