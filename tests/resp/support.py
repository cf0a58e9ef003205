"""What the tests of the protocol share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.parser import NEED_DATA, SKIPPED, RequestParser
from pocketkv.resp.replies import Marker


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data`, cut at these positions; those outside of it do not matter."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


def receive(parser: RequestParser, data: bytes) -> None:
    """Give a parser bytes as a connection does: into its own buffer while it asks for that."""
    position = 0
    while position < len(data):
        view = parser.writable()
        if view is None:
            parser.feed(data[position:])
            return
        with view:
            count = min(len(view), len(data) - position)
            view[:count] = data[position : position + count]
        parser.wrote(count)
        position += count
        if position < len(data) and parser.writable() is None:
            # The rest belongs to the stream; the connection would parse before it goes on.
            parser.feed(data[position:])
            return


def take(parser: RequestParser) -> tuple[list[list[bytes]], str | None]:
    """All requests that a parser has, and what it says is broken."""
    requests: list[list[bytes]] = []
    while True:
        try:
            request = parser.next_request()
        except ProtocolError as error:
            return requests, str(error)
        if request is SKIPPED:
            continue
        if isinstance(request, Marker):
            assert request is NEED_DATA
            return requests, None
        requests.append(request)


def parse(
    chunks: Iterable[bytes], parser: RequestParser | None = None
) -> tuple[list[list[bytes]], str | None]:
    """The requests of a stream that arrives in these pieces, and the error that it ends in."""
    parser = parser or RequestParser()
    requests: list[list[bytes]] = []
    for chunk in chunks:
        receive(parser, chunk)
        more, error = take(parser)
        requests += more
        if error is not None:
            return requests, error
    return requests, None
