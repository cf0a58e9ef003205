"""The reply encoder: Python objects in, bytes to send out; no I/O.

`Outbox` holds what one connection still has to send. Small replies are gathered in one buffer;
large values are kept by reference, in memory or in a file, so that a reply of 100 MiB is never
copied.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pocketkv import limits
from pocketkv.resp.replies import (
    NO_REPLY,
    NULL_ARRAY,
    Encoded,
    ErrorReply,
    FileBulk,
    FileRange,
    Push,
    Reply,
    SetReply,
    Several,
    Simple,
    Verbatim,
)

_CRLF: Final = b"\r\n"
# Whole numbers below this are printed as such, whatever the digits.
_WHOLE_MAX: Final = 1e15
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


# Heads that nearly every reply has; making one costs more than the rest of a small reply.
_HEADS_MADE: Final = 1024
_BULK_HEADS: Final = [b"$%d\r\n" % size for size in range(_HEADS_MADE)]
_INTEGERS: Final = [b":%d\r\n" % number for number in range(_HEADS_MADE)]


class Outbox:
    """The unsent replies of one connection, in order.

    Attributes:
        protocol: 2 or 3, the RESP version that replies are encoded in.
        pending_bytes: Bytes that are not sent yet.
    """

    __slots__ = ("_head_sent", "_parts", "_segments", "_shared_bytes", "pending_bytes", "protocol")

    def __init__(self) -> None:
        self.protocol = 2
        self.pending_bytes = 0
        self._shared_bytes = limits.SHARED_REPLY_BYTES
        # Sealed pieces, then the small parts that are still to be joined to one.
        self._segments: deque[bytes | FileRange] = deque()
        self._parts: list[bytes] = []
        # How much of the first piece was sent.
        self._head_sent = 0

    def write(self, data: bytes) -> None:
        """Append bytes as they are; large ones by reference, so they must not change."""
        size = len(data)
        self.pending_bytes += size
        if size < self._shared_bytes:
            self._parts.append(data)
            return
        self._seal()
        self._segments.append(data)

    def _seal(self) -> None:
        if self._parts:
            self._segments.append(b"".join(self._parts))
            self._parts = []

    def pieces(self) -> list[memoryview]:
        """The next bytes to send, up to the next part of a file (`file_part`).

        At most `limits.SEND_PIECES_MAX` buffers of at most `limits.SEND_BYTES_PER_TURN` together,
        since the kernel goes on sending within one call for as long as the other side takes.
        """
        self._seal()
        views: list[memoryview] = []
        start = self._head_sent
        room_bytes = limits.SEND_BYTES_PER_TURN
        for segment in self._segments:
            if _is_file(segment):
                break
            view = _memory_of(segment, start, room_bytes)
            start = 0
            views.append(view)
            room_bytes -= len(view)
            if room_bytes <= 0 or len(views) == limits.SEND_PIECES_MAX:
                break
        return views

    def file_part(self) -> FileRange | None:
        """The part of a file that is to be sent next, if it is one's turn."""
        first = self._segments[0] if self._segments else None
        return first if type(first) is FileRange and first.fd >= 0 else None

    def file_follows(self, pieces: int) -> bool:
        """Whether a part of a file comes right after the first so many pieces."""
        segments = self._segments
        return len(segments) > pieces and _is_file(segments[pieces])

    @property
    def head_sent(self) -> int:
        """How much of what is to be sent next was sent already."""
        return self._head_sent

    def clear(self) -> None:
        """Forget everything: nobody is there to take it."""
        self._segments.clear()
        self._parts.clear()
        self._head_sent = 0
        self.pending_bytes = 0

    def take_back(self, count: int) -> None:
        """Forget the last `count` bytes, none of which were sent."""
        self.pending_bytes -= count
        while count > 0:
            pieces = self._parts or self._segments
            last = pieces.pop()
            size = len(last)
            if size > count:
                assert not isinstance(last, FileRange)  # Replies begin and end with bytes.
                pieces.append(last[: size - count])
            count -= size

    def all_bytes(self) -> bytes:
        """Everything that is to be sent, copied."""
        parts = [s.read() if isinstance(s, FileRange) else s for s in self._segments]
        return b"".join([*parts, *self._parts])[self._head_sent :]

    def take_small(self) -> bytes | None:
        """All that is to be sent, taken out, if it is small replies only; else ``None``.

        What the kernel does not take of it must be given back with `give_back`.
        """
        if self._segments:
            return None
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.pending_bytes = 0
        return data

    def give_back(self, rest: bytes) -> None:
        """The rest of what `take_small` gave was not sent."""
        self.pending_bytes += len(rest)
        self._segments.append(rest)

    def sent(self, count: int) -> None:
        """The first `count` bytes of `pieces` were sent."""
        self.pending_bytes -= count
        count += self._head_sent
        segments = self._segments
        while segments and count >= len(segments[0]):
            count -= len(segments.popleft())
        self._head_sent = count

    def encode(self, reply: Reply) -> None:
        """Append one reply, as the table in `pocketkv.resp.replies` says."""
        if type(reply) is bytes:
            self._bulk(reply)
        elif type(reply) is int:
            if 0 <= reply < _HEADS_MADE:
                self.write(_INTEGERS[reply])
            else:
                self.write(b":%d\r\n" % reply)
        elif reply is None:
            self.write(b"_\r\n" if self.protocol == 3 else b"$-1\r\n")
        elif type(reply) is Simple:
            simple = reply
            self.write(simple.encoded)
        elif type(reply) is list or type(reply) is tuple:
            self.write(b"*%d\r\n" % len(reply))
            for item in reply:
                self.encode(item)
        else:
            self._encode_rare(reply)

    def _encode_rare(self, reply: Reply) -> None:
        resp3 = self.protocol == 3
        if isinstance(reply, ErrorReply):
            self.write(b"-" + reply.text.translate(_LINE_BREAKS) + _CRLF)
        elif isinstance(reply, bytearray):
            # The value may change before it is sent, so it is copied here.
            self._bulk(bytes(reply))
        elif isinstance(reply, dict):
            self.write(b"%%%d\r\n" % len(reply) if resp3 else b"*%d\r\n" % (2 * len(reply)))
            for key, value in reply.items():
                self.encode(key)
                self.encode(value)
        elif isinstance(reply, set | frozenset | SetReply):
            members = reply.members if isinstance(reply, SetReply) else reply
            self.write(b"~%d\r\n" % len(members) if resp3 else b"*%d\r\n" % len(members))
            for member in members:
                self.encode(member)
        elif isinstance(reply, bool):
            if resp3:
                self.write(b"#t\r\n" if reply else b"#f\r\n")
            else:
                self.write(b":1\r\n" if reply else b":0\r\n")
        elif isinstance(reply, float):
            text = format_double(reply)
            if resp3:
                self.write(b"," + text + _CRLF)
            else:
                self._bulk(text)
        else:
            self._encode_marked(reply)

    def _encode_marked(self, reply: Reply) -> None:
        resp3 = self.protocol == 3
        if reply is NO_REPLY:
            return
        if reply is NULL_ARRAY:
            self.write(b"_\r\n" if resp3 else b"*-1\r\n")
        elif isinstance(reply, FileBulk):
            self._file_bulk(reply)
        elif isinstance(reply, Encoded):
            self.write(reply.raw)
        elif isinstance(reply, Verbatim):
            if resp3:
                self.write(b"=%d\r\n%b:" % (len(reply.text) + 4, reply.form))
                self.write(reply.text)
                self.write(_CRLF)
            else:
                self._bulk(reply.text)
        elif isinstance(reply, Push):
            self.write(b">%d\r\n" % len(reply.items) if resp3 else b"*%d\r\n" % len(reply.items))
            for item in reply.items:
                self.encode(item)
        elif isinstance(reply, Several):
            for one in reply.replies:
                self.encode(one)
        else:
            raise TypeError(f"not a reply: {reply!r}")

    def _file_bulk(self, reply: FileBulk) -> None:
        self.write(b"$%d\r\n" % reply.size)
        self._seal()
        self._segments.extend(reply.ranges)
        self.pending_bytes += reply.size
        self.write(_CRLF)

    def _bulk(self, value: bytes) -> None:
        size = len(value)
        head = _BULK_HEADS[size] if size < _HEADS_MADE else b"$%d\r\n" % size
        if size >= self._shared_bytes:
            self.write(head)
            self.write(value)
            self.write(_CRLF)
            return
        parts = self._parts
        parts.append(head)
        parts.append(value)
        parts.append(_CRLF)
        self.pending_bytes += len(head) + size + 2


