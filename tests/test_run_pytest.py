"""What `scripts/run-pytest.sh` does with tests that fail: run for real, on tests made here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "run-pytest.sh"
SOMETIMES = """
from pathlib import Path
def test_sometimes():
    seen = Path("seen")
    was_there = seen.exists()
    seen.touch()
    assert was_there
def test_good():
    pass
"""
NEVER = """
def test_never():
    assert False
"""
MANY = """
import pytest
@pytest.mark.parametrize("number", range(6))
def test_never(number):
    assert False
"""


def run(folder: Path, text: str, *, ci: bool) -> tuple[int, str]:
    (folder / "test_made.py").write_text(text)
    environment = {key: value for key, value in os.environ.items() if key != "CI"}
    if ci:
        environment["CI"] = "true"
    command = [str(SCRIPT), sys.executable, "-n", "1", "-c", "/dev/null", "--rootdir", ".", "."]
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_what_passes_at_the_second_time_is_told(tmp_path: Path) -> None:
    status, text = run(tmp_path, SOMETIMES, ci=True)
    assert status == 0
    assert text.endswith("FLAKY, failed once and passed alone:\ntest_made.py::test_sometimes\n")
    assert "1 passed in" in text


@pytest.mark.parametrize(
    ("text", "ci", "runs"),
    [(SOMETIMES, False, 1), (NEVER, True, 2), (MANY, True, 1)],
    ids=["not in CI", "it fails again", "too many"],
)
def test_what_fails_fails(tmp_path: Path, text: str, ci: bool, runs: int) -> None:
    status, output = run(tmp_path, text, ci=ci)
    assert status == 1
    assert output.count(" failed") == runs + (runs - 1)
    assert "FLAKY" not in output
