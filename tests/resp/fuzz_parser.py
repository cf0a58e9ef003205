"""A fuzz test of what reads bytes from others: the request parser and the scanner of replies.

    python -m tests.resp.fuzz_parser --seconds 60 [--seed 7]

Streams are made of what is known to be tricky, then mutated and cut at random. A parser may raise
`ProtocolError` and nothing else, it must agree with the slow reference parser, and what it holds
must not exceed what it was sent by more than its first buffer for a large argument.
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
from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import RequestParser
from tests.resp import reference
from tests.resp.support import pieces, receive, take

SEEDS: tuple[bytes, ...] = (
    b"*1\r\n$4\r\nPING\r\n",
    b"*0\r\n*-1\r\nPING\r\n",
    b"SET key 'va\\'lue' \"a\\x41\\n\"\r\n",
    b"\r\n\n \t\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n",
    b"*2\r\n$536870912\r\n",
    b"*1048576\r\n$1\r\n",
    b"*1\r\n$-1\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    encode_request([b"SET", b"k", b"\r\n$1\r\n" * 4000]),
    encode_request([b"x" * 16_383, b"y" * 16_384, b"z" * 16_385]),
    b"a" * 65_536 + b"\r\n",
    b"*2\r\n+a\r\n%1\r\n$1\r\nk\r\n~2\r\n:1\r\n#t\r\n",
    b">2\r\n$1\r\na\r\n|1\r\n+t\r\n:1\r\n_\r\n",
    b"$-1\r\n*-1\r\n=7\r\ntxt:abc\r\n,1.5\r\n(123\r\n",
)
TOKENS: tuple[bytes, ...] = (
    *b"* $ - + : 0 1 2 3 16384 536870913 1048577 99999999999999999999 ' \" \\ \\x".split(),
    *(b"\r\n", b"\r", b"\n", b" ", b"\0", b"\v"),
)


class FoundError(Exception):
    """A stream that is not handled as it must be."""


def mutated(stream: bytes, dice: random.Random) -> bytes:
    """The stream with a few changes."""
    changed = bytearray(stream)
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(changed) + 1)
        length = dice.choice((1, 1, 1, 2, 5, 1000))
        change = dice.randrange(5)
        if change == 0:
            changed[place:place] = dice.choice(TOKENS)
        elif change == 1:
            del changed[place : place + length]
        elif change == 2:
            changed[place : place + 1] = dice.randbytes(1)
        elif change == 3:
            changed[place:place] = changed[place : place + length]
        else:
            changed[place : place + 1] = dice.choice(TOKENS)
    return bytes(changed)


def make_stream(dice: random.Random) -> bytes:
    """A stream that is mostly right."""
    parts = [mutated(dice.choice(SEEDS), dice) for _ in range(dice.randint(1, 4))]
    return b"".join(parts)


def make_cuts(stream: bytes, dice: random.Random) -> list[bytes]:
    """The stream in pieces, small ones or large ones."""
    if len(stream) < 300 and dice.randrange(4) == 0:
        return [bytes([byte]) for byte in stream]
    count = dice.choice((0, 1, 2, 5, 30))
    return pieces(stream, [dice.randrange(len(stream) + 1) for _ in range(count)])


def check_requests(chunks: list[bytes]) -> None:
    """Parse a stream of requests.

    Raises:
        FoundError: It is parsed wrongly, or costs too much.
    """
    parser = RequestParser()
    requests: list[list[bytes]] = []
    error = None
    sent_bytes = 0
    for chunk in chunks:
        receive(parser, chunk)
        sent_bytes += len(chunk)
        more, error = take(parser)
        requests += more
        if error is not None:
            break
        if parser.buffered_bytes() > 2 * sent_bytes + limits.LARGE_BULK_FIRST_BYTES:
            raise FoundError(f"holds {parser.buffered_bytes()} of {sent_bytes} bytes")
    result = reference.parse(b"".join(chunks))
    if (requests, error) != (result.requests, result.error):
        raise FoundError(f"{(requests, error)!r:.500} is not {result!r:.500}")


def check_replies(chunks: list[bytes]) -> None:
    """Cut a stream of replies into frames.

    Raises:
        FoundError: Bytes are lost, or made up.
    """
    scanner = FrameScanner()
    frames = b""
    sent = b""
    try:
        for chunk in chunks:
            scanner.feed(chunk)
            sent += chunk
            while isinstance(frame := scanner.next_frame(), bytes):
                frames += frame
            if len(frames) + scanner.buffered_bytes != len(sent):
                raise FoundError(f"{len(sent)} bytes became {len(frames)}")
    except ProtocolError:
        pass
    if not sent.startswith(frames):
        raise FoundError("the frames are not what was sent")


def run(seed: int, *, seconds: float = 0.0, streams: int = 0) -> int:
    """Try streams until both `seconds` have passed and so many `streams` were tried; how many.

    Raises:
        FoundError: One was not handled as it must be; the message says which.
    """
    dice = random.Random(seed)
    end_s = time.monotonic() + seconds
    tried = 0
    while tried < streams or time.monotonic() < end_s:
        stream = make_stream(dice)
        chunks = make_cuts(stream, dice)
        for check in (check_requests, check_replies):
            try:
                check(chunks)
            except Exception as error:
                sizes = [len(chunk) for chunk in chunks]
                where = f"seed {seed}, stream {tried}, {check.__name__}"
                raise FoundError(f"{where}: {error!r}\nsizes: {sizes}\n{stream!r}") from error
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