def _is_file(segment: bytes | FileRange) -> bool:
    """Whether a segment is to be sent by its file's descriptor."""
    return type(segment) is FileRange and segment.fd >= 0


def _memory_of(segment: bytes | FileRange, start: int, size: int) -> memoryview:
    """A part of a segment, from `start` on and of at most `size`, where it stands in memory."""
    if isinstance(segment, FileRange):
        return segment.owner.view(segment.offset + start, min(size, segment.size - start))
    return memoryview(segment)[start : start + size]


def format_double(number: float) -> bytes:
    """A double as Redis 7.0 prints it: 17 significant digits, ``inf`` and ``nan`` by name."""
    if -_WHOLE_MAX < number < _WHOLE_MAX:
        # What scores mostly are; zero is left out, since it may have a sign.
        whole = int(number)
        if whole == number and whole != 0:
            return b"%d" % whole
    if number != number:
        return b"nan"
    if number in (float("inf"), float("-inf")):
        return b"inf" if number > 0 else b"-inf"
    return b"%.17g" % number


def encode_reply(reply: Reply, protocol: int) -> bytes:
    """One reply as bytes, for callers that keep it (a router's merged reply, a script's)."""
    outbox = Outbox()
    outbox.protocol = protocol
    outbox.encode(reply)
    return outbox.all_bytes()


def encode_request(arguments: list[bytes]) -> bytes:
    """A request as an array of bulks, as a client sends it."""
    parts = [b"*%d\r\n" % len(arguments)]
    parts.extend([b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments])
    return b"".join(parts)
