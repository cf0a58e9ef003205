"""Small reads of one object that wait at the same time."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.gathering import GAP_BYTES_MAX, SPAN_BYTES_MAX, Gatherer, Place

OBJECT = random.Random(1).randbytes(3 * SPAN_BYTES_MAX)


class Bucket:
    """Objects that are all alike; `gate` holds requests back."""

    def __init__(self) -> None:
        self.requests: list[Place] = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def get(self, name: str, offset: int, size: int) -> bytes:
        self.requests.append((name, offset, size))
        assert self.gate.wait(20)
        if self.fails:
            raise S3Error("unavailable", "it is away")
        return OBJECT[offset : offset + size]


def read_all(gatherer: Gatherer, places: list[Place]) -> list[bytes]:
    """Read places with as many threads, all announced before the first of them comes."""
    for place in places:
        gatherer.announce(*place)
    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(lambda place: gatherer.read(*place), places))


def check_nothing_is_left(gatherer: Gatherer) -> None:
    assert gatherer._waiting == {}
    assert gatherer._coming == {}


def test_what_lies_side_by_side_is_one_request() -> None:
    bucket = Bucket()
    gatherer = Gatherer(bucket.get)
    places = [("a", 5000 + 1000 * number, 1000) for number in range(20)]
    random.Random(2).shuffle(places)
    found = read_all(gatherer, places)
    assert found == [OBJECT[offset : offset + size] for _, offset, size in places]
    assert bucket.requests == [("a", 5000, 20_000)]
    check_nothing_is_left(gatherer)


@pytest.mark.parametrize(
    ("places", "requests"),
    [
        # A gap that is worth it, and one that is not.
        ([("a", 0, 10), ("a", 10 + GAP_BYTES_MAX, 10)], 1),
        ([("a", 0, 10), ("a", 11 + GAP_BYTES_MAX, 10)], 2),
        # Other objects.
        ([("a", 0, 10), ("b", 10, 10)], 2),
        # The same twice.
        ([("a", 0, 10), ("a", 0, 10)], 1),
        # No more than so much with one request.
        ([("a", at * 100_000, 100_000) for at in range(2 * SPAN_BYTES_MAX // 100_000)], 2),
    ],
)
def test_what_is_worth_it(places: list[Place], requests: int) -> None:
    bucket = Bucket()
    gatherer = Gatherer(bucket.get)
    found = read_all(gatherer, places)
    assert found == [OBJECT[offset : offset + size] for _, offset, size in places]
    # Who comes first has the middle, perhaps, so that one more is left over.
    assert requests <= len(bucket.requests) <= requests + (requests == 2 < len(places))
    check_nothing_is_left(gatherer)


def test_who_comes_late_reads_for_himself() -> None:
    bucket = Bucket()
    gatherer = Gatherer(bucket.get)
    bucket.gate.clear()
    gatherer.announce("a", 0, 10)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(gatherer.read, "a", 0, 10)
        while not bucket.requests:
            pass
        gatherer.announce("a", 10, 10)
        second = pool.submit(gatherer.read, "a", 10, 10)
        bucket.gate.set()
        assert (first.result(20), second.result(20)) == (OBJECT[:10], OBJECT[10:20])
    assert len(bucket.requests) == 2
    check_nothing_is_left(gatherer)


def test_an_error_is_everybodys() -> None:
    bucket = Bucket()
    bucket.fails = True
    gatherer = Gatherer(bucket.get)
    places = [("a", 10 * number, 10) for number in range(4)]
    for place in places:
        gatherer.announce(*place)
    for place in places:
        with pytest.raises(S3Error, match="it is away"):
            gatherer.read(*place)
    assert len(bucket.requests) == 1
    bucket.fails = False
    assert read_all(gatherer, places) == [OBJECT[o : o + size] for _, o, size in places]


def test_what_is_not_announced_is_read_by_itself() -> None:
    bucket = Bucket()
    gatherer = Gatherer(bucket.get)
    assert gatherer.read("a", 7, 3) == OBJECT[7:10]
    check_nothing_is_left(gatherer)


def test_what_has_moved_is_forgotten() -> None:
    bucket = Bucket()
    gatherer = Gatherer(bucket.get)
    gatherer.announce("a", 0, 10)
    gatherer.announce("a", 10, 10)
    assert gatherer.read("a", 0, 10) == OBJECT[:10]
    gatherer.forget("a")
    check_nothing_is_left(gatherer)
    assert gatherer.read("a", 10, 10) == OBJECT[10:20]
    check_nothing_is_left(gatherer)
