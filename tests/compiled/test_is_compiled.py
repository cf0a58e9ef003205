"""What should be compiled is, wherever the tests are told that it should be.

`make test-compiled` and `make test-asan` say so in the environment: only they may, and they do it
for a copy of this tree. Without that, these tests say that nothing is compiled here.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketkv.engine.info import running_core

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 50.0
MUST_BE_COMPILED = os.environ.get("POCKETKV_TESTS") == "compiled"


def sources() -> list[str]:
    """The list in setup.py; as text, since running that would start a build."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            listed: tuple[str, ...] = ast.literal_eval(node.value)
            return list(listed)
    raise AssertionError("setup.py has no list of what is compiled")


def module_name(source: str) -> str:
    return source.rpartition(".")[0].replace("/", ".")


def test_the_list_is_read() -> None:
    assert {"pocketkv/resp/parser.py", "pocketkv/engine/gate.py"} <= set(sources())


@pytest.mark.parametrize("source", sources())
def test_the_hot_path_is_what_is_tested(source: str) -> None:
    found = importlib.import_module(module_name(source)).__file__
    assert found is not None
    path = Path(found)
    assert path.parent == (ROOT / source).parent, "another installation is being tested"
    if MUST_BE_COMPILED:
        assert path.suffix == ".so"
        # An extension module that was left over would test what nobody edits any more.
        assert path.stat().st_mtime >= (ROOT / source).stat().st_mtime
    else:
        assert path.suffix == ".py"


# A compiled module needs the types of others before its first line, so a circle that is harmless
# in Python may not be.
@pytest.mark.parametrize("source", sources())
def test_each_can_be_the_first_that_is_imported(source: str) -> None:
    command = [sys.executable, "-c", f"import {module_name(source)}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_server_says_the_same() -> None:
    assert running_core() == ("compiled" if MUST_BE_COMPILED else "python")


def test_the_build_is_told_apart_by_name() -> None:
    # So that a rename of the folder cannot turn these tests into ones of plain Python.
    assert (ROOT.parent.name == "build") <= MUST_BE_COMPILED
