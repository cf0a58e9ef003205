"""The request parser: client bytes in, lists of arguments out; no I/O.

`RequestParser.feed` takes what was received, `next_request` gives one request at a time or
`NEED_DATA`. What was parsed of an incomplete request is remembered, so that no byte is looked at
twice however the stream is cut. Client bytes are hostile: every announced number is checked
against `limits` before anything is reserved for it. The error texts are Redis's.

A large argument is received straight to where it stays, its `Sink`: while `writable` is not
``None`` the connection receives into it and calls `wrote`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pocketkv import limits
from pocketkv.resp.byte_sink import ByteSink
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Marker
from pocketkv.resp.sinks import Sink, SinkFactory

NEED_DATA: Final = Marker("NEED_DATA")
# So many empty requests were passed over that others should have a turn before the next one.
SKIPPED: Final = Marker("SKIPPED")

_NO_CRLF: Final = "Protocol error: expected CRLF after a bulk"
# Digits of the largest number that Redis reads, and that number.
_DIGITS_MAX: Final = 19
_INT64_MAX: Final = 2**63 - 1
_CR: Final = 13
_LF: Final = 10
_STAR: Final = 42
_DOLLAR: Final = 36
_MINUS: Final = 45
_ZERO: Final = 48
_NINE: Final = 57


class RequestParser:
    """Parses the requests of one connection: RESP arrays of bulks, and inline commands.

    Attributes:
        arguments_max, bulk_bytes_max: What a request may have and be.
        queued_bytes: Bytes that were received, and not looked at.
        sinks: Where arguments of `limits.EXTENT_BYTES_MIN` and more go; ``None``: to memory.
        keep_frames: Whether `frame` is wanted.
        frame: The bytes of the last request, if it is an array that came in one piece.
    """

    __slots__ = (
        "_arguments",
        "_bulk_bytes",
        "_chunks",
        "_data",
        "_frame_start",
        "_large_bytes",
        "_missing",
        "_number",
        "_position",
        "_request_bytes",
        "_request_bytes_max",
        "_scanned",
        "_sink",
        "_sink_missing",
        "arguments_max",
        "bulk_bytes_max",
        "frame",
        "keep_frames",
        "queued_bytes",
        "sinks",
    )

    def __init__(self) -> None:
        # Raised by CONFIG SET proto-max-bulk-len, lowered while authentication is due.
        self.arguments_max = limits.ARGUMENTS_MAX
        self.bulk_bytes_max = limits.BULK_BYTES_MAX
        self.queued_bytes = 0
        self.sinks: SinkFactory | None = None
        self.keep_frames = False
        self.frame: bytes | None = None
        # Where the request under way begins in `_data`; -1 if it began before that.
        self._frame_start = -1
        # From this size on an argument gets a sink.
        self._large_bytes = limits.LARGE_BULK_BYTES
        self._data = b""
        self._position = 0
        self._chunks: deque[bytes] = deque()
        # How far a line that has no end yet was searched for it.
        self._scanned = 0
        self._number = 0
        # The request under way: arguments so far, how many are missing, length of the next one.
        self._arguments: list[bytes] = []
        self._missing = 0
        self._bulk_bytes = -1
        self._request_bytes = 0
        self._request_bytes_max = limits.REQUEST_BYTES_MAX
        # Of the large argument under way: where it goes, and how many of its bytes are missing.
        self._sink: Sink | None = None
        self._sink_missing = 0

    @property
    def mid_request(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._missing > 0 or self._position < len(self._data) or self.queued_bytes > 0

    def mid_large(self) -> bool:
        """Whether a large argument is under way."""
        return self._sink is not None

    def buffered_bytes(self) -> int:
        """Bytes that this parser holds: unparsed input and arguments of an unfinished request."""
        large = 0 if self._sink is None else self._sink.buffered_bytes
        return len(self._data) - self._position + self.queued_bytes + self._request_bytes + large

    def abort(self) -> None:
        """The connection is gone: give back what large arguments hold."""
        self._arguments = []
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.abort()

    def restrict(self) -> None:
        """Apply the limits for a connection that has not authenticated although it must."""
        self.arguments_max = limits.UNAUTHENTICATED_ARGUMENTS_MAX
        self.bulk_bytes_max = limits.UNAUTHENTICATED_BULK_BYTES_MAX

    def unrestrict(self, bulk_bytes_max: int, request_bytes_max: int) -> None:
        """Lift `restrict`, and have requests be of such sizes."""
        self._request_bytes_max = request_bytes_max
        self.arguments_max = limits.ARGUMENTS_MAX
        self.bulk_bytes_max = bulk_bytes_max

    def feed(self, data: bytes) -> None:
        """Take received bytes. They are queued, not copied, while older ones are unparsed."""
        if self._position >= len(self._data) and not self._chunks:
            self._data = data
            self._position = 0
            self._scanned = 0
            self._frame_start = -1
        else:
            self._chunks.append(data)
            self.queued_bytes += len(data)

    def next_request(self) -> list[bytes] | Marker:
        """The arguments of the next request, its name first, or `NEED_DATA`, or `SKIPPED`.

        Raises:
            ProtocolError: The stream is broken here; nothing after it can be understood.
        """
        skipped = 0
        while True:
            if self._missing == 0 and not self._begin_request():
                if not self._more_data():
                    return NEED_DATA
                continue
            if self._missing > 0 and not self._read_arguments():
                if self._sink is not None or not self._more_data():
                    return NEED_DATA
                continue
            if self.keep_frames:
                start = self._frame_start
                chars = self._data
                self.frame = chars[start : self._position] if start >= 0 else None
            arguments = self._arguments
            self._arguments = []
            self._request_bytes = 0
            if arguments:
                return arguments
            skipped += 1
            if skipped >= limits.REQUESTS_PER_TURN:
                return SKIPPED

    def writable(self) -> memoryview | None:
        """Where a large argument's next bytes belong; ``None`` if none is under way."""
        if self._sink is None or self._chunks or self._sink_missing == 0:
            return None
        return self._sink.writable()[: min(limits.RECEIVE_LARGE_BYTES, self._sink_missing)]

    def completes(self, count: int) -> bool:
        """Whether so many bytes are all that is missing of the large argument."""
        return count == self._sink_missing

    def wrote(self, count: int) -> None:
        """`count` bytes were received into the view that `writable` gave."""
        assert self._sink is not None
        self._sink.wrote(count)
        self._sink_missing -= count

    # --- lines ---------------------------------------------------------------------------------

    def _begin_request(self) -> bool:
        """Read up to a request's first argument (or a whole inline request)."""
        data = self._data
        if self._position >= len(data):
            return False
        if data[self._position] != _STAR:
            self._frame_start = -1
            return self._read_inline()
        self._frame_start = self._position
        if not self._read_number("multibulk"):
            return False
        count = self._number
        if count > self.arguments_max:
            raise _too_many_arguments(count)
        # Redis ignores empty and null arrays.
        self._missing = count if count > 0 else 0
        return True

    def _read_number(self, what: str) -> bool:
        """Read the line at the position, a mark and a decimal number, into `_number`.

        As strict as Redis's string2ll: an optional minus, no plus, no blanks, no leading zeros.
        """
        data = self._data
        chars = data
        end = len(data)
        i = self._position + 1
        negative = i < end and chars[i] == _MINUS
        if negative:
            i += 1
        first = i
        number = 0
        while i < end:
            c = chars[i]
            if c < _ZERO or c > _NINE:
                break
            number = number * 10 + (c - _ZERO)
            i += 1
            if i - first > _DIGITS_MAX:
                raise _bad_number(what)
        if number > _INT64_MAX:
            raise _bad_number(what)
        if i >= end:
            return False
        if chars[i] != _CR or i == first or (chars[first] == _ZERO and (i - first > 1 or negative)):
            raise _bad_number(what)
        if i + 1 >= end:
            return False
        # Redis skips the byte after CR without looking; only LF is right.
        if chars[i + 1] != _LF:
            raise _bad_number(what)
        value = number
        self._number = -value if negative else value
        self._position = i + 2
        return True

    def _read_inline(self) -> bool:
        """Read a line of words, as a person types them into telnet."""
        data = self._data
        start = self._position
        end = data.find(b"\n", max(start, self._scanned))
        if end < 0:
            self._scanned = len(data)
            if len(data) - start > limits.LINE_BYTES_MAX:
                raise ProtocolError("Protocol error: too big inline request")
            return False
        if end - start > limits.LINE_BYTES_MAX:
            raise ProtocolError("Protocol error: too big inline request")
        line = data[start : end - 1] if data[end - 1 : end] == b"\r" else data[start:end]
        self._position = end + 1
        self._scanned = 0
        words = split_words(line)
        if words is None:
            raise ProtocolError("Protocol error: unbalanced quotes in request")
        self._arguments = words
        return True

    # --- arguments -----------------------------------------------------------------------------

    def _read_arguments(self) -> bool:
        """Read bulks until the request is whole; false if data ran out first."""
        if self._sink is not None and not self._continue_large():
            return False
        data = self._data
        chars = data
        end = len(data)
        while self._missing > 0:
            if self._bulk_bytes < 0:
                if self._position >= end:
                    return False
                if chars[self._position] != _DOLLAR:
                    raise _no_bulk(data[self._position])
                if not self._read_number("bulk"):
                    return False
                self._check_bulk_bytes()
            size = self._bulk_bytes
            start = self._position
            if end - start < size + 2:
                if size < self._large_bytes:
                    return False
                self._begin_large()
                if not self._continue_large():
                    return False
                data = self._data
                chars = data
                end = len(data)
                continue
            after = start + size
            if chars[after] != _CR or chars[after + 1] != _LF:
                raise ProtocolError(_NO_CRLF)
            self._append(chars[start:after])
            self._position = after + 2
        return True

    def _check_bulk_bytes(self) -> None:
        size = self._number
        if size < 0 or size > self.bulk_bytes_max:
            raise _bad_bulk_size(size, self.bulk_bytes_max)
        if self._request_bytes + size > self._request_bytes_max:
            raise ProtocolError("Protocol error: too big request")
        self._bulk_bytes = size

    def _append(self, argument: bytes) -> None:
        self._arguments.append(argument)
        self._request_bytes += self._bulk_bytes
        self._missing -= 1
        self._bulk_bytes = -1

    def _begin_large(self) -> None:
        """Find the place of a large argument, of which a part may be there."""
        size = self._bulk_bytes
        sink = None
        if self.sinks is not None and size >= limits.EXTENT_BYTES_MIN:
            sink = self.sinks.open(self._arguments, size)
        self._sink = ByteSink(size) if sink is None else sink
        self._sink_missing = size
        self._frame_start = -1

    def _continue_large(self) -> bool:
        """Go on with a large argument; false while it is not whole, or its CRLF is missing."""
        sink = self._sink
        assert sink is not None
        while True:
            if self._sink_missing > 0:
                self._fill_large(sink)
            if self._sink_missing == 0 and len(self._data) - self._position >= 2:
                break
            if not self._more_data():
                return False
        if self._data[self._position : self._position + 2] != b"\r\n":
            raise ProtocolError(_NO_CRLF)
        self._position += 2
        self._sink = None
        self._append(sink.finish())
        return True

    def _fill_large(self, sink: Sink) -> None:
        """Move what is there of a large argument's bytes to their place."""
        available = memoryview(self._data)[self._position :]
        while self._sink_missing > 0 and available:
            view = sink.writable()
            count = min(len(view), len(available), self._sink_missing)
            view[:count] = available[:count]
            # The view is good until the sink is asked again.
            del view
            available = available[count:]
            sink.wrote(count)
            self._sink_missing -= count
            self._position += count

    def _more_data(self) -> bool:
        """Join the next queued chunk to the unparsed rest; false if there is none."""
        if not self._chunks:
            return False
        chunk = self._chunks.popleft()
        self.queued_bytes -= len(chunk)
        if self._position >= len(self._data):
            self._data = chunk
            self._scanned = 0
        else:
            self._data = self._data[self._position :] + chunk
            self._scanned = max(0, self._scanned - self._position)
        self._position = 0
        self._frame_start = -1
        return True


