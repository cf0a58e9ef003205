from __future__ import annotations

import pytest

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.parser import RequestParser
from pocketkv.resp.replies import Marker
from tests.compiled import fuzz_frames
from tests.resp.support import take


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found(seed: int) -> None:
    assert fuzz_frames.run(seed, streams=100) == 100


def test_it_runs_for_a_time_and_tells_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_frames.main(["--seconds", "0.05", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("seed 7\n")
    assert "nothing found" in shown


def test_many_large_arguments_may_be_queued() -> None:
    # As after a client's replies could not be sent for a while: each begins in one piece of what
    # was received, and ends in another.
    large = b"v" * limits.LARGE_BULK_BYTES
    request = [b"MSET", *[large] * 3000]
    stream = encode_request(request)
    parser = RequestParser()
    parser.feed(b"PING\r\n")
    step = len(large) + 1
    for start in range(0, len(stream), step):
        parser.feed(stream[start : start + step])
    assert take(parser) == ([[b"PING"], request], None)


class Late(RequestParser):
    """A frame is that of the request before."""

    def next_request(self) -> list[bytes] | Marker:
        before = self.frame
        request = super().next_request()
        if before is not None and self.frame is not None:
            self.frame = before
        return request


class Short(RequestParser):
    def next_request(self) -> list[bytes] | Marker:
        request = super().next_request()
        if self.frame is not None:
            self.frame = self.frame[:-1]
        return request


class Leaking(RequestParser):
    """A sink is forgotten when the connection goes."""

    def abort(self) -> None:
        pass


class Eager(RequestParser):
    """A small argument gets a sink."""

    def feed(self, data: bytes) -> None:
        super().feed(data)
        if self.sinks is not None and data.startswith(b"*"):
            self.sinks.open([b"SET"], 5)


@pytest.mark.parametrize("defect", [Late, Short, Leaking, Eager])
def test_a_defect_is_found(
    defect: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz_frames, "RequestParser", defect)
    assert fuzz_frames.main(["--seconds", "5", "--seed", "1"]) == 1
    assert "seed 1, stream " in capsys.readouterr().out
