"""What goes over the wire between a router and a storage server; no I/O.

A request goes on as the client sent it where it came in one piece; others are encoded anew here.
"""

from __future__ import annotations

from typing import Final

from pocketkv import limits
from pocketkv.resp.encoder import Outbox, encode_request
from pocketkv.resp.errors import ProtocolError

_MINUS: Final = 45
_CRLF: Final = b"\r\n"
_OVERHEAD_BYTES: Final = limits.UPSTREAM_REQUEST_OVERHEAD_BYTES


def request_cost(request: list[bytes], frame: bytes | None) -> int:
    """What a request under way costs the router, in bytes."""
    if frame is not None:
        return _OVERHEAD_BYTES + len(frame)
    return _OVERHEAD_BYTES + sum(map(len, request))


def write_request(outbox: Outbox, request: list[bytes], cost_bytes: int) -> None:
    """Append a request to what is to be sent; large arguments by reference, not by copy."""
    if cost_bytes < limits.SHARED_REPLY_BYTES:
        outbox.write(encode_request(request))
        return
    outbox.write(b"*%d\r\n" % len(request))
    for argument in request:
        if len(argument) < limits.SHARED_REPLY_BYTES:
            outbox.write(b"$%d\r\n%b\r\n" % (len(argument), argument))
        else:
            outbox.write(b"$%d\r\n" % len(argument))
            outbox.write(argument)
            outbox.write(_CRLF)


def is_error(frame: bytes) -> bool:
    """Whether a reply is an error."""
    return frame[0] == _MINUS


def error_text(frame: bytes) -> bytes:
    """The text of an error reply, its code first."""
    return frame[1:-2]


def bulk_body(frame: bytes) -> bytes:
    """The bytes of a bulk, or of a verbatim string without its format.

    Raises:
        ProtocolError: The frame is neither.
    """
    head = frame.find(_CRLF)
    if frame[:1] == b"$" and head > 0 and frame[1:2] != b"-":
        return frame[head + 2 : -2]
    if frame[:1] == b"=" and head > 0:
        return frame[head + 6 : -2]
    raise ProtocolError("Protocol error: expected a bulk")


def push_items(frame: bytes) -> list[bytes | None]:
    """The items of a message that is a flat list of bulks, numbers and nulls, as bytes.

    Raises:
        ProtocolError: It is something else.
    """
    items: list[bytes | None] = []
    position = frame.find(_CRLF) + 2
    while 0 < position < len(frame):
        end = frame.find(_CRLF, position)
        kind, line = frame[position : position + 1], frame[position + 1 : end]
        position = end + 2
        if kind == b"$" and line.isdigit():
            items.append(frame[position : position + int(line)])
            position += int(line) + 2
        elif kind in b":+":
            items.append(line)
        elif kind == b"_":
            items.append(None)
        elif kind not in b"*":
            raise ProtocolError("Protocol error: a message with something else in it")
    if not items:
        raise ProtocolError("Protocol error: an empty message")
    return items
