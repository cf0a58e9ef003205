"""Whole runs, short ones, with a second Redis in PocketKV's place."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import docs, machine
from benchmarks.__main__ import FAILED, USAGE_ERROR, main
from benchmarks.client import BenchmarkError, Counts
from benchmarks.driver import Driven
from benchmarks.exchanges import command
from benchmarks.helpers import helper
from benchmarks.sampling import Settings, Work, check_counts, prepare, take
from benchmarks.servers import HOST, Endpoint, redis_server
from benchmarks.session import Plan, Session
from benchmarks.works import works

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_TIMEOUT_S = 20.0
SHORT = ("--noise", "--pairs", "1", "--run-seconds", "0.01")


def test_a_run_shows_a_table_and_writes_what_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path, plot_path = tmp_path / "made" / "all.json", tmp_path / "ratios.svg"
    paths = ("--json", str(json_path), "--plot", str(plot_path))
    assert main([*SHORT, "--only", "set-100-own,rpop", *paths]) == 0
    shown = capsys.readouterr().out
    assert "SET 100 B, 50 connections" in shown
    assert "| RPOP, 50 connections" in shown
    assert "another Redis" in shown
    told = json.loads(json_path.read_text())
    assert [work["name"] for work in told["works"]] == ["set-100-own", "rpop"]
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
    assert (
        "NOT MEASURED: EXISTS, 50 connections (redis-benchmark): redis holds 0 keys instead of 7."
        in shown
    )
    assert "| INCR, 50 connections" in shown


def test_a_work_that_reads_misses_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # All keys but a few are there.
    monkeypatch.setattr("benchmarks.works._filling", lambda size, _: [(SET_ONE, 1)])
    monkeypatch.setattr("benchmarks.sampling.prepare", fill_only)
    paths = ("--json", str(tmp_path / "all.json"))
    assert main([*SHORT, "--only", "get-100,mget-10", *paths]) == FAILED
    shown = capsys.readouterr().err
    for work in ("GET 100 B", "MGET of 10 x 100 B"):
        assert f"{work}, 50 connections (redis-benchmark): not measured: redis looked up" in shown
    assert "keys that are not there" in shown


SET_ONE = command(b"SET", b"key:000000000007", b"x")


def fill_only(work: Work, endpoint: Endpoint, operations: int) -> None:
    """`prepare`, without looking at what is there."""
    with endpoint.client() as client:
        work.fill(client, operations)


@pytest.mark.parametrize(
    ("counts", "hits", "said"),
    [
        (Counts(errors=1, hits=10, misses=0), 10, "1 error replies"),
        (Counts(errors=0, hits=10, misses=1), 10, "1 keys that are not there, and 10 that are"),
        (Counts(errors=0, hits=9, misses=0), 10, "found 9 keys in 10 look-ups"),
    ],
)
def test_a_server_must_have_done_what_was_asked(counts: Counts, hits: int, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        check_counts("it", counts, hits)


def test_some_look_ups_may_be_others() -> None:
    check_counts("it", Counts(errors=0, hits=11, misses=0), 10)
    check_counts("it", Counts(errors=0, hits=0, misses=5), 0)


def test_plain_python_is_not_measured_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_is_compiled", lambda name: name != "pocketkv.slots")
    run = ["--only", "get-100", "--json", str(tmp_path / "all.json")]
    assert main(run) == USAGE_ERROR
    assert capsys.readouterr().err == (
        "benchmarks: not compiled: pocketkv.slots; `make bench` compiles them first\n"
    )


def test_a_server_that_runs_plain_python_is_found_out() -> None:
    class Plain:
        name = "storage"

        @contextmanager
        def client(self) -> Iterator[Plain]:
            yield self

        def info(self) -> dict[str, str]:
            return {"pocketkv_core": "python"}

    for allows_plain in (False, True):
        session = Session(plan(allows_plain=allows_plain))
        with (
            contextlib.nullcontext()
            if allows_plain
            else pytest.raises(
                BenchmarkError, match="storage does not run the compiled hot path, but: python"
            )
        ):
            assert session._core_of(Plain()) == "python"  # type: ignore[arg-type]


def plan(**changes: Any) -> Plan:
    made: dict[str, Any] = {
        "settings": Settings(pairs=1, run_s=0.01, floor_runs=0),
        "is_quick": False,
        "only": frozenset(("get-100-own",)),
        "with_direct": True,
        "with_router": False,
        "with_noise": True,
        "keys": 10,
        "honest_bytes": 1000,
        "time_s": 60.0,
    }
    return Plan(**(made | changes))


def test_nothing_is_begun_when_the_time_is_over() -> None:
    session = Session(plan(time_s=0.0))
    session.run()
    assert session.rows == []
    assert "the 0 minutes were over" in session.failures[0]


def test_light_clients_are_measured_beside_a_heavy_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = tmp_path / "all.json"
    assert main([*SHORT, "--only", "tails-set", "--json", str(json_path)]) == 0
    assert "50 light clients beside 1 MiB SETs" in capsys.readouterr().out
    told = json.loads(json_path.read_text())
    [ours] = told["others"]["tails"]["tails-set"]["ours"]
    assert 0 < ours["alone_p50_us"] <= ours["alone_p99_us"]
    assert 0 < ours["beside_p50_us"] <= ours["beside_p99_us"]
    assert ours["heavy_mib_per_s"] > 1


def test_what_was_kept_is_shown_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    json_path, page, picture = (tmp_path / name for name in ("all.json", "a.md", "a.svg"))
    page.write_text(f"before\n\n{docs.BEGIN}\n{docs.END}\n\nafter\n")
    paths = ["--write-docs", str(page), "--plot", str(picture)]
    run = [*SHORT, "--only", "get-100-own,memory-per-key", "--json", str(json_path)]
    monkeypatch.setattr("benchmarks.__main__._KEYS", 1000)
    assert main([*run, *paths]) == 0
    first = page.read_text(), picture.read_text()
    assert first[0].startswith("before\n\n" + docs.BEGIN)
    assert first[0].endswith(docs.END + "\n\nafter\n")
    assert "| GET 100 B, 50 connections | own |" in first[0]
    assert "1,000 keys of 100 B" in first[0]
    picture.unlink()
    assert main(["--again", str(json_path), *paths]) == 0
    assert (page.read_text(), picture.read_text()) == first
    capsys.readouterr()


def test_what_was_kept_by_others_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    for text, said in (("{", "Expecting"), ("{}", "not the figures"), ("[]", "not the figures")):
        path.write_text(text)
        assert main(["--again", str(path)]) == USAGE_ERROR
        assert said in capsys.readouterr().err
    assert main(["--again", str(tmp_path / "none")]) == USAGE_ERROR


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


def test_blocked_connections_are_blocked_while_they_should_be(redis: Endpoint) -> None:
    with redis.client() as client:
        with helper("idle", HOST, str(redis.port), "20", "blocked"):
            assert client.info("clients")["blocked_clients"] == "20"
        assert client.call("PING") == b"PONG"


def test_no_server_outlives_a_run_that_is_ended(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "benchmarks", "--noise", "--only", "get-100-own"]
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
