"""Cuts a stream of replies into frames without decoding them; no I/O.

A router passes replies on as they are: it needs to know only where each one ends. The bytes come
from our own servers, yet they are checked: a wrong address may lead anywhere.

A long reply need not be held here until it is whole: whoever passes its beginning on takes that
with `FrameScanner.take_begun`, and is given only the rest.
"""

from __future__ import annotations

from typing import Final

from pocketkv import limits
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA
from pocketkv.resp.replies import Marker

_CRLF: Final = b"\r\n"
_CR: Final = 13
_LF: Final = 10
_MINUS: Final = 45
_ZERO: Final = 48
_NINE: Final = 57
_LINE_MAX: Final = limits.LINE_BYTES_MAX
_LINE_SHORT: Final = 32
_LARGE_BULK_BYTES: Final = limits.STREAMED_REPLY_BYTES
_DIGITS_MAX: Final = 19
# The shortest reply, a null, has so many bytes.
_REPLY_BYTES_MIN: Final = 3
# So few replies in one are never too much.
_REPLIES_FEW: Final = 64


class FrameScanner:
    """Finds where replies end.

    A position inside an unfinished frame is remembered, so each byte is looked at once; and what
    was looked at is set aside, so that a long frame is not copied again with every piece of it.

    Attributes:
        kind: First byte of the frame under way; of the last one if none is.
        begun_bytes: What was looked at of the frame under way, and not taken.
        bulk_missing: How much of a large bulk under way, its CRLF included, was not looked at.
    """

    __slots__ = (
        "_aside",
        "_chunks",
        "_chunks_bytes",
        "_data",
        "_missing",
        "_needed",
        "_number",
        "_position",
        "_start",
        "begun_bytes",
        "bulk_missing",
        "kind",
    )

    def __init__(self) -> None:
        self.kind = 0
        # The beginning of the frame under way, as far as it was looked at in earlier data.
        self._aside: list[bytes] = []
        self.begun_bytes = 0
        self._data = b""
        # Received after `_data`; joined when the frame under way may be whole.
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        # Where in `_data` the frame under way begins (or goes on), and what is next to look at.
        self._start = 0
        self._position = 0
        # Replies missing in the frame under way (an array counts its elements); 0: none begun.
        self._missing = 0
        self.bulk_missing = 0
        # Length that `_data` must have before it is worth looking again.
        self._needed = 0
        self._number = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes received that no complete frame was made of yet, and that nobody took."""
        return self.begun_bytes + len(self._data) - self._start + self._chunks_bytes

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        if self._start >= len(self._data) and not self._chunks:
            self._start = self._position = self._needed = 0
            self._data = data
        else:
            self._chunks.append(data)
            self._chunks_bytes += len(data)

    def next_frame(self) -> bytes | Marker:
        """The next whole reply as raw bytes (what was not taken of it), or `NEED_DATA`.

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
            self.kind = self._data[self._position]
        while self._missing > 0:
            if not self._skip_one():
                self._needed = max(self._needed, len(self._data) + 1)
                self._set_aside()
                return NEED_DATA
        frame = self._looked_at()
        self._start = self._position
        if self._aside:
            self._aside.append(frame)
            frame = b"".join(self._aside)
            self._aside = []
            self.begun_bytes = 0
        return frame

    # --- long frames ---------------------------------------------------------------------------

    def take_begun(self) -> list[bytes]:
        """What was looked at of the frame under way; `next_frame` will give only what follows."""
        begun = self._aside
        self._aside = []
        self.begun_bytes = 0
        return begun

    def skip(self, count: int) -> None:
        """As `skip_bulk`, of contents that nobody looks at."""
        assert count <= self.bulk_missing - 2
        assert self._start >= len(self._data)
        self.bulk_missing -= count

    def skip_bulk(self, data: memoryview) -> bool:
        """Move past more of the large bulk under way, which goes another way.

        Only for who has taken what was begun, and has fed nothing since. CR and LF must not be
        parted.

        Returns:
            Whether the reply is whole now; `next_frame` does not tell.

        Raises:
            ProtocolError: These are not the bytes that belong there.
        """
        size = len(data)
        is_all = size == self.bulk_missing
        assert is_all or size <= self.bulk_missing - 2
        assert self._start >= len(self._data)
        if is_all and bytes(data[-2:]) != _CRLF:
            raise _no_crlf()
        self.bulk_missing -= size
        if is_all:
            self._missing -= 1
        return self._missing == 0

    def _looked_at(self) -> bytes:
        """What was looked at of the data."""
        if self._start == 0 and self._position == len(self._data):
            return self._data
        chars = self._data
        return chars[self._start : self._position]

    def _set_aside(self) -> None:
        """Keep what was looked at apart from what has to be joined to the next data."""
        if self._position > self._start:
            self._aside.append(self._looked_at())
            self.begun_bytes += self._position - self._start
            self._start = self._position
        if self.begun_bytes > limits.REPLY_BYTES_MAX:
            raise _too_big()

    def _join(self) -> None:
        # A frame that has begun was looked at up to its start in this data (see `_set_aside`).
        self._needed = 0
        if self._start >= len(self._data) and len(self._chunks) == 1:
            self._data = self._chunks[0]
        else:
            self._data = b"".join([self._data[self._start :], *self._chunks])
        self._start = self._position = 0
        self._chunks = []
        self._chunks_bytes = 0

    # --- one reply -----------------------------------------------------------------------------

    def _skip_one(self) -> bool:
        """Move past one line, bulk, or aggregate's head; false if it is not all there."""
        if self.bulk_missing > 0:
            return self._skip_in_bulk()
        data = self._data
        position = self._position
        if position >= len(data):
            return False
        kind = data[position]
        if kind in b"+-:_,#(":
            return self._skip_line()
        if kind in b"$=!":
            return self._skip_bulk()
        if kind in b"*~>":
            return self._skip_head(1, 1)
        if kind in b"%":
            return self._skip_head(2, 1)
        if kind in b"|":
            # An attribute precedes the reply that it describes.
            return self._skip_head(2, 0)
        raise ProtocolError("Protocol error: not a reply")

    def _skip_line(self) -> bool:
        data = self._data
        chars = data
        end = len(data)
        i = self._position + 1
        # Most lines are so short that to call for the end of one would cost more.
        near = min(end - 1, i + _LINE_SHORT)
        while i < near and chars[i] != _CR:
            i += 1
        if i >= near or chars[i + 1] != _LF:
            i = data.find(_CRLF, self._position, self._position + _LINE_MAX)
            if i < 0:
                if end - self._position >= _LINE_MAX:
                    raise ProtocolError("Protocol error: endless line in a reply")
                return False
        self._position = i + 2
        self._missing -= 1
        return True

    def _skip_head(self, replies: int, itself: int) -> bool:
        """Move past the head of an aggregate, each of whose elements are so many replies."""
        if not self._read_number():
            return False
        self._missing -= itself
        if self._number > 0:
            self._missing += replies * self._number
            if self._missing > _REPLIES_FEW:
                self._check_missing()
        return True

    def _check_missing(self) -> None:
        if self._missing * _REPLY_BYTES_MIN > limits.REPLY_BYTES_MAX:
            raise _too_big()

    def _skip_bulk(self) -> bool:
        """Move past a bulk, or into a large one that is not all there."""
        head = self._position
        if not self._read_number():
            return False
        if self._number < 0:
            self._missing -= 1
            return True
        after = self._position + self._number + 2
        data = self._data
        if after <= len(data):
            self._check_end(after - 2)
            self._position = after
            self._missing -= 1
            return True
        if self.begun_bytes + after - self._start > limits.REPLY_BYTES_MAX:
            raise _too_big()
        if self._number >= _LARGE_BULK_BYTES:
            self.bulk_missing = self._number + 2
            return self._skip_in_bulk()
        self._position = head
        self._needed = after
        return False

    def _skip_in_bulk(self) -> bool:
        """Move past what is there of a large bulk."""
        available = len(self._data) - self._position
        # CR and LF are looked at together.
        if available < self.bulk_missing:
            taken = min(available, self.bulk_missing - 2)
            self._position += taken
            self.bulk_missing -= taken
            return False
        self._position += self.bulk_missing
        self._check_end(self._position - 2)
        self.bulk_missing = 0
        self._missing -= 1
        return True

    def _check_end(self, position: int) -> None:
        chars = self._data
        if chars[position] != _CR or chars[position + 1] != _LF:
            raise _no_crlf()

    def _read_number(self) -> bool:
        """Read the line at the position, a mark and a length, into `_number`; -1 is the null."""
        data = self._data
        chars = data
        end = len(data)
        i = self._position + 1
        negative = i < end and chars[i] == _MINUS
        if negative:
            i += 1
        first = i
        number = 0
        while i < end and _ZERO <= chars[i] <= _NINE:
            number = number * 10 + (chars[i] - _ZERO)
            i += 1
            # So many digits are more than any limit, and few enough to be counted with.
            if i - first >= _DIGITS_MAX:
                raise _bad_length()
        if i >= end:
            return False
        if chars[i] != _CR or i == first or (negative and (number != 1 or i > first + 1)):
            raise _bad_length()
        if i + 1 >= end:
            return False
        if chars[i + 1] != _LF:
            raise _bad_length()
        self._number = -1 if negative else number
        self._position = i + 2
        return True


def _no_crlf() -> ProtocolError:
    return ProtocolError("Protocol error: expected CRLF after a bulk in a reply")


def _bad_length() -> ProtocolError:
    return ProtocolError("Protocol error: invalid length in a reply")


def _too_big() -> ProtocolError:
    return ProtocolError("Protocol error: too big reply")