def split_words(line: bytes) -> list[bytes] | None:
    r"""Split an inline request as Redis's ``sdssplitargs`` does; ``None`` if quotes do not match.

    Words are separated by blanks; ``"..."`` understands ``\n \r \t \b \a \xHH`` and escaped
    characters, ``'...'`` only ``\'``. A closing quote must be followed by a blank or the end.
    """
    words: list[bytes] = []
    i = 0
    end = len(line)
    while True:
        while i < end and line[i] in _BLANKS:
            i += 1
        if i >= end:
            return words
        word = bytearray()
        while i < end and line[i] not in _WORD_ENDS:
            c = line[i]
            if c in (34, 39):
                i = _quoted(line, i + 1, c, word)
                if i < 0:
                    return None
                break
            word.append(c)
            i += 1
        words.append(bytes(word))


# Redis skips more kinds of blanks between words than end one.
_BLANKS: Final = b" \t\n\r\v\f\0"
_WORD_ENDS: Final = b" \t\n\r\0"
_ESCAPES: Final = {110: 10, 114: 13, 116: 9, 98: 8, 97: 7}


def _quoted(line: bytes, i: int, quote: int, word: bytearray) -> int:
    """Read to the closing quote, which begins before `i`; the position after it, or -1."""
    end = len(line)
    while i < end:
        c = line[i]
        if c == quote:
            i += 1
            return i if i >= end or line[i] in _BLANKS else -1
        if c == 92 and i + 1 < end and (quote == 34 or line[i + 1] == 39):
            digits = line[i + 2 : i + 4]
            if quote == 34 and line[i + 1] == 120 and _is_hex(digits):
                word.append(int(digits, 16))
                i += 4
                continue
            escaped = line[i + 1]
            word.append(_ESCAPES.get(escaped, escaped) if quote == 34 else escaped)
            i += 2
            continue
        word.append(c)
        i += 1
    return -1


def _is_hex(digits: bytes) -> bool:
    return len(digits) == 2 and all(c in b"0123456789abcdefABCDEF" for c in digits)


def _bad_number(what: str) -> ProtocolError:
    return ProtocolError(f"Protocol error: invalid {what} length")


def _too_many_arguments(count: int) -> ProtocolError:
    if count > limits.ARGUMENTS_MAX:
        return _bad_number("multibulk")
    return ProtocolError("Protocol error: unauthenticated multibulk length")


def _bad_bulk_size(size: int, size_max: int) -> ProtocolError:
    if size > 0 and 0 < size_max <= limits.UNAUTHENTICATED_BULK_BYTES_MAX:
        return ProtocolError("Protocol error: unauthenticated bulk length")
    return _bad_number("bulk")


def _no_bulk(c: int) -> ProtocolError:
    return ProtocolError(f"Protocol error: expected '$', got '{_printable(c)}'")


def _printable(c: int) -> str:
    return chr(c) if 32 <= c < 127 else " "
