"""Run on the compiled build alone (`make test-compiled`): what should be compiled is."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IS_COMPILED_TREE = ROOT.name == "compiled" and ROOT.parent.name == "build"


def modules() -> list[str]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    lines = [line.strip().strip('",') for line in text.splitlines()]
    paths = [line for line in lines if line.startswith("pocketkv/") and "." in line]
    return [path.rsplit(".", 1)[0].replace("/", ".") for path in paths]


def test_the_list_is_read() -> None:
    # As text: running setup.py would start a build.
    assert "pocketkv.resp.parser" in modules()


@pytest.mark.skipif(not IS_COMPILED_TREE, reason="the tree that is edited is never compiled")
@pytest.mark.parametrize("name", modules())
def test_module_is_an_extension(name: str) -> None:
    path = importlib.import_module(name).__file__
    assert path is not None
    assert path.endswith(".so")
