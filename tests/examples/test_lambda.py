"""examples/lambda, run as its README says: on local processes, against a real cluster."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pocketkv.catalog import load_catalog
from tests.e2e.local import Cluster, serving

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "lambda"
TIMEOUT_S = 50.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("cluster"), "--nvme", "0") as running:
        yield running


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's functions.py, whose folder is no package."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    spec = importlib.util.spec_from_file_location("functions", EXAMPLE / "functions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("handler", "latency"):
        sys.modules.pop(name, None)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE / script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def jobs(cluster: Cluster) -> list[str]:
    return [job["id"] for job in cluster.admin.execute_command("JOB.LIST")]


def test_the_driver_counts_words_with_local_functions(cluster: Cluster) -> None:
    files = [ROOT / "README.md", ROOT / "docs" / "catalog.md"]
    words = Counter(word for path in files for word in re.findall(r"\w+", path.read_text().lower()))
    url = f"redis://127.0.0.1:{cluster.port}"
    done = run("driver.py", "--url", url, "--local", "--mappers", "3", "--reducers", "2",
               "--top", "5", *map(str, files))  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[:5]]
    shown = {word: times for times, word in rows}
    assert sorted(map(int, shown.values()), reverse=True) == [n for _, n in words.most_common(5)]
    assert all(words[word] == int(times) for word, times in shown.items())
    report = done.stdout.splitlines()[-1]
    assert f"{words.total()} words; on dram" in report
    # What it cost is by the catalog: no more than the cluster's servers, and more than nothing.
    per_hour = float(re.search(r"([\d.]+) USD an hour", report)[1])  # type: ignore[index]
    assert 0 < per_hour <= 2 * load_catalog().tier("dram").server_price_per_hour
    assert jobs(cluster) == ["default"]


def test_the_driver_ends_its_job_when_it_cannot_go_on(cluster: Cluster) -> None:
    done = run("driver.py", "--url", f"redis://127.0.0.1:{cluster.port}", "--local", "no-such-file")
    assert done.returncode == 2
    assert "no-such-file" in done.stderr
    done = run("driver.py", "--url", "redis://127.0.0.1:1", "--local", str(ROOT / "LICENSE"))
    assert done.returncode == 1
    assert done.stderr.startswith("driver: ")
    assert jobs(cluster) == ["default"]


@pytest.mark.parametrize("way", [(), ("--cluster",)], ids=["router", "cluster"])
def test_latency_is_measured(cluster: Cluster, way: tuple[str, ...]) -> None:
    url = f"redis://127.0.0.1:{cluster.port}"
    done = run("latency.py", "--url", url, "--requests", "200", *way)
    assert done.returncode == 0, done.stderr
    head, names, *rows = done.stdout.splitlines()
    assert head.startswith("200 of each, 1024 bytes, on dram, ")
    assert names.split() == ["us", "min", "p50", "p90", "p99", "p99.9", "max", "mean"]
    for row, kind in zip(rows, ("PUT", "GET"), strict=False):
        assert row.split()[0] == kind
        figures = [float(text) for text in row.split()[1:]]
        assert figures[:-1] == sorted(figures[:-1])
        assert 0 < figures[0] <= figures[-1] <= figures[-2]
    assert jobs(cluster) == ["default"]


def test_a_warm_function_finds_its_connection_open(
    cluster: Cluster, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = importlib.import_module("handler")
    url = f"redis://127.0.0.1:{cluster.port}"
    monkeypatch.setenv("JOB_URL", url)
    event = {"task": "map", "mapper": 0, "reducers": 1, "text": "One two, two."}
    assert function.handler(event) == {"words": 3}
    first = function.connection(url)
    assert function.handler({"task": "reduce", "reducer": 0, "mappers": 1}) == {
        "words": 3,
        "different": 2,
    }
    assert function.connection(url) is first
    assert json.loads(first.get("reduce/0")) == {"one": 1, "two": 2}
    assert first.exists("map/0/0") == 0
    with pytest.raises(KeyError, match="map/0/0"):
        function.handler({"task": "reduce", "reducer": 0, "mappers": 1})
    with pytest.raises(ValueError, match="no task 'sort'"):
        function.handler({"task": "sort"})
    first.unlink("reduce/0")
    # Another job has another connection, and the one before is closed.
    other = function.connection(url + "/0")
    assert other is not first
    assert list(function._connections) == [url + "/0"]
    other.close()


class PlayedLambda:
    """Lambda is not to be had here: this answers as boto3's client of it does."""

    def __init__(self, answers: dict[int, dict[str, Any]]) -> None:
        self.answers = answers

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert FunctionName == "shuffle"
        answer = self.answers[json.loads(Payload)["mapper"]]
        failed = {"FunctionError": "Unhandled"} if "errorMessage" in answer else {}
        return {"Payload": io.BytesIO(json.dumps(answer).encode()), **failed}


def test_functions_are_invoked_for_every_event(example: ModuleType) -> None:
    invoke = example.on_lambda("shuffle", PlayedLambda({n: {"words": n} for n in range(5)}))
    assert invoke([{"mapper": n} for n in range(5)]) == [{"words": n} for n in range(5)]


def test_a_function_that_fails_is_told(example: ModuleType) -> None:
    played = PlayedLambda({0: {"words": 1}, 1: {"errorMessage": "map/7/0 is missing"}})
    with pytest.raises(example.FunctionError, match="map/7/0 is missing"):
        example.on_lambda("shuffle", played)([{"mapper": 0}, {"mapper": 1}])
