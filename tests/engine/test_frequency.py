"""The sketch: it tells often from seldom, forgets in time, and takes the memory that it says."""

from __future__ import annotations

import random

from pocketkv.engine.frequency import ROWS, SLOTS_MAX, SLOTS_MIN, USES_MAX, FrequencySketch


def test_a_key_that_was_never_used_counts_nothing() -> None:
    sketch = FrequencySketch(1000)
    assert sketch.estimate(b"key") == 0
    assert sketch.estimate(b"") == 0


def test_uses_are_counted_up_to_a_bound() -> None:
    sketch = FrequencySketch(1000)
    for count in range(1, 40):
        sketch.add(b"key")
        assert sketch.estimate(b"key") == min(count, USES_MAX)


def test_what_was_used_elsewhere_is_taken_over_and_forgotten_in_time() -> None:
    sketch = FrequencySketch(1000)
    sketch.restore(b"key", 200, 7)
    assert sketch.estimate(b"key", 7) == 200
    assert sketch.estimate(b"key") == 0
    sketch.restore(b"key", 3, 7)
    sketch.add(b"key", 7)
    assert sketch.estimate(b"key", 7) == 200
    number = 0
    while sketch.ages < 8:
        sketch.add(b"other %d" % number)
        number += 1
    assert sketch.estimate(b"key", 7) <= USES_MAX


def test_equal_keys_of_different_owners_are_told_apart() -> None:
    sketch = FrequencySketch(1000)
    for _ in range(5):
        sketch.add(b"key", 12345)
    assert sketch.estimate(b"key", 12345) == 5
    assert sketch.estimate(b"key", -(2**62)) == 0
    assert sketch.estimate(b"key") == 0


def test_estimates_are_never_too_low_and_seldom_too_high() -> None:
    sketch = FrequencySketch(4096)
    randomness = random.Random(1)
    # Fewer uses than make it age.
    uses = {b"key %d" % number: randomness.randrange(1, 10) for number in range(2000)}
    order = [key for key, count in uses.items() for _ in range(count)]
    randomness.shuffle(order)
    for key in order:
        sketch.add(key)
    assert all(sketch.estimate(key) >= count for key, count in uses.items())
    wrong = sum(sketch.estimate(key) != count for key, count in uses.items())
    assert wrong < len(uses) * 0.1
    strangers = [sketch.estimate(b"stranger %d" % number) for number in range(1000)]
    assert sum(map(bool, strangers)) < 200


def test_what_was_popular_once_does_not_stay_so() -> None:
    sketch = FrequencySketch(SLOTS_MIN)
    for _ in range(USES_MAX):
        sketch.add(b"old")
    for number in range(8 * SLOTS_MIN * 4):
        sketch.add(b"new %d" % (number % 50))
    assert sketch.ages == 7
    assert sketch.estimate(b"old") == 0
    assert sketch.estimate(b"new 1") >= USES_MAX // 2


def test_its_memory_is_bounded() -> None:
    assert FrequencySketch(0).size_bytes == ROWS * SLOTS_MIN
    assert FrequencySketch(5000).size_bytes == ROWS * 8192
    assert FrequencySketch(10**12).size_bytes == ROWS * SLOTS_MAX
