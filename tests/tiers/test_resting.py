"""How long to rest after a step of a copy."""

from __future__ import annotations

import threading
import time

import pytest

from pocketkv.tiers.resting import ProcessorWaits, Rest, Rests


def look(rest: Rest, times: int, *, waits: float, serves: bool, since: int = 0) -> None:
    """Look so many times, 10 ms apart; of each, a part was waited for the processor."""
    for number in range(since + 1, since + times + 1):
        rest.look(number * 0.01, number * 0.01 * waits, number if serves else 0)


def test_who_waits_for_the_processor_while_clients_are_served_rests() -> None:
    rest = Rest()
    rest.look(0.0, 0.0, 0)
    look(rest, 2, waits=0.2, serves=True)
    assert rest.share > 0.5
    look(rest, 50, waits=0.2, serves=True, since=2)
    assert rest.share == 4.0


@pytest.mark.parametrize(("waits", "serves"), [(0.0, True), (0.5, False), (0.0, False)])
def test_nobody_rests_where_it_helps_nobody(waits: float, serves: bool) -> None:
    rest = Rest()
    rest.look(0.0, 0.0, 0)
    look(rest, 50, waits=waits, serves=serves)
    assert rest.share == 0.0


def test_rests_end_when_the_processor_is_idle_again() -> None:
    rest = Rest()
    rest.look(0.0, 0.0, 0)
    look(rest, 20, waits=0.2, serves=True)
    for number in range(21, 60):
        rest.look(number * 0.01, 0.04, number)
    assert rest.share < 0.05


def test_what_is_long_ago_does_not_count() -> None:
    rest = Rest()
    rest.look(0.0, 0.0, 0)
    rest.look(10.0, 5.0, 1000)
    assert rest.share == 0.0


def test_the_system_tells_how_long_this_thread_has_waited() -> None:
    waits = ProcessorWaits()
    before_s = waits.read_s()
    # Threads that want the same lock of the interpreter make each other wait, and be put to sleep.
    ends = threading.Event()
    others = [
        threading.Thread(target=lambda: [None for _ in iter(ends.is_set, True)]) for _ in "ab"
    ]
    for other in others:
        other.start()
    ends.wait(0.05)
    ends.set()
    for other in others:
        other.join()
    assert waits.read_s() >= before_s >= 0.0


def test_who_is_in_haste_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s = iter(range(1000))
    monkeypatch.setattr(ProcessorWaits, "read_s", lambda _: float(next(waited_s)))
    served = iter(range(1000))
    rests = Rests(lambda: next(served))
    deadline_s = time.monotonic() + 20
    while not rests.are_taken and time.monotonic() < deadline_s:
        rests.after_s(1.0)
    assert rests.after_s(1.0) > 0
    rests.hurry()
    assert rests.after_s(1.0) == 0.0
    assert not rests.are_taken


def test_nothing_to_read_is_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError

    monkeypatch.setattr("os.open", refuse)
    assert ProcessorWaits().read_s() == 0.0
    rests = Rests(lambda: 0)
    assert rests.after_s(1.0) == 0.0
    assert not rests.are_taken
