"""What leaves memory, what comes back, and who waits: without a real medium."""

from __future__ import annotations

import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import pytest

from pocketkv import limits
from pocketkv.engine import spilling as policy
from pocketkv.engine.cold import CHANGED_STRING, SPILLED_BYTES, SPILLED_LARGE, STRING, Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.extents import Extents
from pocketkv.engine.frequency import FrequencySketch
from pocketkv.engine.keyspace import JobSpace
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.payloads import code_of
from pocketkv.engine.spilling import Spilling, Victim
from pocketkv.engine.values import Collection
from tests.engine.harness import BLOCKED, Client, Engine
from tests.engine.media import FakeMedium
from tests.engine.stores import MemoryJournal, MemoryStore

KIB = limits.KIB


class SpillJournal(MemoryJournal):
    """What one job has on the medium."""

    def release(self, cold: Cold) -> None:
        if self.store.journals.get("default") is self:
            super().release(cold)

    def new_lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def read_into(self, cold: Cold, views: list[memoryview]) -> None:
        payload = self.read(cold)
        for view in views:
            view[:] = payload[: len(view)]
            payload = payload[len(view) :]


class SpillStore(MemoryStore):
    """A medium that is written to only by what is moved out."""

    durable = False
    refusal = ""

    def journal(self, job_id: str) -> SpillJournal:
        journal = self.journals.setdefault(job_id, SpillJournal(self))
        assert isinstance(journal, SpillJournal)
        return journal


def write(victim: Victim) -> Cold:
    """Write a value as it is now."""
    value = victim.entry
    journal = victim.shelf.journal
    db = victim.shelf.db.index
    if isinstance(value, Collection):
        return journal.put(db, victim.key, code_of(value), value.payload(), 0)
    if isinstance(value, LargeString):
        return journal.put(db, victim.key, SPILLED_LARGE, bytes(value), 0)
    assert isinstance(value, bytes | bytearray)
    kind = STRING if isinstance(value, bytes) else CHANGED_STRING
    return journal.put(db, victim.key, kind, bytes(value), 0)


def move(engine: Engine) -> int:
    """Move out what has to go; how many values."""
    spilling = spilling_of(engine)
    moved = 0
    for scope, spaces, excess_bytes in spilling.excess():
        for victim in spilling.pick(spaces, excess_bytes, scope):
            if victim.key in victim.shelf.chains:
                assert victim.shelf.unmark(victim)
                assert victim.shelf.drop_clean(victim.key)
            else:
                victim.shelf.moved(victim, write(victim))
            moved += 1
    return moved


def spilling_of(engine: Engine) -> Spilling:
    spilling = engine.keyspace.spilling
    assert spilling is not None
    return spilling


def pick_all(engine: Engine) -> list[Victim]:
    return spilling_of(engine).pick([engine.space], 1 << 40)


def spill(engine: Engine, *keys: bytes) -> None:
    """Move all out that can be; what is named must be part of it."""
    victims = pick_all(engine)
    assert {victim.key for victim in victims} >= set(keys)
    for victim in victims:
        victim.shelf.moved(victim, write(victim))


def is_cold(client: Client, key: bytes) -> bool:
    return isinstance(client.db.find_stored(key), Cold)


