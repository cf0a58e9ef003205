"""Routers and storage servers as real processes, used by real clients, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from pocketkv.demo.local import local_cluster
from pocketkv.slots import key_slot
from tests.redis_server import free_port

START_TIMEOUT_S = 20.0
# Nothing may take longer: no reply for 5 s, a second until that is noticed, and a busy machine.
ANSWER_TIMEOUT_S = 12.0
# redis-py would try again by itself, and hide what is answered.
NO_RETRY = Retry(NoBackoff(), 0)
KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local_cluster(["--dram", "3", "--nvme", "0"]) as url:
        yield url


@pytest.fixture
def job(url: str) -> Iterator[str]:
    """The URL of a job that is spread over all servers."""
    with redis.Redis.from_url(url) as admin:
        registered = command(admin, "JOB.REGISTER", "test", "LAMBDAS", 40)
        yield registered[b"url"].decode()
        command(admin, "JOB.DEREGISTER", registered[b"id"])


def command(client: Any, *arguments: object) -> Any:
    """Send a command that redis-py has no method for (its types know no such)."""
    return client.execute_command(*arguments)


def pipeline_commands(count: int) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Commands that go to all servers and to the router itself, and what they answer."""
    commands: list[tuple[Any, ...]] = []
    expected: list[Any] = []
    for number in range(count // 5):
        key, other = f"k{number % 101}", f"k{(number + 1) % 101}"
        commands += [("SET", key, number), ("GET", key), ("ECHO", number)]
        expected += [True, b"%d" % number, b"%d" % number]
        commands += [("DEL", other), ("MGET", key, other)]
        expected += [int(number >= 100), [b"%d" % number, None]]
    return commands, expected


@pytest.mark.parametrize("protocol", [2, 3])
def test_deep_pipelines_keep_their_order(job: str, protocol: int) -> None:
    commands, expected = pipeline_commands(10_000)
    with redis.Redis.from_url(job, protocol=protocol) as client:
        pipeline = client.pipeline(transaction=False)
        for request in commands:
            pipeline.execute_command(*request)
        assert pipeline.execute() == expected


def test_many_asynchronous_clients_at_once(job: str) -> None:
    async def use(number: int) -> None:
        client = redis.asyncio.Redis.from_url(job)
        async with client:
            names = [f"{number}:{n}" for n in range(40)]
            await client.mset(dict.fromkeys(names, number))
            assert await client.mget(names) == [b"%d" % number] * 40
            for name in names:
                assert await client.incr(name) == number + 1
            assert await client.delete(*names) == 40

    async def main() -> None:
        await asyncio.gather(*(use(number) for number in range(40)))

    asyncio.run(main())
    with redis.Redis.from_url(job) as client:
        assert client.dbsize() == 0


def test_a_cluster_client_reads_the_map_and_goes_to_the_servers(job: str) -> None:
    with redis.RedisCluster.from_url(job) as cluster, redis.Redis.from_url(job) as plain:
        ports = {node.port for node in cluster.get_nodes()}
        router_port = plain.connection_pool.connection_kwargs["port"]
        assert len(ports) == 3
        assert router_port not in ports
        for key in KEYS:
            assert cluster.set(key, key)
        assert plain.mget(KEYS) == [key.encode() for key in KEYS]
        assert plain.dbsize() == len(KEYS)
        assert sorted(plain.scan_iter(count=50)) == sorted(key.encode() for key in KEYS)
        assert plain.info("keyspace")["db0"]["keys"] == len(KEYS)


def servers_of(client: redis.Redis) -> dict[int, tuple[int, list[str]]]:
    """By port of each storage server: its process, and keys of its slots."""
    pids = {s[b"port"]: s[b"pid"] for s in command(client, "SERVER.LIST")}
    found: dict[int, tuple[int, list[str]]] = {port: (pid, []) for port, pid in pids.items()}
    for first, last, owner in command(client, "CLUSTER SLOTS"):
        own = [key for key in KEYS if first <= key_slot(key.encode()) <= last]
        found[owner[1]][1].extend(own)
    return found


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns or raises, and how long it took."""
    started_s = time.monotonic()
    try:
        result = call()
    except redis.RedisError as error:
        result = error
    return result, time.monotonic() - started_s


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_is_gone_or_silent_costs_others_nothing(number: int) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(local_cluster(["--dram", "3", "--nvme", "0"]))
        client = stack.enter_context(redis.Redis.from_url(url, retry=NO_RETRY))
        other = stack.enter_context(redis.Redis.from_url(url, retry=NO_RETRY))
        for key in KEYS:
            client.set(key, key)
        (pid, ill), *well = [pair for pair in servers_of(client).values() if pair[1]]
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            stack.callback(_kill, pid)
        result, took_s = timed(lambda: client.get(ill[0]))
        assert took_s < ANSWER_TIMEOUT_S
        # By then it may have been replaced already, by a server without the keys.
        assert result is None or isinstance(result, redis.ResponseError)
        for _, keys in well:
            for key in keys[:20]:
                result, took_s = timed(partial(other.get, key))
                assert (result, took_s < 4.0) == (key.encode(), True)
        deadline_s = time.monotonic() + 20
        while timed(lambda: client.set(ill[0], "new"))[0] is not True:
            assert time.monotonic() < deadline_s, "its slots are served by nobody"
        assert client.get(ill[0]) == b"new"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- a router by itself ------------------------------------------------------------------------


@contextlib.contextmanager
def run_router(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A router process, and what it announces."""
    ready_read, ready_write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pocketkv", "router", "--announce-fd", str(ready_write), *options],
        pass_fds=(ready_write,),
        env=os.environ | {"POCKETKV_SECRET": secrets.token_hex(32)},
        stderr=subprocess.PIPE,
    )
    os.close(ready_write)
    try:
        assert select.select([ready_read], [], [], START_TIMEOUT_S)[0]
        yield process, json.loads(os.read(ready_read, 4096) or b"{}")
    finally:
        os.close(ready_read)
        process.terminate()
        process.communicate(timeout=10)


def test_a_router_without_a_controller_says_so() -> None:
    absent = f"127.0.0.1:{free_port()}"
    with run_router("--port", "0", "--controller", absent) as (process, ready):
        with redis.Redis(port=ready["port"], retry=NO_RETRY) as client:
            assert client.ping()
            for request in (["GET", "k"], ["DBSIZE"]):
                with pytest.raises(redis.ResponseError, match="has not reached the controller"):
                    command(client, *request)
            with pytest.raises(redis.ResponseError, match="controller does not answer"):
                command(client, "JOB.LIST")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_routers_share_a_port_only_if_they_are_told_to() -> None:
    options = ["--port", "0", "--controller", f"127.0.0.1:{free_port()}"]
    with run_router(*options, "--reuse-port") as (_, first):
        same = ["--port", str(first["port"]), *options[2:]]
        with run_router(*same, "--reuse-port") as (_, second):
            assert second["port"] == first["port"]
            for _ in range(10):
                with redis.Redis(port=first["port"]) as client:
                    assert client.ping()
        with run_router(*same) as (process, refused):
            assert refused == {}
            assert process.wait(10) == 2
            assert process.stderr is not None
            text = process.stderr.read().decode()
            assert text.count("\n") == 1
            assert "Address already in use" in text
