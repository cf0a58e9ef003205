"""A second, slow parser of requests, written from the protocol and with nothing of ours in it.

It looks at the whole stream from its beginning, so it has no state that could go wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NUMBER = re.compile(rb"(-?)([0-9]*)")
DIGITS_MAX = 19
LINE_BYTES_MAX = 65536


@dataclass
class Bounds:
    arguments_max: int = 1024 * 1024
    bulk_bytes_max: int = 512 * 1024 * 1024
    request_bytes_max: int = 1024 * 1024 * 1024
    authenticated: bool = True


@dataclass
class Result:
    requests: list[list[bytes]] = field(default_factory=list)
    error: str | None = None


class BrokenError(Exception):
    pass


class IncompleteError(Exception):
    pass


def parse(stream: bytes, bounds: Bounds | None = None) -> Result:
    """All whole requests of a stream, and the error that it ends in, if it does."""
    bounds = bounds or Bounds()
    result = Result()
    position = 0
    try:
        while position < len(stream):
            if stream[position : position + 1] == b"*":
                request, position = _array(stream, position, bounds)
            else:
                request, position = _line(stream, position)
            if request:
                result.requests.append(request)
    except IncompleteError:
        pass
    except BrokenError as error:
        result.error = f"Protocol error: {error}"
    return result


def _array(stream: bytes, position: int, bounds: Bounds) -> tuple[list[bytes], int]:
    count, position = _number(stream, position + 1, "multibulk")
    if count > 1024 * 1024:
        raise BrokenError("invalid multibulk length")
    if count > bounds.arguments_max:
        raise BrokenError("unauthenticated multibulk length")
    request: list[bytes] = []
    while len(request) < count:
        if position >= len(stream):
            raise IncompleteError
        if stream[position : position + 1] != b"$":
            got = chr(stream[position]) if 32 <= stream[position] < 127 else " "
            raise BrokenError(f"expected '$', got '{got}'")
        size, position = _number(stream, position + 1, "bulk")
        if size < 0:
            raise BrokenError("invalid bulk length")
        if size > bounds.bulk_bytes_max:
            raise BrokenError(
                f"{'invalid' if bounds.authenticated else 'unauthenticated'} bulk length"
            )
        if sum(map(len, request)) + size > bounds.request_bytes_max:
            raise BrokenError("too big request")
        if len(stream) < position + size + 2:
            raise IncompleteError
        if stream[position + size : position + size + 2] != b"\r\n":
            raise BrokenError("expected CRLF after a bulk")
        request.append(stream[position : position + size])
        position += size + 2
    return request, position


def _number(stream: bytes, position: int, what: str) -> tuple[int, int]:
    match = NUMBER.match(stream, position)
    assert match is not None
    sign, digits = match.groups()
    end = match.end()
    if len(digits) > DIGITS_MAX:
        raise BrokenError(f"invalid {what} length")
    if end == len(stream):
        raise IncompleteError
    strict = re.fullmatch(rb"0|-?[1-9][0-9]*", sign + digits)
    if strict is None or not b"\r\n".startswith(stream[end : end + 2]):
        raise BrokenError(f"invalid {what} length")
    if stream[end : end + 2] != b"\r\n":
        raise IncompleteError
    return int(sign + digits), end + 2


def _line(stream: bytes, position: int) -> tuple[list[bytes], int]:
    line, newline, _ = stream[position:].partition(b"\n")
    if len(line) > LINE_BYTES_MAX:
        raise BrokenError("too big inline request")
    if not newline:
        raise IncompleteError
    return words(line.removesuffix(b"\r")), position + len(line) + 1


# The line is followed by a zero byte. Nothing is given back once it matched (`*+`).
WORD = re.compile(
    rb"""[ \t\n\r\v\f\0]*+
    (?P<bare> [^ \t\n\r\0"']*+ )
    (?: " (?P<double> (?: \\ . | [^"\\] )*+ ) " (?= [ \t\n\r\v\f\0] )
      | ' (?P<single> (?: \\' | [^'] )*+ ) ' (?= [ \t\n\r\v\f\0] )
      | (?= [ \t\n\r\0] )
    )""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def words(line: bytes) -> list[bytes]:
    found: list[bytes] = []
    position = 0
    while line[position:].strip(b" \t\n\r\v\f\0"):
        match = WORD.match(line + b"\0", position)
        if match is None or match.end() > len(line):
            raise BrokenError("unbalanced quotes in request")
        word = match["bare"]
        if match["double"] is not None:
            word += ESCAPE.sub(_unescaped, match["double"])
        if match["single"] is not None:
            word += match["single"].replace(b"\\'", b"'")
        found.append(word)
        position = match.end()
    return found


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return NAMED.get(match[2], match[2])
