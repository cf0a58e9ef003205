"""docs/commands.md says what the records say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "command_docs.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_not_stale() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_command_of_redis_is_there_once(generator: ModuleType) -> None:
    text = generator.text()
    for name in generator.NAMES.read_text(encoding="ascii").split():
        spelled = f"| `{name.upper().replace('|', ' ')}` |"
        assert text.count(spelled) == 1, name


def test_what_is_said_is_about_commands_that_there_are(generator: ModuleType) -> None:
    names = set(generator.NAMES.read_text(encoding="ascii").split())
    assert set(generator.DIFFERENCES) <= names
    assert set(generator.REASONS) <= names
