"""redis-cli: one command, a pipeline in Redis's own form, iteration, subscription."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TIMEOUT_S = 30

pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None, reason="redis-cli is not installed: `make setup`"
)


def cli(url: str, *arguments: str, given: bytes = b"") -> str:
    run = subprocess.run(
        ["redis-cli", "-u", url, *arguments],
        input=given,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.decode()


@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_commands_of_every_kind(url: str, protocol: str) -> None:
    assert cli(url, protocol, "SET", "key", "value") == "OK\n"
    assert cli(url, protocol, "GET", "key") == "value\n"
    assert cli(url, protocol, "HSET", "hash", "a", "1", "b", "2") == "2\n"
    assert cli(url, protocol, "HGETALL", "hash").split() == ["a", "1", "b", "2"]
    assert cli(url, protocol, "--no-raw", "ZADD", "zset", "1.5", "m") == "(integer) 1\n"
    assert "1.5" in cli(url, protocol, "ZRANGE", "zset", "0", "-1", "WITHSCORES")
    assert cli(url, protocol, "EVAL", "return ARGV[1]", "0", "x") == "x\n"
    assert cli(url, protocol, "RPUSH", "list", "a") == "1\n"
    assert cli(url, protocol, "BLPOP", "list", "5").split() == ["list", "a"]
    assert cli(url, protocol, "BLPOP", "list", "0.05").strip() == ""
    assert cli(url, protocol, "HELLO").split()[:2] == ["server", "redis"]


def test_a_transaction_is_typed_line_by_line(url: str) -> None:
    said = cli(url, given=b"MULTI\nSET {t}a 1\nINCR {t}a\nEXEC\n")
    assert said == "OK\nQUEUED\nQUEUED\nOK\n2\n"


def test_a_pipeline_in_the_protocol_itself(url: str) -> None:
    requests = b"".join(
        b"*3\r\n$3\r\nSET\r\n$%d\r\nkey:%d\r\n$1\r\nx\r\n" % (len(b"key:%d" % n), n)
        for n in range(2000)
    )
    assert "errors: 0, replies: 2000" in cli(url, "--pipe", given=requests)
    assert len(set(cli(url, "--scan", "--pattern", "key:*").split())) == 2000


def test_a_subscription(url: str) -> None:
    with subprocess.Popen(
        ["redis-cli", "-u", url, "SUBSCRIBE", "news"], stdout=subprocess.PIPE
    ) as subscriber:
        try:
            assert subscriber.stdout is not None
            lines = [subscriber.stdout.readline().strip() for _ in range(3)]
            assert lines == [b"subscribe", b"news", b"1"]
            assert cli(url, "PUBLISH", "news", "hello") == "1\n"
            lines = [subscriber.stdout.readline().strip() for _ in range(3)]
            assert lines == [b"message", b"news", b"hello"]
        finally:
            subscriber.terminate()


def test_a_value_is_dumped_and_restored(url: str, tmp_path: Path) -> None:
    cli(url, "RPUSH", "{d}list", "a", "b", "c")
    dumped = subprocess.run(
        ["redis-cli", "-u", url, "DUMP", "{d}list"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    ).stdout[:-1]
    assert cli(url, "-x", "RESTORE", "{d}copy", "0", given=dumped) == "OK\n"
    assert cli(url, "LRANGE", "{d}copy", "0", "-1").split() == ["a", "b", "c"]


def test_statistics_of_keys(url: str) -> None:
    cli(url, "SET", "key", "value")
    cli(url, "SADD", "set", "a", "b")
    assert "Biggest string found" in cli(url, "--bigkeys")
    assert "Sampled 2 keys" in cli(url, "--memkeys")
