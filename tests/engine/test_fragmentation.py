"""When a pass of defragmentation is worth it."""

from __future__ import annotations

from pocketkv.engine.fragmentation import Fragmentation

MB = 1024**2
PROGRAM = 40 * MB


def test_what_agrees_calls_for_nothing() -> None:
    evidence = Fragmentation(PROGRAM)
    assert not evidence.calls_for_pass(PROGRAM, 0)
    assert not evidence.calls_for_pass(PROGRAM + 1000 * MB, 1000 * MB)
    assert not evidence.calls_for_pass(PROGRAM + 1060 * MB, 1000 * MB)
    # Less is resident than is accounted for, as is possible.
    assert not evidence.calls_for_pass(PROGRAM + 900 * MB, 1000 * MB)


def test_a_few_megabytes_call_for_nothing() -> None:
    evidence = Fragmentation(PROGRAM)
    assert not evidence.calls_for_pass(PROGRAM + 8 * MB, 1 * MB)
    assert evidence.calls_for_pass(PROGRAM + 10 * MB, 1 * MB)


def test_it_begins_when_deleting_is_over() -> None:
    evidence = Fragmentation(PROGRAM)
    resident = PROGRAM + 1000 * MB
    assert not evidence.calls_for_pass(resident, 1000 * MB)
    for accounted in range(990, 500, -10):
        assert not evidence.calls_for_pass(resident, accounted * MB)
    assert evidence.calls_for_pass(resident, 500 * MB)


def test_it_does_not_wait_for_ever() -> None:
    evidence = Fragmentation(PROGRAM)
    resident = PROGRAM + 1000 * MB
    accounted = [1000 - 10 * look for look in range(100)]
    called = [evidence.calls_for_pass(resident, amount * MB) for amount in accounted]
    assert 40 < called.index(True) < 80


def test_a_pass_that_gained_nothing_is_not_repeated_before_more_was_freed() -> None:
    evidence = Fragmentation(PROGRAM)
    resident = PROGRAM + 700 * MB
    assert evidence.calls_for_pass(resident, 500 * MB)
    evidence.begin(resident, 500 * MB)
    evidence.end(resident - MB, 500 * MB)
    for accounted in (500, 499, 490, 480):
        assert not evidence.calls_for_pass(resident - MB, accounted * MB)
    assert not evidence.calls_for_pass(resident - MB, 400 * MB)
    assert evidence.calls_for_pass(resident - MB, 400 * MB)


def test_a_pass_that_gained_much_is_followed_by_another_if_much_is_left() -> None:
    evidence = Fragmentation(PROGRAM)
    assert evidence.calls_for_pass(PROGRAM + 1000 * MB, 500 * MB)
    evidence.begin(PROGRAM + 1000 * MB, 500 * MB)
    evidence.end(PROGRAM + 700 * MB, 500 * MB)
    assert evidence.calls_for_pass(PROGRAM + 700 * MB, 500 * MB)
    evidence.begin(PROGRAM + 700 * MB, 500 * MB)
    evidence.end(PROGRAM + 520 * MB, 500 * MB)
    assert not evidence.calls_for_pass(PROGRAM + 520 * MB, 500 * MB)


def test_what_was_freed_during_a_pass_is_not_held_against_the_next() -> None:
    evidence = Fragmentation(PROGRAM)
    resident = PROGRAM + 1000 * MB
    evidence.begin(resident, 900 * MB)
    evidence.end(resident, 500 * MB)
    assert evidence.calls_for_pass(resident, 500 * MB)


def test_what_is_used_again_can_be_gained_again() -> None:
    evidence = Fragmentation(PROGRAM)
    resident = PROGRAM + 700 * MB
    evidence.begin(resident, 500 * MB)
    evidence.end(resident, 500 * MB)
    # The holes are filled, then made again.
    assert not evidence.calls_for_pass(resident, 690 * MB)
    assert not evidence.calls_for_pass(resident, 600 * MB)
    assert evidence.calls_for_pass(resident, 600 * MB)
