from __future__ import annotations

import json
import logging

from pocketkv.controller.events import WRITTEN_MAX, Events
from pocketkv.controller.messages import Log


def log(number: int) -> Log:
    return Log(logging.INFO, f"event {number}", {"number": number})


def filled(count: int, most: int = 10, first_id: int = 100) -> Events:
    events = Events(first_id, most)
    for number in range(count):
        events.add([log(number)], 5000 + number)
    return events


def ids(events: Events, since: int | None, count: int = 100) -> list[int]:
    return [event.id for event in events.since(since, count)]


def test_an_event_is_a_line_of_the_log_with_an_id_and_a_time() -> None:
    events = Events(7)
    events.add([Log(logging.WARNING, "server died", {"server": "a"}), log(1)], 1234)
    first, second = events.since(None, 10)
    assert (first.id, first.time_ms, first.level, first.kind) == (7, 1234, "warning", "server died")
    assert first.fields == {"server": "a"}
    assert second.id == 8


def test_a_bounded_number_is_kept_the_newest() -> None:
    events = filled(25)
    assert len(events) == 10
    assert ids(events, None) == list(range(115, 125))
    assert ids(events, None, 3) == [122, 123, 124]
    assert ids(events, None, 0) == []


def test_who_follows_gets_each_one_once() -> None:
    events = filled(5)
    assert ids(events, 0, 2) == [100, 101]
    assert ids(events, 101, 2) == [102, 103]
    assert ids(events, 103) == [104]
    assert ids(events, 104) == []
    events.add([log(5)], 9000)
    assert ids(events, 104) == [105]


def test_who_was_away_for_too_long_goes_on_with_what_is_left() -> None:
    assert ids(filled(25), 101, 2) == [115, 116]


def test_an_id_of_another_life_is_none_of_ours() -> None:
    assert ids(filled(3), 999) == [100, 101, 102]
    assert ids(Events(100), 99) == []
    assert ids(Events(100), 999) == []


def test_each_one_is_written_once_and_the_next_life_goes_on_after_it() -> None:
    events = Events(100)
    events.add([Log(logging.INFO, "placed", {"servers": 2, "why": {"an": "object"}})], 5000)
    events.add([log(1)], 6000)
    records = events.take_records()
    assert list(records) == ["100", "101"]
    assert events.take_records() == {}
    events.add([log(2)], 7000)
    records |= events.take_records()
    later = Events.remembered(json.loads(json.dumps(records)), 9000)
    first, *_ = later.since(None, 10)
    assert (first.id, first.time_ms, first.level, first.kind) == (100, 5000, "info", "placed")
    assert first.fields == {"servers": 2, "why": "{'an': 'object'}"}
    later.add([log(3)], 9001)
    assert ids(later, 101) == [102, 9000]
    assert ids(later, 102, 5) == [9000]
    assert list(later.take_records()) == ["9000"]


def test_ids_grow_when_the_clock_was_set_back() -> None:
    later = Events.remembered(filled(3).take_records(), 50)
    later.add([log(3)], 50)
    assert ids(later, None) == [100, 101, 102, 103]


def test_not_more_are_written_than_are_remembered() -> None:
    records = filled(2 * WRITTEN_MAX, most=3 * WRITTEN_MAX).take_records()
    assert len(records) == WRITTEN_MAX
    assert max(records) == str(100 + 2 * WRITTEN_MAX - 1)
