"""Timers: what is due is done in order, and what was cancelled leaves nothing behind."""

from __future__ import annotations

from functools import partial

from pocketkv.engine.keyspace import Clock
from pocketkv.engine.timers import Timers


def test_what_is_due_is_done_in_order() -> None:
    clock = Clock(1000)
    timers = Timers(clock)
    done: list[str] = []
    for due_ms, name in [(1030, "late"), (1010, "first"), (1010, "second"), (1000, "now")]:
        timers.at(due_ms, partial(done.append, name))
    assert timers.next_ms() == 1000
    timers.run_due()
    assert done == ["now"]
    clock.set(1029)
    timers.run_due()
    assert done == ["now", "first", "second"]
    assert timers.next_ms() == 1030
    clock.set(5000)
    timers.run_due()
    assert done == ["now", "first", "second", "late"]
    assert timers.next_ms() is None


def test_what_was_cancelled_is_not_done() -> None:
    clock = Clock(1000)
    timers = Timers(clock)
    done: list[str] = []
    first = timers.at(1010, partial(done.append, "first"))
    timers.at(1020, partial(done.append, "second"))
    timers.cancel(first)
    timers.cancel(first)
    assert timers.next_ms() == 1020
    clock.set(1020)
    timers.run_due()
    timers.cancel(first)
    assert done == ["second"]


def test_a_timer_may_set_and_cancel_others() -> None:
    clock = Clock(1000)
    timers = Timers(clock)
    done: list[str] = []
    other = timers.at(1002, partial(done.append, "other"))

    def action() -> None:
        timers.cancel(other)
        timers.at(1000, partial(done.append, "at once"))

    timers.at(1001, action)
    clock.set(1005)
    timers.run_due()
    assert done == ["at once"]


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers(Clock(1000))
    for _ in range(10_000):
        timers.cancel(timers.at(10**9, print))
    kept = timers.at(10**9, print)
    assert len(timers._heap) < 10
    assert timers.next_ms() == 10**9
    timers.cancel(kept)
    assert timers.next_ms() is None
