"""One reply out of several servers' replies, without decoding what is in them; no I/O.

Replies are raw frames, all in one protocol version. An error among them is not for here.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.commands import Merge
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.frames import FrameScanner

_COLON: Final = 58
_STAR: Final = 42
_TILDE: Final = 126
_OK_FRAME: Final = b"+OK\r\n"


def merge_frames(kind: Merge, frames: list[bytes], places: list[list[int]]) -> bytes:
    """The reply to a command that was split.

    Args:
        kind: How its record says that replies become one.
        frames: The servers' replies.
        places: For each reply, which of the command's keys it is about; for `Merge.POSITIONS`.

    Raises:
        ProtocolError: A reply is not of the form that the command has.
    """
    if kind is Merge.SUM:
        return b":%d\r\n" % sum(map(_integer, frames))
    if kind is Merge.OK:
        # Whatever is not OK and not an error (a server that queued it, say) must not pass for it.
        if any(frame != _OK_FRAME for frame in frames):
            raise ProtocolError("expected OK from every server")
        return _OK_FRAME
    if kind is Merge.CONCAT:
        return _concatenated(frames)
    if kind is Merge.POSITIONS:
        return _placed(frames, places)
    if len(frames) == 1:
        return frames[0]
    raise ProtocolError("replies that cannot be merged")


def elements_of(frame: bytes) -> list[bytes]:
    """The elements of an array or set, each a frame.

    Raises:
        ProtocolError: It is neither, or does not have as many as it says.
    """
    _, count, body = _opened(frame)
    scanner = FrameScanner()
    scanner.feed(body)
    elements = []
    for _ in range(count):
        element = scanner.next_frame()
        if not isinstance(element, bytes):
            raise ProtocolError("an array with too few elements")
        elements.append(element)
    return elements


def _integer(frame: bytes) -> int:
    if frame[0] != _COLON:
        raise ProtocolError("expected an integer from every server")
    return int(frame[1:-2])


def _opened(frame: bytes) -> tuple[int, int, bytes]:
    """Kind, number of elements and elements of an array or set."""
    head = frame.find(b"\r\n")
    digits = frame[1:head]
    if frame[0] not in (_STAR, _TILDE) or not digits.isdigit():
        raise ProtocolError("expected an array from every server")
    return frame[0], int(digits), frame[head + 2 :]


def _concatenated(frames: list[bytes]) -> bytes:
    opened = [_opened(frame) for frame in frames]
    total = sum(count for _, count, _ in opened)
    return b"".join([b"%c%d\r\n" % (opened[0][0], total), *(body for _, _, body in opened)])


def _placed(frames: list[bytes], places: list[list[int]]) -> bytes:
    placed: dict[int, bytes] = {}
    for frame, own_places in zip(frames, places, strict=True):
        elements = elements_of(frame)
        if len(elements) != len(own_places):
            raise ProtocolError("an array with too few or too many elements")
        placed.update(zip(own_places, elements, strict=True))
    ordered = [placed[place] for place in range(len(placed))]
    return b"".join([b"*%d\r\n" % len(ordered), *ordered])
