"""`pocketkv top` as a process, beside a real cluster and where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.local import serving

TIMEOUT_S = 30.0


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pocketkv", "top", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "COLUMNS": "250"},
    )


def test_where_there_is_no_terminal_it_prints_one_view(tmp_path: Path) -> None:
    with serving(tmp_path, "--dram", "1", "--nvme", "0") as cluster:
        cluster.client().set("hello", "world")
        shown = top("--url", f"redis://127.0.0.1:{cluster.port}")
        (server,) = cluster.servers()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("1 servers, ")
    assert f"{server['host']}:{server['port']}" in shown.stdout
    assert "default   active" in shown.stdout


def test_no_cluster_is_a_clear_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        shown = top("--url", f"redis://127.0.0.1:{unused.getsockname()[1]}", "--once")
    assert shown.returncode == 1
    assert shown.stderr.startswith("pocketkv top: ")
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["--interval", "0"], ["--interval", "x"], ["--url", "http://x"]]
)
def test_arguments_that_cannot_be_are_refused(arguments: list[str]) -> None:
    shown = top(*arguments)
    assert shown.returncode in (1, 2)
    assert "pocketkv top: " in shown.stderr
