"""The benchmarks of file tiers: their parts, and a run that needs neither fio nor a cold disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import docs, fio, page_cache, tiers
from benchmarks.__main__ import FAILED, main
from benchmarks.client import BenchmarkError
from benchmarks.cold import EXHAUSTED, cold_exchanges
from benchmarks.comparison import Row, Spread, Target
from benchmarks.driver import Driven
from benchmarks.exchanges import dense_value, key
from benchmarks.filling import set_in_order
from benchmarks.helpers import helper
from benchmarks.kept import Outcome
from benchmarks.sampling import P50, P99, Settings
from benchmarks.servers import HOST, Endpoint, redis_server
from benchmarks.works import MIB, TIERS_PREFIX
from tests.benchmarks.test_docs import MACHINE, PLAN
from tests.tiers.storage_process import eventually

SHORT = ("--allow-plain", "--direct", "--pairs", "1", "--run-seconds", "0.01")


@pytest.fixture(scope="module")
def redis() -> Iterator[Endpoint]:
    with redis_server() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def emptied(redis: Endpoint) -> None:
    with redis.client() as client:
        client.call("FLUSHALL")


# --- fio ---------------------------------------------------------------------------------------


def output(**changes: object) -> str:
    side = {"io_bytes": 1 << 20, "total_ios": 256, "runtime": 500}
    job = {"error": 0, "write": side, "read": {}, "job_runtime": 400}
    return "fio: a warning\n" + json.dumps({"jobs": [job | changes]})


def test_what_fio_says_is_understood() -> None:
    assert fio.measured(output(), "write") == fio.Measured(2 * (1 << 20), 512)
    # What is waited for at the end counts.
    assert fio.measured(output(job_runtime=1000), "write").operations_per_s == 256


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "something else"),
        ("fio: bad option", "something else"),
        ('{"jobs": []}', "something else"),
        (output(error=28), "the error 28"),
        (output(write={"io_bytes": 0, "total_ios": 0, "runtime": 0}), "moved nothing"),
    ],
)
def test_what_fio_must_not_say(text: str, said: str) -> None:
    with pytest.raises(BenchmarkError, match=said):
        fio.measured(text, "write")


def test_fio_measures_a_file_and_removes_it(tmp_path: Path) -> None:
    if not fio.is_installed():
        pytest.skip(fio.INSTALL)
    # A colon in a name means something to fio.
    folder = tmp_path / "a:b"
    folder.mkdir()
    measuring = fio.Fio(folder, 1 << 20)
    try:
        assert measuring.write(1 << 18, 2).operations_per_s > 0
    except BenchmarkError as error:
        pytest.skip(f"this file system has no direct access: {error}")
    assert [path.name for path in folder.iterdir()] == ["fio"]
    assert measuring.read_randomly(4096, 2, 0.05).bytes_per_s > 0
    measuring.remove()
    # It is made anew where something is to be read.
    assert measuring.read(1 << 18, 2).operations_per_s > 0


def test_what_fio_fails_at_is_said(tmp_path: Path) -> None:
    if not fio.is_installed():
        pytest.skip(fio.INSTALL)
    with pytest.raises(BenchmarkError, match=r"fio \(write\)"):
        fio.Fio(tmp_path, 1 << 20).write(0, 1)


def test_without_fio_its_rows_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fio, "PROGRAM", "fio-that-is-nowhere")
    paths = ("--json", str(tmp_path / "all.json"), "--dir", str(tmp_path / "tiers"))
    assert main([*SHORT, "--only", "tiers-read-4k", *paths]) == FAILED
    said = "Left out: tiers-read-4k: fio is not installed (Debian: apt-get install fio)."
    assert said in capsys.readouterr().err
    with pytest.raises(BenchmarkError, match="apt-get install fio"):
        fio.Fio(tmp_path, 4096).write(4096, 1)


# --- drivers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "clients"), [(1, 4), (4, 4), (23, 4)])
def test_large_values_are_set(redis: Endpoint, count: int, clients: int) -> None:
    stored = dense_value(300_000)
    assert set_in_order(HOST, redis.port, stored, range(count), clients) > 0
    with redis.client() as client:
        assert client.call("DBSIZE") == count
        assert client.call("GET", key(count - 1)) == stored


def test_a_refused_value_is_noticed(redis: Endpoint) -> None:
    with redis.client() as client:
        client.call("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(BenchmarkError, match="OOM"):
                set_in_order(HOST, redis.port, b"v" * 100, range(3), 1)
        finally:
            client.call("CONFIG", "SET", "maxmemory", "0")


def test_cold_clients_ask_for_each_key_once() -> None:
    asked = [exchange.request for exchange in cold_exchanges(50, 16, seed=1)]
    assert len(set(asked)) == 50
    assert asked != [exchange.request for exchange in cold_exchanges(50, 16, seed=2)]


def test_cold_clients_say_when_they_have_read_everything(redis: Endpoint) -> None:
    with redis.client() as client:
        client.set_strings(0, 50, dense_value(4096))
        before = client.counts()
        arguments = (HOST, str(redis.port), "16", "50", "4096", "1")
        with helper("cold", *arguments) as pump:
            eventually(lambda: client.counts().since(before).hits == 50)
        assert pump.result == EXHAUSTED
        with helper("cold", HOST, str(redis.port), "2", "50", "4096", "1") as pump:
            pass
        assert pump.result == EXHAUSTED or int(pump.result.split()[0]) <= 50


def test_a_wrong_value_ends_the_cold_clients(redis: Endpoint) -> None:
    with redis.client() as client:
        client.set_strings(0, 20, b"something else")
    with helper("cold", HOST, str(redis.port), "4", "20", "4096", "1") as pump:
        eventually(lambda: psutil.Process(pump.pid).status() == psutil.STATUS_ZOMBIE)
    assert pump.result == ""


def test_files_are_forgotten_and_keep_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    path = tmp_path / "below" / "file"
    path.write_bytes(dense_value(1 << 20))
    os.mkfifo(tmp_path / "no file")
    page_cache.write_back(tmp_path)
    page_cache.forget(tmp_path)
    assert path.read_bytes() == dense_value(1 << 20)


# --- rows --------------------------------------------------------------------------------------


def test_what_was_not_cold_is_no_measurement() -> None:
    tiers._require_cold(60, 100)
    with pytest.raises(BenchmarkError, match="of 100 values 40 were read from the device"):
        tiers._require_cold(40, 100)


def test_there_must_be_room(tmp_path: Path) -> None:
    ground = tiers.Ground(folder=tmp_path / "t", size_bytes=1 << 60, settings=Settings(1, 0.01, 0))
    with pytest.raises(BenchmarkError, match="MiB are free"), tiers.bench(ground):
        pass


def test_isolation_is_what_it_is_alone() -> None:
    def driven(p50_us: float, p99_us: float) -> Driven:
        return Driven(100, 1.0, p50_us, p99_us, 0.1)

    beside = [driven(20, 300), driven(30, 200)]
    taken = tiers._isolation(beside, [driven(10, 100)] * 2, [5000.0, 7000.0])
    p50, p99 = taken.rows
    assert (p50.measure, p50.compared.median, p50.target) == (P50, 2.5, None)
    assert (p99.measure, p99.compared, p99.verdict) == (P99, Spread(2.5, 2.0, 3.0), "MISSES")
    assert p50.note == "the cold ones get 6,000/s"
    assert json.loads(json.dumps(taken.samples))["cold_per_s"] == [5000.0, 7000.0]


def test_they_have_a_table_of_their_own() -> None:
    row = Row(f"{TIERS_PREFIX}GET 1 MiB", P50, "us", 30, 20, Spread(1.5, 1.5, 1.5), Target(high=2))
    text = docs.section(Outcome(machine=dict(MACHINE), plan=dict(PLAN), rows=[row]))
    assert "### Beside Redis" not in text
    assert "| GET 1 MiB | p50 | 30.0 us | 20.0 us | 1.50 | <= 2 | meets |" in text


def test_a_run_on_a_file_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "tiers", tmp_path / "all.json"
    paths = ("--json", str(path), "--dir", str(folder), "--tier-mib", "8")
    assert main([*SHORT, "--only", "tiers-hot-1m", *paths]) == 0
    assert "GET 1 MiB from the page cache, beside dram" in capsys.readouterr().out
    told = json.loads(path.read_text())
    [ours] = told["others"]["tiers"]["tiers-hot-1m"]["ours"]
    assert ours["operations"] * MIB > 0
    assert told["rows"][0]["measure"] == "throughput"
    # Nothing is left behind.
    assert list(folder.iterdir()) == []
