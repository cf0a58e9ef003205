"""What clients write stands for itself, and damage to it is seen."""

from __future__ import annotations

import random
import threading
from typing import Any

import redis

from tests.chaos.clients import is_refusal
from tests.chaos.load import KEYS, LARGE_BYTES, Job, Worker, as_noted, as_sent
from tests.histories.linearizable import check
from tests.histories.operations import Recorder

JOB = Job("job-1", "redis://nowhere", "w")


class Memory:
    """A client that answers some commands by itself."""

    kind = "plain"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[object, ...]] = []

    def send(self, *request: object) -> Any:
        self.requests.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        self.replies = []


def worker(client: Memory, recorder: Recorder) -> Worker:
    return Worker("c1", JOB, client, recorder, random.Random(1), 0)


def test_large_values_are_noted_by_what_makes_them() -> None:
    value = "w:plain0.17*"
    sent = as_sent(value)
    assert LARGE_BYTES * 0.9 < len(sent) <= LARGE_BYTES * 1.1
    assert as_noted(sent) == value
    for damaged in (sent[:-1], sent[:500] + "x" + sent[501:], sent + "0"):
        assert "damaged" in as_noted(damaged)
    assert as_noted("short") == "short"
    assert as_noted(17) == 17


def test_every_request_is_one_that_the_models_know() -> None:
    dice = random.Random(3)
    for kind in KEYS.values():
        for number in range(300):
            name, arguments = kind.draw(dice, f"w:{number}")
            recorder = Recorder()
            recorder.call("c", "k", name, arguments, lambda: None)
            # It may be a wrong reply, but it is judged.
            assert check(kind.model, recorder.histories()["k"]).configurations


def test_a_worker_notes_replies_errors_and_values_of_others() -> None:
    recorder = Recorder()
    client = Memory(
        True,
        "w:c1.0",
        redis.TimeoutError("Timeout reading from socket"),
        redis.ResponseError("OOM no room"),
        "d:plain0.3",
        {"w:1", "f:2"},
    )
    one = worker(client, recorder)
    one.call("text-0", "SET", "w:c1.0")
    one.call("text-0", "GET")
    one.call("text-0", "DEL")
    one.call("text-0", "SET", "w:c1.1")
    one.call("text-0", "GET")
    one.call("set-0", "SMEMBERS")
    histories = recorder.histories()
    assert [str(operation) for operation in histories["job-1 text-0"]] == [
        "SET w:c1.0 -> True",
        "GET -> 'w:c1.0'",
        "DEL -> ?",
        "GET -> 'd:plain0.3'",
    ]
    assert [failure.error for failure in one.failures] == [
        "TimeoutError: Timeout reading from socket",
        "ResponseError: OOM no room",
    ]
    assert one.leaks == [
        "job-1 saw 'd:plain0.3' in text-0",
        "job-1 saw 'f:2' in set-0",
    ]


def test_a_worker_stops_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    client = Memory()
    worker(client, Recorder()).run(stop)
    assert client.requests == []


def test_what_is_known_not_to_have_happened() -> None:
    assert is_refusal(redis.ResponseError("OOM command not allowed"))
    assert is_refusal(redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. refused."))
    assert not is_refusal(redis.ConnectionError("Connection closed by server."))
    assert not is_refusal(redis.TimeoutError("Timeout reading from socket"))
    assert not is_refusal(redis.ResponseError("ERR server does not answer"))
    assert not is_refusal(ValueError("OOM"))
