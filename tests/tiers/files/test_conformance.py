"""Whatever medium values are on, every command is answered as by the engine in memory."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv.engine.commands import COMMANDS
from pocketkv.limits import KIB, MIB
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Engine
from tests.tiers.files.scripts import SCRIPTS, UNORDERED, Script, sets
from tests.tiers.files.servers import (
    MEDIA,
    Client,
    Request,
    Server,
    must,
    options_of,
    pattern,
    pipeline,
    serving,
)
from tests.tiers.storage_process import eventually

# What `test_*` below ask for by themselves, since their replies cannot be compared as they are.
ELSEWHERE = {"scan", "sscan", "zscan", "randomkey", "srandmember", "zrandmember", "spop"}
ELSEWHERE |= {"hscan", "hrandfield"}


@pytest.fixture(scope="module", params=MEDIA)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("conformance")
    with serving(folder, *options_of(request.param, folder / "values")) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    client = server.client()
    assert client("FLUSHALL") == "OK"
    return client


class Reference:
    """The engine in this process, with everything in memory."""

    def __init__(self) -> None:
        self.engine = Engine(memory_bytes=4096 * MIB)
        self.client = self.engine.connect()

    def answer(self, request: Request) -> bytes:
        self.engine.clock.set(time.time_ns() // 1_000_000)
        return self.client.send(encode_request(request))


def shown(data: bytes) -> bytes:
    return data if len(data) < 200 else data[:100] + b" ... " + data[-50:]


def compare(client: Client, reference: Reference, requests: list[Request]) -> None:
    """Send all of it in one pipeline."""
    client.send_raw(b"".join(map(encode_request, requests)))
    for request in requests:
        expected = reference.answer(request)
        got = client.receive(len(expected))
        if got != expected:
            pytest.fail(
                f"{[shown(argument) for argument in request]}:"
                f" {shown(got)!r} instead of {shown(expected)!r}"
            )


def compare_all_keys(client: Client, reference: Reference) -> None:
    for index in range(4):
        compare(client, reference, [[b"SELECT", b"%d" % index], [b"DBSIZE"], [b"DEBUG", b"DIGEST"]])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_medium_answers_as_memory(client: Client, script: Script) -> None:
    reference = Reference()
    batch: list[Request] = []
    for request in script():
        batch.append(request)
        # So that some commands come alone, and some behind many others.
        if len(batch) >= 1 + len(request[-1]) % 20:
            compare(client, reference, batch)
            batch = []
    compare(client, reference, batch)
    compare_all_keys(client, reference)


def test_every_data_command_is_in_a_script() -> None:
    named = {request[0].decode().lower() for script in SCRIPTS for request in script()}
    named |= {request[0].decode().lower() for request in UNORDERED} | ELSEWHERE
    groups = {"string", "set", "list", "sorted-set", "geo", "stream", "generic", "hash", "bitmap"}
    groups.add("hyperloglog")
    data = {c.name for c in COMMANDS.values() if c.group in groups}
    assert data <= named


def test_replies_in_no_order(client: Client) -> None:
    reference = Reference()
    compare(client, reference, list(sets()))
    compare(client, reference, [[b"SADD", b"words2", *[b"%d x" % n for n in range(3000)]]])
    for request in UNORDERED:
        assert sorted(client(*request)) == sorted(reference.client(*request)), request
    compare_all_keys(client, reference)


def test_random_changes_of_all_sizes(client: Client) -> None:
    reference = Reference()
    rng = random.Random(7)
    sizes = [3, 10, 300, KIB, 60 * KIB, 65_535, 65_536, 70 * KIB, 300 * KIB]
    for _ in range(12):
        compare(client, reference, [random_change(rng, sizes) for _ in range(60)])
    compare_all_keys(client, reference)


def random_change(rng: random.Random, sizes: list[int]) -> Request:
    name, other = (b"key%d" % rng.randrange(12) for _ in range(2))
    value = pattern(rng.randrange(10**9), rng.choice(sizes))
    offset = b"%d" % rng.choice([0, 5, 60_000, 65_530, 140_000])
    changes: list[Request] = [
        [b"SET", name, value],
        [b"SET", name, value, b"PXAT", b"4000000000%03d" % rng.randrange(1000)],
        [b"SET", name, value, b"KEEPTTL"],
        [b"APPEND", name, value],
        [b"SETRANGE", name, offset, value],
        [b"GETRANGE", name, offset, b"-3"],
        [b"GETDEL", name],
        [b"RENAME", name, other],
        [b"COPY", name, other, b"REPLACE"],
        [b"MSET", name, value, other, value[:100]],
        [b"MGET", name, other, b"key1"],
        [b"SADD", name, *[b"%d" % rng.randrange(1000) for _ in range(rng.choice([1, 5, 300]))]],
        [b"SREM", name, *[b"%d" % rng.randrange(1000) for _ in range(200)]],
        [b"SUNIONSTORE", name, other, b"key3"],
        [b"ZADD", name, *random_pairs(rng)],
        [b"ZREM", name, *random_pairs(rng)],
        [b"ZPOPMIN", name, b"%d" % rng.choice([1, 3, 200])],
        [b"ZREMRANGEBYSCORE", name, b"10", b"20"],
        [b"ZUNIONSTORE", name, b"2", other, b"key3"],
        [b"RPUSH", name, value[:5000], b"%d" % rng.randrange(1000)],
        [b"LPUSH", name, *[b"%d" % rng.randrange(50) for _ in range(rng.choice([1, 5, 300]))]],
        [b"LPOP", name, b"%d" % rng.choice([1, 3, 200])],
        [b"LMOVE", name, other, b"LEFT", b"RIGHT"],
        [b"LREM", name, b"0", b"%d" % rng.randrange(50)],
        [b"LTRIM", name, b"1", b"%d" % rng.randrange(-10, 1000)],
        [b"LINSERT", name, b"BEFORE", b"%d" % rng.randrange(50), value[:100]],
        [b"DEL", name],
        [b"PERSIST", name],
        [b"PEXPIREAT", name, b"4000000001%03d" % rng.randrange(1000)],
    ]
    return rng.choice(changes)


def random_pairs(rng: random.Random) -> list[bytes]:
    """Scores and members."""
    count = rng.choice([1, 5, 300])
    return [part for _ in range(count) for part in (b"%d" % rng.randrange(99), rng.randbytes(1))]


def test_many_keys_in_one_command(client: Client) -> None:
    reference = Reference()
    keys = [b"key:%d" % number for number in range(5000)]
    values = [pattern(number, number % 500) for number in range(5000)]
    pairs = [part for pair in zip(keys, values, strict=True) for part in pair]
    compare(client, reference, [[b"MSET", *pairs], [b"MGET", *keys], [b"DEL", *keys[::2]]])
    compare(client, reference, [[b"MGET", *keys], [b"EXISTS", *keys], [b"MSETNX", *pairs]])
    compare_all_keys(client, reference)


def test_keys_expire(client: Client) -> None:
    sizes = [10, KIB, 60 * KIB, 70 * KIB, MIB]
    for size in sizes:
        must(client("SET", b"%d" % size, pattern(size, size), "PX", "40"))
    must(client("SADD", "set", "a"))
    must(client("PEXPIRE", "set", "40"))
    must(client("SET", "stays", "here", "PX", "1000000"))
    eventually(lambda: client("DBSIZE") == 1)
    assert client("MGET", *[b"%d" % size for size in sizes]) == [None] * len(sizes)
    assert client("SCARD", "set") == 0
    assert client("GET", "stays") == b"here"


def scanned(client: Client, *request: object) -> set[bytes]:
    """All that a walk finds; `request` with ``?`` for the cursor."""
    cursor, found = b"0", set()
    while True:
        cursor, some = client(*[cursor if part == "?" else part for part in request])
        found |= set(some)
        if cursor == b"0":
            return found


def test_keys_and_members_are_walked_and_drawn(client: Client) -> None:
    keys = {b"key:%d" % number for number in range(700)}
    pipeline(client, [[b"SET", name, name * 20] for name in keys])
    large = {b"large:%d" % number for number in range(5)}
    pipeline(client, [[b"SET", name, pattern(1, 70 * KIB)] for name in large])
    members = {b"member:%d" % number for number in range(900)}
    must(client("SADD", "set", *members))
    assert scanned(client, "SCAN", "?", "COUNT", "50") == keys | large | {b"set"}
    assert scanned(client, "SCAN", "?", "MATCH", "large:*") == large
    assert scanned(client, "SCAN", "?", "TYPE", "set", "COUNT", "500") == {b"set"}
    assert scanned(client, "SSCAN", "set", "?", "COUNT", "100") == members
    assert client("RANDOMKEY") in keys | large | {b"set"}
    drawn = client("SRANDMEMBER", "set", 50)
    assert len(set(drawn)) == 50
    assert set(drawn) <= members
    taken = set(client("SPOP", "set", 300))
    assert len(taken) == 300
    assert set(client("SMEMBERS", "set")) == members - taken
    assert client("SPOP", "set") in members - taken
    assert client("SCARD", "set") == 599
    must(client("ZADD", "scores", *(part for name in sorted(members) for part in (1, name))))
    found = scanned(client, "ZSCAN", "scores", "?", "COUNT", "100")
    assert found == members | {b"1"}
    drawn = client("ZRANDMEMBER", "scores", 50)
    assert len(set(drawn)) == 50
    assert set(drawn) <= members


def test_a_pipeline_keeps_its_order(client: Client) -> None:
    sizes = [10, 60 * KIB, 70 * KIB, MIB, KIB]
    requests: list[Request] = []
    expected: list[object] = []
    for number in range(400):
        size = sizes[number % len(sizes)]
        value = pattern(number, size)
        requests += [[b"SET", b"one", value], [b"GET", b"one"], [b"STRLEN", b"one"]]
        expected += ["OK", value, size]
    assert pipeline(client, requests) == expected


@pytest.mark.parametrize("tier", [medium for medium in MEDIA if medium in {"nvme", "ssd", "hdd"}])
def test_a_restart_changes_nothing(tmp_path: Path, tier: str) -> None:
    options = options_of(tier, tmp_path / "values")
    reference = Reference()
    with serving(tmp_path, *options) as server:
        for script in SCRIPTS:
            compare(server.control, reference, list(script()))
    for end in (Server.stop, Server.kill):
        with serving(tmp_path, *options) as server:
            compare_all_keys(server.control, reference)
            compare(server.control, reference, [[b"SELECT", b"0"], [b"APPEND", b"size:10", b"+"]])
            end(server)