@pytest.fixture(params=[False, True], ids=["quick", "slow"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(policy, "RESIDENT_KEYS_MIN", 0)
    store = SpillStore(is_slow=request.param)
    extents = Extents(FakeMedium(16 * 1024, page_bytes=4096))
    engine = Engine(store=store, extents=extents, memory_bytes=16 * limits.MIB)
    yield engine
    engine.validate()
    for space in engine.keyspace.spaces.values():
        for db in space.databases.values():
            assert db.shelf is not None
            assert not db.shelf.fetched
            assert not db.shelf.spilling


@pytest.fixture
def client(engine: Engine) -> Client:
    return engine.connect()


# --- what moves, and what does not ---------------------------------------------------------------


def test_below_the_mark_nothing_moves(engine: Engine, client: Client) -> None:
    memory_bytes = engine.keyspace.memory_bytes
    while engine.space.used_bytes < policy.HIGH_SHARE * memory_bytes - 64 * KIB:
        client("SET", f"key {client.db.size}", bytes(32 * KIB))
    assert move(engine) == 0
    assert engine.space.spilled_keys == 0
    for number in range(8):
        client("SET", f"more {number}", bytes(32 * KIB))
    assert move(engine) > 0
    assert engine.space.used_bytes <= policy.LOW_SHARE * memory_bytes
    assert move(engine) == 0


def test_what_the_system_says_counts_up_to_a_part(engine: Engine, client: Client) -> None:
    spilling = spilling_of(engine)
    memory_bytes = engine.keyspace.memory_bytes
    while engine.space.used_bytes < 0.75 * memory_bytes:
        client("SET", f"key {client.db.size}", bytes(32 * KIB))
    assert spilling.excess() == []
    spilling.measure(int(0.95 * memory_bytes))
    assert spilling.excess() != []
    spilling.measure(10 * memory_bytes)
    while move(engine):
        spilling.measure(10 * memory_bytes)
    # Not everything, though the system claims that it is of no use.
    assert engine.space.used_bytes > 0.5 * memory_bytes


def test_small_values_stay(engine: Engine, client: Client) -> None:
    client("SET", "small", bytes(100))
    client("SET", "large", bytes(1000))
    spill(engine, b"large")
    assert not is_cold(client, b"small")
    assert is_cold(client, b"large")
    assert engine.space.spilled_keys == 1


def test_the_last_keys_stay(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "RESIDENT_KEYS_MIN", 16)
    for number in range(20):
        client("SET", f"key {number}", bytes(1000))
    client("SET", "large", bytes(300 * KIB))
    picked = pick_all(engine)
    for victim in picked:
        victim.shelf.moved(victim, write(victim))
    assert engine.space.spilled_keys in {5, 6}
    # Unless they are large.
    picked = pick_all(engine)
    for victim in picked:
        victim.shelf.moved(victim, write(victim))
    assert is_cold(client, b"large")


def test_a_job_over_its_quota_spills_its_own(engine: Engine, client: Client) -> None:
    other = engine.connect(job_id="other")
    for number in range(100):
        client("SET", f"key {number}", bytes(10_000))
        other("SET", f"key {number}", bytes(10_000))
    other.session.space.quota_bytes = 500_000
    assert move(engine) > 0
    assert other.session.space.used_bytes <= policy.LOW_SHARE * 500_000
    assert engine.space.spilled_keys == 0
    assert other.session.space.spilled_keys > 50
    other.session.space.quota_bytes = None


# --- all types, before and after -----------------------------------------------------------------


@pytest.fixture(params=["string", "changed", "large", "set"])
def filled(request: pytest.FixtureRequest, client: Client) -> tuple[str, Callable[[], object]]:
    """A key with a value, and what asks for it."""
    kind = request.param
    if kind == "set":
        client("SADD", "key", *(f"member {number}" for number in range(100)))
        return kind, lambda: sorted(client("SMEMBERS", "key"))
    client("SET", "key", random.Random(1).randbytes(100_000 if kind == "large" else 5000))
    if kind == "changed":
        client("APPEND", "key", "more")
    return kind, lambda: client("GET", "key")


def test_a_value_is_as_it_was(
    engine: Engine, client: Client, filled: tuple[str, Callable[[], object]]
) -> None:
    kind, ask = filled
    before = ask(), client("TYPE", "key"), client("OBJECT", "ENCODING", "key")
    used_bytes = engine.space.used_bytes
    for _ in range(3):
        spill(engine, b"key")
        assert is_cold(client, b"key")
        assert engine.space.used_bytes < used_bytes / 2
        assert client("EXISTS", "key") == 1
        assert is_cold(client, b"key")
        assert (ask(), client("TYPE", "key"), client("OBJECT", "ENCODING", "key")) == before
        if is_cold(client, b"key"):
            continue
        if kind in {"large", "set"}:
            # It was not changed: leaving it again costs nothing.
            assert client.db.shelf is not None
            assert client.db.shelf.drop_clean(b"key") > 0
            assert ask() == before[0]
            client.db.shelf.drop_clean(b"key")
            client.db.shelf.drop_clean(b"key")
            ask()
        engine.validate()
        client.db.shelf.changed(b"key")  # type: ignore[union-attr]
    assert ask() == before[0]


@pytest.mark.parametrize("early", [False, True], ids=["on the medium", "on its way"])
def test_changes_are_not_lost(
    engine: Engine, client: Client, filled: tuple[str, Callable[[], object]], early: bool
) -> None:
    kind, ask = filled
    before = ask()
    victims = pick_all(engine)
    colds = [write(victim) for victim in victims]
    if not early:
        assert [v.shelf.moved(v, c) for v, c in zip(victims, colds, strict=True)] == [True]
    if kind == "set":
        assert client("SADD", "key", "one more") == 1
        assert isinstance(before, list)
        before = sorted([*before, b"one more"])
    else:
        client("SETRANGE", "key", 1000, "changed")
        assert isinstance(before, bytes)
        before = before[:1000] + b"changed" + before[1007:]
    if early:
        # It was changed meanwhile, so what was written is of no use.
        assert [v.shelf.moved(v, c) for v, c in zip(victims, colds, strict=True)] == [False]
    assert ask() == before
    live = engine.keyspace.store.journals["default"].live  # type: ignore[union-attr]
    assert len(live) == engine.space.spilled_keys


def test_one_that_is_picked_anew_is_not_taken_for_the_first(engine: Engine, client: Client) -> None:
    client("SET", "key", bytes(1000))
    first = pick_all(engine)[0]
    written = write(first)
    client("SET", "key", b"x" * 1000)
    second = pick_all(engine)[0]
    assert not first.shelf.moved(first, written)
    assert second.shelf.moved(second, write(second))
    assert client("GET", "key") == b"x" * 1000


def test_what_is_gone_is_released(
    engine: Engine, client: Client, filled: tuple[str, Callable[[], object]]
) -> None:
    def live() -> int:
        return len(engine.keyspace.store.journals["default"].live)  # type: ignore[union-attr]

    _, ask = filled
    before = ask()
    spill(engine, b"key")
    client("RENAME", "key", "other")
    client("RENAME", "other", "key")
    assert (live() > 0) is bool(engine.space.spilled_keys)
    assert ask() == before
    spill(engine, b"key") if not is_cold(client, b"key") else None
    client("DEL", "key")
    assert (live(), engine.space.spilled_keys, engine.space.spilled_bytes) == (0, 0, 0)
    client("SET", "key", bytes(1000), "PX", 100)
    spill(engine, b"key")
    engine.advance(200)
    assert client("GET", "key") is None
    assert live() == 0
    client("SET", "key", bytes(1000))
    spill(engine, b"key")
    client("SET", "key", "short")
    assert live() == 0
    client("SET", "key", bytes(1000))
    client("SELECT", 1)
    client("SET", "key", bytes(1000))
    spill(engine, b"key")
    client("FLUSHDB")
    while engine.keyspace.free_some(1000):
        pass
    assert live() == engine.space.spilled_keys == 1
    client("FLUSHALL")
    assert engine.space.spilled_keys == 0


def test_a_value_that_is_used_often_comes_back(engine: Engine, client: Client) -> None:
    client("SET", "key", bytes(1000))
    spill(engine, b"key")
    # A scan does not bring it back.
    fresh = spilling_of(engine).uses = FrequencySketch(1000)
    client.db.uses = fresh
    if not engine.keyspace.store.is_slow:  # type: ignore[union-attr]
        client("GET", "key")
        assert is_cold(client, b"key")
    client("GET", "key")
    client("GET", "key")
    assert not is_cold(client, b"key")
    assert engine.space.stats.spilled_back == 1
    assert engine.space.stats.spill_hits >= 1


def test_a_value_that_cannot_be_read_is_an_error_on_its_key(
    engine: Engine, client: Client, filled: tuple[str, Callable[[], object]]
) -> None:
    _, ask = filled
    spill(engine, b"key")
    store = engine.keyspace.store
    assert isinstance(store, SpillStore)
    entry = client.db.find_stored(b"key")
    assert isinstance(entry, Cold)
    store.damaged = {entry}
    assert "IOERR" in str(client("COPY", "key", "other"))
    store.damaged = set()
    ask()
    client("DEL", "key")


def test_a_large_value_that_comes_back_is_given_memory_by_the_worker(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client("SET", "key", bytes(range(256)) * 400)
    spill(engine, b"key")
    extents = engine.keyspace.extents
    assert extents is not None
    medium = extents.medium
    assert isinstance(medium, FakeMedium)
    while extents.punch_warm(1 << 20):
        pass
    assert sum(medium.backed) == 0
    # On the serving thread, that would keep everybody waiting.
    monkeypatch.setattr(medium, "back", lambda offset, size: pytest.fail("backed by the wrong one"))
    medium.room_pages = 0
    monkeypatch.setattr(medium, "fill", lambda offset, size: False)
    assert "OOM" in str(client("GET", "key"))
    assert is_cold(client, b"key")
    monkeypatch.undo()
    medium.room_pages = None
    assert client("GET", "key") == bytes(range(256)) * 400
    assert extents.reserved_pages == 0
    client("DEL", "key")
    extents.validate()


# --- who waits -----------------------------------------------------------------------------------


def fill(client: Client, engine: Engine, share: float) -> None:
    while engine.space.used_bytes < share * engine.keyspace.memory_bytes:
        assert client("SET", f"key {client.db.size}", bytes(32 * KIB)) == "OK"


def test_a_writer_waits_for_room(engine: Engine, client: Client) -> None:
    spilling = spilling_of(engine)
    pressed: list[bool] = []
    spilling.on_pressed = pressed.append
    fill(client, engine, 0.99)
    assert client("SET", "big", bytes(limits.MIB)) is BLOCKED
    assert set(pressed) == {True}
    other = engine.connect()
    # Who only reads, or frees, does not wait.
    assert other("STRLEN", "key 1") == 32 * KIB
    assert other("DEL", "key 1") == 1
    spilling.release(engine.clock.now_ms)
    assert client.result() is BLOCKED
    while move(engine):
        pass
    spilling.release(engine.clock.now_ms)
    assert client.result() == "OK"
    assert client("STRLEN", "big") == limits.MIB
    assert spilling.waiting == 0


def test_nobody_waits_for_ever(engine: Engine, client: Client) -> None:
    spilling = spilling_of(engine)
    fill(client, engine, 0.99)
    assert client("SET", "big", bytes(limits.MIB)) is BLOCKED
    engine.advance(int(policy.WAIT_MAX_S * 1000) - 1)
    spilling.release(engine.clock.now_ms)
    assert client.result() is BLOCKED
    engine.advance(10)
    spilling.release(engine.clock.now_ms)
    assert "OOM command not allowed: no room within 10 s" in str(client.result())
    assert engine.space.stats.refused_oom == 1
    spilling.reason = b"S3 is away"
    spilling.stuck.add(None)
    assert "and S3 is away" in str(client("SET", "big", bytes(limits.MIB)))
    assert client("STRLEN", "key 1") == 32 * KIB


def test_what_can_never_fit_is_refused_at_once(engine: Engine, client: Client) -> None:
    assert "OOM command not allowed when used memory" in str(
        client("SETRANGE", "key", 20 * limits.MIB, "x")
    )


def test_a_client_that_goes_away_waits_no_longer(engine: Engine, client: Client) -> None:
    spilling = spilling_of(engine)
    fill(client, engine, 0.99)
    assert client("SET", "big", bytes(limits.MIB)) is BLOCKED
    client.disconnect()
    spilling.release(engine.clock.now_ms)
    assert spilling.waiting == 0


# --- is the policy any good? ---------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """Parts of all reads that found their value in memory."""

    ours: float
    lru: float


def zipf_with_scan(keys: int, reads: int, exponent: float, seed: int) -> list[int]:
    """Reads of keys by Zipf's law, with one pass over all keys in the middle of every quarter."""
    randomness = random.Random(seed)
    weights = list(accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    popular = list(range(keys))
    randomness.shuffle(popular)
    trace: list[int] = []
    for _ in range(4):
        drawn = randomness.choices(popular, cum_weights=weights, k=reads // 4)
        # Others go on while somebody reads all of it.
        half = len(drawn) // 2
        scan = range(keys)
        mixed = [number for pair in zip(drawn[half : half + keys], scan) for number in pair]  # noqa: B905
        trace += drawn[:half] + mixed + drawn[half + keys :]
    return trace


def compare(
    keys: int, share: float, trace: list[int], value_bytes: int = 1000, *, by_quota: bool = False
) -> Rates:
    """Run a trace through the policy, and through LRU with as many keys as the policy ever had."""
    names = [b"key %06d" % number for number in range(keys)]
    kept_bytes = keys * (SPILLED_BYTES + 44 + 48)
    limit_bytes = int((kept_bytes + share * keys * value_bytes) / policy.HIGH_SHARE)
    engine = Engine(store=SpillStore(), memory_bytes=(100 if by_quota else 1) * limit_bytes)
    client = engine.connect()
    if by_quota:
        engine.space.quota_bytes = limit_bytes
    for name in names:
        client("SET", name, bytes(value_bytes))
        move(engine)
    hits = most = 0
    for number in trace:
        name = names[number]
        hits += not is_cold(client, name)
        client("GET", name)
        move(engine)
        most = max(most, keys - engine.space.spilled_keys)
    engine.validate()
    lru: OrderedDict[int, None] = OrderedDict()
    lru_hits = 0
    for number in trace:
        if number in lru:
            lru_hits += 1
            lru.move_to_end(number)
        else:
            lru[number] = None
            if len(lru) > most:
                lru.popitem(last=False)
    return Rates(hits / len(trace), lru_hits / len(trace))


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("by_quota", [False, True])
def test_more_reads_find_their_value_than_with_lru(
    share: float, by_quota: bool, record_property: Callable[[str, object], None]
) -> None:
    trace = zipf_with_scan(keys=2000, reads=24_000, exponent=0.9, seed=1)
    rates = compare(2000, share, trace, by_quota=by_quota)
    record_property("hit_rate", f"{rates.ours:.3f}, LRU {rates.lru:.3f}")
    assert rates.ours > rates.lru + 0.03


def test_the_space_of_a_job_is_named_in_its_victims(engine: Engine, client: Client) -> None:
    client("SET", "key", bytes(1000))
    victim = pick_all(engine)[0]
    space: JobSpace = victim.shelf.db.space
    assert victim.job_id == space.job_id == "default"
    with pytest.raises(CommandError):
        raise spilling_of(engine).refusal(space, 1)
    assert victim.shelf.unmark(victim)


def test_at_its_quota_a_job_has_what_it_uses_most(engine: Engine, client: Client) -> None:
    engine.space.quota_bytes = limits.MIB
    for number in range(100):
        client("SET", f"key {number}", bytes(32 * KIB))
        move(engine)
    assert engine.space.used_bytes <= policy.HIGH_SHARE * limits.MIB
    hot = [b"key %d" % number for number in range(3)]
    for _ in range(12):
        for key in hot:
            client("GET", key)
        move(engine)
    assert not [key for key in hot if is_cold(client, key)]
    assert engine.space.used_bytes <= policy.HIGH_SHARE * limits.MIB
    engine.validate()


def test_what_is_forgotten_of_quotas(engine: Engine, client: Client) -> None:
    spilling = spilling_of(engine)
    for number in range(5):
        space = engine.keyspace.open(f"job-{number}")
        space.quota_bytes = limits.MIB
        spilling.excess()
        engine.keyspace.drop(f"job-{number}")
    assert len(spilling._quotas) <= 2
