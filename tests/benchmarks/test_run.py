"""Whole runs, short ones, with a second Redis in PocketKV's place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.__main__ import FAILED, main
from benchmarks.client import BenchmarkError
from benchmarks.driver import Driven
from benchmarks.exchanges import command
from benchmarks.helpers import helper
from benchmarks.sampling import prepare, take
from benchmarks.servers import HOST, Endpoint, redis_server
from benchmarks.works import works

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_TIMEOUT_S = 20.0
SHORT = ("--noise", "--pairs", "1", "--run-seconds", "0.01")


def test_a_run_shows_a_table_and_writes_what_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path, plot_path = tmp_path / "made" / "all.json", tmp_path / "ratios.svg"
    paths = ("--json", str(json_path), "--plot", str(plot_path))
    assert main([*SHORT, "--only", "set-100-flooded,rpop", *paths]) == 0
    shown = capsys.readouterr().out
    assert "SET 100 B, 50 connections, flooded" in shown
    assert "| RPOP, 50 connections" in shown
    assert "another Redis" in shown
    told = json.loads(json_path.read_text())
    assert [work["name"] for work in told["works"]] == ["set-100-flooded", "rpop"]
    assert {"cpu", "cores", "kernel", "commit", "redis_server", "pocketkv_core"} <= set(
        told["machine"]
    )
    for work in told["works"]:
        assert len(work["ours"]) == len(work["theirs"]) == 1
        assert work["ours"][0]["operations"] == work["theirs"][0]["operations"]
        assert work["ours"][0]["server_cpu_s"] > 0
    assert len(told["works"][0]["floor"]["send"]) == 3
    assert plot_path.read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "get-100,nonsense"], "nonsense is none"),
        (["--pairs", "-1"], "above 0"),
        (["--plot", "a.png"], "end in .svg"),
        (["--direct", "--router"], "not allowed"),
        (["--noise", "--router"], "--noise"),
    ],
)
def test_a_wrong_argument_is_said_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_what_cannot_be_measured_fails_the_run_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It claims to have set keys, and sets none.
    monkeypatch.setattr("benchmarks.works.fill_strings", lambda *_: 7)
    paths = ("--json", str(tmp_path / "all.json"))
    assert main([*SHORT, "--only", "exists,incr", *paths]) == FAILED
    shown = capsys.readouterr().out
    assert "NOT MEASURED: EXISTS, 50 connections: redis holds 0 keys instead of 7." in shown
    assert "| INCR, 50 connections" in shown


@pytest.fixture(scope="module")
def redis() -> Iterator[Endpoint]:
    with redis_server() as endpoint:
        yield endpoint


def test_a_run_of_error_replies_is_no_run(redis: Endpoint) -> None:
    [work] = [work for work in works() if work.name == "sadd"]
    prepare(work, redis, 10)
    driver = work.make_driver()
    assert take(driver, redis, 100).operations == 100
    with redis.client() as client:
        client.call("SET", "in-the-way", "1")
        client.call("RENAME", "in-the-way", "myset")
    with pytest.raises(BenchmarkError, match="WRONGTYPE"):
        take(driver, redis, 100)


def test_errors_that_the_driver_overlooks_are_counted(redis: Endpoint) -> None:
    class Careless:
        def run(self, host: str, port: int, operations: int) -> Driven:
            with redis.client() as client, pytest.raises(BenchmarkError):
                client.call("NONSENSE")
            return Driven(operations, 1.0, 1.0, 1.0, 0.0)

    with pytest.raises(BenchmarkError, match="redis has sent 1 error replies"):
        take(Careless(), redis, 1)


def test_a_client_notices_an_error_among_many_replies(redis: Endpoint) -> None:
    requests = [command(b"SET", b"a", b"1"), command(b"LPUSH", b"a", b"1")]
    with redis.client() as client, pytest.raises(BenchmarkError, match="WRONGTYPE"):
        client.send(requests, b"+OK\r\n")


def test_idle_connections_are_open_while_they_should_be(redis: Endpoint) -> None:
    with redis.client() as client:
        with helper("idle", HOST, str(redis.port), "20"):
            assert client.info("clients")["connected_clients"] == "21"
        assert client.call("PING") == b"PONG"


def test_no_server_outlives_a_run_that_is_ended(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "benchmarks", "--noise", "--only", "get-100-flooded"]
    command_line += ["--pairs", "1000", "--json", str(tmp_path / "all.json")]
    with subprocess.Popen(command_line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "GET 100 B" in process.stderr.readline()
            servers = psutil.Process(process.pid).children(recursive=True)
            assert len(servers) == 2
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 128 + signal.SIGTERM
            _, alive = psutil.wait_procs(servers, STOP_TIMEOUT_S)
            assert alive == []
        finally:
            process.kill()
