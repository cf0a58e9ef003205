"""A fuzz test of what the parser does beside parsing: frames, and sinks of large arguments.

    python -m tests.compiled.fuzz_frames --seconds 60 [--seed 7]

The same streams as in `tests.resp.fuzz_parser`, with large arguments among them. However a stream
is cut, and wherever its large arguments go, the requests are those of the slow reference parser; a
frame is what the client sent for just this request; and every sink ends in exactly one way.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA, SKIPPED, RequestParser
from tests.resp import reference
from tests.resp.fuzz_parser import FoundError, make_cuts, make_stream
from tests.resp.support import receive

LARGE_BYTES = limits.EXTENT_BYTES_MIN
SIZES = (LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES, limits.MIB + 5)


class Stored(bytes):
    """An argument that went through a sink."""


class PieceSink:
    """Receives into pieces of random size, as an extent that is found in parts does."""

    def __init__(self, sinks: Sinks, size: int) -> None:
        self._sinks = sinks
        self._size = size
        self._pieces: list[bytearray] = []
        self._filled = 0
        self._is_over = False

    @property
    def buffered_bytes(self) -> int:
        return sum(map(len, self._pieces))

    def writable(self) -> memoryview:
        if not self._pieces or self._filled == len(self._pieces[-1]):
            missing = self._size - self.buffered_bytes
            if missing == 0:
                raise FoundError("a sink that is full is asked for room")
            room = min(missing, self._sinks.dice.choice((1, 100, 5000, LARGE_BYTES, missing)))
            self._pieces.append(bytearray(room))
            self._filled = 0
        return memoryview(self._pieces[-1])[self._filled :]

    def wrote(self, count: int) -> None:
        self._filled += count
        if self._filled > len(self._pieces[-1]):
            raise FoundError("more was written than there is room")

    def finish(self) -> Stored:
        self._end()
        stored = Stored(b"".join(self._pieces))
        if len(stored) != self._size or self._filled != len(self._pieces[-1]):
            raise FoundError(f"finished with {len(stored)} of {self._size} bytes")
        return stored

    def abort(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._is_over:
            raise FoundError("a sink is ended twice")
        self._is_over = True
        self._sinks.under_way -= 1


class Sinks:
    """Opens sinks for some large arguments, and leaves others to the parser."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.under_way = 0

    def open(self, arguments: list[bytes], size: int) -> PieceSink | None:
        if size < LARGE_BYTES:
            raise FoundError(f"a sink is asked for {size} bytes")
        if self.dice.randrange(4) == 0:
            return None
        self.under_way += 1
        return PieceSink(self, size)


def make_large_stream(dice: random.Random) -> bytes:
    """A stream with large arguments, whole ones and at its end perhaps a part of one."""
    parts = []
    for _ in range(dice.randint(1, 3)):
        large = dice.randbytes(64) * (dice.choice(SIZES) // 64 + 1)
        large = large[: dice.choice(SIZES)]
        arguments = [b"SET", b"k", large, b"x"][: dice.randint(3, 4)]
        parts.append(encode_request(dice.sample(arguments, len(arguments))))
        parts.append(make_stream(dice) if dice.randrange(2) else b"")
    stream = b"".join(parts)
    return stream[: dice.randrange(len(stream))] if dice.randrange(3) == 0 else stream


def check(chunks: list[bytes], dice: random.Random) -> None:
    """Parse a stream with frames and sinks.

    Raises:
        FoundError: It is parsed wrongly.
    """
    stream = b"".join(chunks)
    sinks = Sinks(dice)
    parser = RequestParser()
    parser.keep_frames = True
    parser.sinks = sinks
    requests: list[list[bytes]] = []
    error = None
    position = 0
    for chunk in chunks:
        receive(parser, chunk)
        while error is None:
            try:
                request = parser.next_request()
            except ProtocolError as met:
                error = str(met)
                break
            if request is NEED_DATA:
                break
            if request is SKIPPED:
                continue
            assert isinstance(request, list)
            requests.append(request)
            if parser.frame is not None:
                position = _check_frame(stream, position, parser.frame, request)
        if error is not None:
            break
    _check_result(stream, requests, error)
    if sinks.under_way > 1:
        raise FoundError(f"{sinks.under_way} sinks are under way at once")
    parser.abort()
    if sinks.under_way:
        raise FoundError("a sink is neither finished nor aborted")


def _check_frame(stream: bytes, position: int, frame: bytes, request: list[bytes]) -> int:
    """Where the stream goes on behind a frame."""
    found = stream.find(frame, position)
    alone = reference.parse(frame)
    if found < 0 or alone.requests != [request] or alone.error is not None:
        raise FoundError(f"{frame!r:.200} is not the frame of {request!r:.200}")
    if any(isinstance(argument, Stored) for argument in request):
        raise FoundError("a frame has an argument that is stored already")
    return found + len(frame)


def _check_result(stream: bytes, requests: list[list[bytes]], error: str | None) -> None:
    result = reference.parse(stream)
    if (requests, error) != (result.requests, result.error):
        raise FoundError(f"{(requests, error)!r:.500} is not {result!r:.500}")


def run(seed: int, *, seconds: float = 0.0, streams: int = 0) -> int:
    """Try streams until both `seconds` have passed and so many `streams` were tried; how many.

    Raises:
        FoundError: One was not handled as it must be; the message says which.
    """
    dice = random.Random(seed)
    end_s = time.monotonic() + seconds
    tried = 0
    while tried < streams or time.monotonic() < end_s:
        stream = make_large_stream(dice) if dice.randrange(2) else make_stream(dice)
        chunks = make_cuts(stream, dice)
        try:
            check(chunks, dice)
        except Exception as error:
            sizes = [len(chunk) for chunk in chunks]
            raise FoundError(f"seed {seed}, stream {tried}: {error!r}, sizes {sizes}") from error
        tried += 1
    return tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 if something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    sys.stdout.write(f"seed {seed}\n")
    try:
        tried = run(seed, seconds=options.seconds)
    except FoundError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{tried} streams, nothing found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
