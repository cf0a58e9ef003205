"""CLIENT TRACKING where Redis has no counterpart: slots that leave, limits, jobs, what it costs."""

from __future__ import annotations

import pytest

from pocketkv import limits
from tests.engine.harness import Client, Engine
from tests.replies import decode, split_replies


def take(client: Client) -> list[object]:
    """What was sent to a client since it was last asked for."""
    return [decode(raw) for raw in split_replies(client.transport.take())]


def test_while_nobody_tracks_nobody_is_told_of_changes(engine: Engine) -> None:
    client = engine.connect(protocol=3)
    assert engine.space.observer is None
    client("CLIENT", "TRACKING", "ON")
    assert engine.space.observer is engine.space.tracking
    client("CLIENT", "TRACKING", "OFF")
    assert engine.space.observer is None
    assert engine.space.tracking is None
    client("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a")
    client.disconnect()
    assert engine.space.observer is None


def test_slots_that_leave_are_out_of_date(engine: Engine) -> None:
    client, other = engine.connect(protocol=3), engine.connect(protocol=3)
    client("CLIENT", "TRACKING", "ON")
    client("MGET", "{foo}a", "{bar}b")
    other("CLIENT", "TRACKING", "ON", "BCAST")
    tracking = engine.space.tracking
    assert tracking is not None
    tracking.left(engine.space, 12182, 12182)
    assert take(client) == [[b"invalidate", [b"{foo}a"]]]
    assert take(other) == [[b"invalidate", None]]
    for number in range(3000):
        client("GET", f"key-{number}")
    tracking.left(engine.space, 12182, 12182)
    assert take(client) == [[b"invalidate", None]]
    assert not tracking.table


def test_an_expired_key_is_out_of_date(engine: Engine) -> None:
    client, writer = engine.connect(protocol=3), engine.connect()
    client("CLIENT", "TRACKING", "ON")
    writer("SET", "a", "1", "PX", "100")
    client("GET", "a")
    engine.advance(200)
    engine.keyspace.expire_some()
    assert take(client) == [[b"invalidate", [b"a"]]]


def test_keys_of_other_jobs_are_no_concern(engine: Engine) -> None:
    mine = engine.connect(protocol=3, job_id="mine")
    theirs = engine.connect(job_id="theirs")
    mine("CLIENT", "TRACKING", "ON")
    mine("GET", "a")
    theirs("SET", "a", "1")
    theirs("FLUSHALL")
    assert take(mine) == []
    number = theirs("CLIENT", "ID")
    assert "does not exist" in mine("CLIENT", "TRACKING", "ON", "REDIRECT", number).text


def test_there_are_no_more_keys_in_the_table_than_the_setting_says(engine: Engine) -> None:
    client = engine.connect(protocol=3)
    client("CONFIG", "SET", "tracking-table-max-keys", "3")
    client("CLIENT", "TRACKING", "ON")
    for key in ("a", "b", "c"):
        client("GET", key)
    client.raw("MGET", "d", "e")
    tracking = engine.space.tracking
    assert tracking is not None
    assert list(tracking.table) == [b"c", b"d", b"e"]
    info = client("INFO", "stats").text
    assert b"tracking_total_keys:3\r\n" in info


def test_the_table_takes_no_more_memory_than_it_may(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRACKING_TABLE_BYTES_MAX", 100_000)
    client = engine.connect(protocol=3)
    client("CLIENT", "TRACKING", "ON")
    for number in range(50):
        client.raw("GET", b"%d" % number + b"x" * 10_000)
    tracking = engine.space.tracking
    assert tracking is not None
    assert len(tracking.table) == 9


def test_a_client_that_is_told_of_anothers_keys_enters_another_job(engine: Engine) -> None:
    client, receiver = engine.connect(protocol=3), engine.connect(protocol=3)
    client("CLIENT", "TRACKING", "ON", "REDIRECT", receiver("CLIENT", "ID"))
    client("GET", "a")
    receiver.session.enter_job("another")
    engine.connect()("SET", "a", "1")
    assert take(receiver) == []
    assert take(client) == [[b"tracking-redir-broken", receiver.session.id]]
