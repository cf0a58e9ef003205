from __future__ import annotations

import pytest

from pocketkv.resp.frames import FrameScanner
from pocketkv.resp.parser import RequestParser
from tests.resp import fuzz_parser


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found(seed: int) -> None:
    assert fuzz_parser.run(seed, streams=400) == 400


def test_it_runs_for_a_time_and_tells_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_parser.main(["--seconds", "0.05", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("seed 7\n")
    assert "nothing found" in shown


class Greedy(RequestParser):
    def buffered_bytes(self) -> int:
        return 1 << 30


class Careless(FrameScanner):
    def feed(self, data: bytes) -> None:
        super().feed(data.replace(b"\0", b""))


class Brittle(RequestParser):
    def feed(self, data: bytes) -> None:
        if b"\0" in data:
            raise ValueError("a defect")
        super().feed(data)


class Forgetful(RequestParser):
    def feed(self, data: bytes) -> None:
        super().feed(data.replace(b"\0", b""))


@pytest.mark.parametrize("defect", [Greedy, Careless, Brittle, Forgetful])
def test_a_defect_is_found(
    defect: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "FrameScanner" if issubclass(defect, FrameScanner) else "RequestParser"
    monkeypatch.setattr(fuzz_parser, name, defect)
    assert fuzz_parser.main(["--seconds", "5", "--seed", "1"]) == 1
    shown = capsys.readouterr().out
    assert "seed 1, stream " in shown
    assert "sizes: [" in shown
