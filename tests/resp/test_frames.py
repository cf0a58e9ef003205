"""Where replies end, however the stream is cut, and what is no stream of replies."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import NEED_DATA
from tests.resp.support import pieces
from tests.resp.test_encoder import REPLIES

LARGE = bytes(range(256)) * 300


def take(scanner: FrameScanner) -> list[bytes]:
    frames = []
    while isinstance(frame := scanner.next_frame(), bytes):
        frames.append(frame)
    assert frame is NEED_DATA
    return frames


def scan(chunks: Iterable[bytes]) -> list[bytes]:
    scanner = FrameScanner()
    frames = []
    for chunk in chunks:
        scanner.feed(chunk)
        frames += take(scanner)
    return frames


FRAMES = [
    b"+OK\r\n",
    b"+\r\n",
    b"-MOVED 1 127.0.0.1:7000\r\n",
    b":-12\r\n",
    b"_\r\n",
    b",1.5e3\r\n",
    b"#t\r\n",
    b"(12345678901234567890123\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"$4\r\n\r\n\r\n\r\n",
    b"$%d\r\n%b\r\n" % (len(LARGE), LARGE),
    b"=7\r\ntxt:abc\r\n",
    b"!5\r\nERR x\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n:1\r\n*2\r\n$-1\r\n*-1\r\n",
    b"*3\r\n*0\r\n*0\r\n*1\r\n*1\r\n+a\r\n",
    b"%0\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n*1\r\n_\r\n",
    b"~2\r\n$1\r\na\r\n$1\r\nb\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n+OK\r\n",
    b"*2\r\n|1\r\n+ttl\r\n:3600\r\n:1\r\n:2\r\n",
    b"*1\r\n$%d\r\n%b\r\n" % (len(LARGE), LARGE),
]


def test_whole() -> None:
    assert scan([b"".join(FRAMES)]) == FRAMES


def test_byte_by_byte() -> None:
    assert scan(bytes([byte]) for byte in b"".join(FRAMES)) == FRAMES


def test_byte_by_byte_and_looked_at_once() -> None:
    scanner = FrameScanner()
    for byte in b"".join(FRAMES):
        scanner.feed(bytes([byte]))
    assert take(scanner) == FRAMES


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: repr(frame[:20]))
def test_cut_anywhere_into_two(frame: bytes) -> None:
    places = range(1, len(frame))
    for place in (*places[:100], *places[-100:], *places[100:-100:997]):
        assert scan([frame[:place], frame[place:] + frame[:place], frame[place:]]) == [frame] * 2


@given(st.lists(REPLIES, max_size=4), st.sampled_from([2, 3]), st.lists(st.integers(0, 400)))
def test_random_replies_at_random_cuts(replies: list[Any], protocol: int, cuts: list[int]) -> None:
    frames = [encode_reply(reply, protocol) for reply in replies]
    assert scan(pieces(b"".join(frames), cuts)) == frames


@given(st.lists(st.sampled_from(FRAMES), max_size=10), st.integers(1, 50))
def test_frames_are_what_a_client_reads(frames: list[bytes], step: int) -> None:
    stream = b"".join(frame for frame in frames if frame[:1] not in b"|!" and b"|" not in frame)
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    reader.feed(stream)
    expected = 0
    while reader.gets() is not Ellipsis:
        expected += 1
    assert len(scan(pieces(stream, range(step, len(stream), step)))) == expected


def test_what_is_held_is_counted() -> None:
    scanner = FrameScanner()
    frame = b"*3\r\n:1\r\n$5\r\nabcde\r\n:2\r\n"
    for end in range(len(frame)):
        assert scanner.buffered_bytes == end
        scanner.feed(frame[end : end + 1])
        if end + 1 < len(frame):
            assert scanner.next_frame() is NEED_DATA
    assert scanner.next_frame() == frame
    assert scanner.buffered_bytes == 0


# --- what is no stream of replies --------------------------------------------------------------

BROKEN = [
    b"HTTP/1.1 400 Bad Request\r\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"\x16\x03\x01",
    b"\r\n",
    b"@1\r\n",
    b"$x\r\n",
    b"$-2\r\n",
    b"$+1\r\n",
    b"$ 1\r\n",
    b"$\r\n",
    b"*\r\n",
    b"*1x\r\n",
    b"%-\r\n",
    b"~1_0\r\n",
    b"*\xb2\r\n",
    b"$99999999999999999999\r\n",
    b"*4294967296\r\n",
    b"*2147483648\r\n",
    b"%1500000000\r\n",
    b"$" + b"9" * 5000 + b"\r\n",
    b"*1\r\nabc\r\n",
    b"*2\r\n:1\r\n\r\n:2\r\n",
    b"$3\r\nabcde\r\n",
    b"*1\r\n$1\r\nabc\r\n",
    b"$3\r\nabcXX+OK\r\n",
    b"$-1\n:1\r\n",
]


def is_broken(chunks: Iterable[bytes]) -> bool:
    try:
        scan(chunks)
    except ProtocolError as error:
        return str(error).startswith("Protocol error: ")
    return False


@pytest.mark.parametrize("stream", BROKEN, ids=lambda stream: repr(stream[:20]))
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    assert is_broken([stream])
    assert is_broken(bytes([byte]) for byte in stream)


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_random_bytes_raise_nothing_else(chunks: list[bytes]) -> None:
    is_broken(chunks)


@given(
    st.lists(
        st.sampled_from([b"*2", b"$3", b"%1", b"|1", b":", b"+a", b"\r\n", b"\r", b"-1", b"x"]),
        max_size=30,
    )
)
def test_random_protocol_raises_nothing_else(chunks: list[bytes]) -> None:
    is_broken(chunks)


# --- cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [b"+", b"-", b":", b"*1\r\n+", b"$", b"*"])
def test_an_endless_line_is_refused(head: bytes) -> None:
    chunks = [head, *[b"1" * 1000] * 100]
    assert is_broken(chunks)


@pytest.mark.parametrize(
    "endless", [b"*1\r\n", b"*2\r\n:1\r\n", b"%1\r\n+a\r\n", b"|1\r\n:1\r\n:2\r\n"]
)
def test_an_endless_reply_is_refused(monkeypatch: pytest.MonkeyPatch, endless: bytes) -> None:
    monkeypatch.setattr(limits, "REPLY_BYTES_MAX", 200_000)
    scanner = FrameScanner()

    def receive() -> None:
        for _ in range(1000):
            scanner.feed(endless * 100)
            assert scanner.next_frame() is NEED_DATA

    with pytest.raises(ProtocolError, match="too big"):
        receive()
    assert scanner.buffered_bytes < 300_000


def test_a_reply_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_BYTES_MAX", 1000)
    fits = b"*2\r\n$400\r\n" + bytes(400) + b"\r\n$400\r\n" + bytes(400) + b"\r\n"
    assert scan([fits * 3]) == [fits] * 3
    assert is_broken([b"$1000\r\n"])
    assert is_broken([b"*2\r\n$400\r\n" + bytes(400) + b"\r\n$600\r\n"])
    assert is_broken([b"*400\r\n"])


def test_announcing_much_reserves_nothing() -> None:
    tracemalloc.start()
    try:
        for stream in (b"*100000000\r\n", b"$536870912\r\n", b"%100000000\r\n:1\r\n"):
            assert scan([stream]) == []
        assert tracemalloc.get_traced_memory()[1] < 64 * limits.KIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"*32768\r\n" + (b"$1000\r\n" + bytes(1000) + b"\r\n") * 32768, id="array"),
        pytest.param(b"$%d\r\n" % (32 * limits.MIB) + bytes(32 * limits.MIB) + b"\r\n", id="bulk"),
    ],
)
def test_time_grows_with_the_size_only(frame: bytes) -> None:
    started_s = time.process_time()
    assert scan(pieces(frame, range(4096, len(frame), 4096))) == [frame]
    # Copying all that is there with every piece would move 130 GB.
    assert time.process_time() - started_s < 5.0


# --- long replies that are passed on before they are whole -------------------------------------

LONG = [frame for frame in FRAMES if len(frame) > limits.STREAMED_REPLY_BYTES]
VERY_LONG = b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (3 * len(LARGE), 3 * LARGE, len(LARGE), LARGE)


def passed_on(scanner: FrameScanner, chunks: Iterable[bytes]) -> list[bytes]:
    """The frames, each of what was taken of it before it was whole, and its rest."""
    frames = []
    taken: list[bytes] = []
    for chunk in chunks:
        scanner.feed(chunk)
        for frame in take(scanner):
            frames.append(b"".join([*taken, frame]))
            taken.clear()
        if scanner.begun_bytes:
            taken += scanner.take_begun()
        assert scanner.begun_bytes == 0
    assert not taken
    return frames


@given(
    st.lists(st.sampled_from([*FRAMES, VERY_LONG]), max_size=8),
    st.lists(st.integers(0, 400_000), max_size=60),
)
def test_what_is_taken_early_and_the_rest_are_the_frame(
    frames: list[bytes], cuts: list[int]
) -> None:
    scanner = FrameScanner()
    assert passed_on(scanner, pieces(b"".join(frames), cuts)) == frames
    assert scanner.buffered_bytes == 0


def test_a_long_frame_passes_without_being_held() -> None:
    scanner = FrameScanner()
    chunks = pieces(VERY_LONG, range(1000, len(VERY_LONG), 1000))
    for chunk in chunks[:-1]:
        scanner.feed(chunk)
        assert scanner.next_frame() is NEED_DATA
        scanner.take_begun()
        assert scanner.buffered_bytes < 1000
    scanner.feed(chunks[-1])
    assert scanner.next_frame() == chunks[-1]
    assert scanner.kind == VERY_LONG[0]


@pytest.mark.parametrize("frame", [*LONG, VERY_LONG], ids=["bulk", "array", "bulks"])
@pytest.mark.parametrize("size", [1, 1000, 65536, 1 << 20])
def test_a_bulk_may_go_another_way(frame: bytes, size: int) -> None:
    scanner = FrameScanner()
    begun = limits.STREAMED_REPLY_BYTES // 2
    scanner.feed(frame[:begun])
    assert scanner.next_frame() is NEED_DATA
    seen = b"".join(scanner.take_begun())
    assert seen == frame[:begun]
    while scanner.bulk_missing > 2:
        count = min(size, scanner.bulk_missing - 2)
        rest = memoryview(frame)[len(seen) : len(seen) + count]
        assert scanner.skip_bulk(rest) is False
        seen += rest
    is_whole = scanner.skip_bulk(memoryview(frame)[len(seen) : len(seen) + 2])
    seen += frame[len(seen) : len(seen) + 2]
    assert is_whole == (seen == frame)
    scanner.feed(frame[len(seen) :] + b"+next\r\n")
    if not is_whole:
        assert seen + bytes(scanner.next_frame()) == frame  # type: ignore[arg-type]
    assert scanner.next_frame() == b"+next\r\n"


@pytest.mark.parametrize("end", [b"\r\r", b"\n\n", b"xx", b"\n\r"])
def test_a_bulk_that_goes_another_way_has_its_end(end: bytes) -> None:
    scanner = FrameScanner()
    head = b"$%d\r\n" % len(LARGE)
    scanner.feed(head + LARGE[:10])
    assert scanner.next_frame() is NEED_DATA
    scanner.take_begun()
    with pytest.raises(ProtocolError, match="expected CRLF"):
        scanner.skip_bulk(memoryview(LARGE[10:] + end))


def test_what_was_taken_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_BYTES_MAX", 2 * len(LARGE))
    frame = b"*9\r\n" + (b"$%d\r\n" % len(LARGE) + LARGE + b"\r\n") * 9
    chunks = pieces(frame, range(1000, len(frame), 1000))
    assert is_broken(chunks)
    assert passed_on(FrameScanner(), chunks) == [frame]
