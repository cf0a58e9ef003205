"""The import rules must be able to fail: a small package breaks each of them, and is found out."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / ".importlinter"

# Everything that the rules name, as empty modules.
MODULES = """
    __main__ cli admin calibrate demo top client
    controller.probe controller.backends.kubernetes.api router.probe tiers.probe tiers.s3.client
    tiers.volume.checksums
    controller.accounts controller.books controller.changes controller.fleet controller.listings
    controller.draining controller.elastic controller.events controller.loads controller.members
    controller.messages controller.moving controller.overview controller.placements
    controller.policy.probe controller.rates controller.retention controller.scaling
    controller.state controller.tenants controller.traffic controller.transit
    simulate.clock simulate.comparing simulate.elastic simulate.fixed simulate.meter simulate.plot
    simulate.pocket simulate.policies simulate.progress simulate.running simulate.stations
    simulate.trace simulate.report
    observability.http observability.metrics observability.process observability.probe
    serving.probe engine.probe
    lua.interpreter lua.slices
    resp.byte_sink resp.client_connection resp.connection resp.encoder resp.errors resp.frames
    resp.handler resp.parser resp.peer resp.reactor resp.replies resp.sinks resp.syscalls
    amounts catalog config crc16 jobs limits options placement slots stopwatch tokens
""".split()

# Module that imports, what it may not import, and the rule that says so.
FORBIDDEN = [
    ("limits", "pocketkv.resp.errors", "layers"),
    ("resp.errors", "pocketkv.engine.probe", "layers"),
    ("engine.probe", "pocketkv.observability.probe", "layers"),
    ("observability.probe", "pocketkv.tiers.probe", "layers"),
    ("observability.probe", "pocketkv.serving.probe", "layers"),
    ("serving.probe", "pocketkv.tiers.probe", "layers"),
    ("router.probe", "pocketkv.controller.probe", "layers"),
    ("router.probe", "pocketkv.tiers.probe", "layers"),
    ("tiers.probe", "pocketkv.controller.probe", "layers"),
    ("controller.probe", "pocketkv.cli", "layers"),
    ("admin", "pocketkv.top", "layers"),
    ("tiers.probe", "pocketkv.client", "layers"),
    ("client", "pocketkv.router.probe", "layers"),
    ("client", "pocketkv.resp.errors", "client"),
    ("client", "pocketkv.engine.probe", "client"),
    ("resp.parser", "pocketkv.resp.reactor", "codec"),
    ("resp.errors", "pocketkv.resp.replies", "codec"),
    ("resp.parser", "socket", "pure"),
    ("resp.encoder", "trio", "pure"),
    ("slots", "random", "pure"),
    ("jobs", "time", "pure"),
    ("placement", "os", "pure"),
    ("engine.probe", "time", "engine"),
    ("engine.probe", "select", "engine"),
    ("engine.probe", "pocketkv.resp.connection", "engine"),
    ("resp.reactor", "hiredis", "hiredis"),
    ("tiers.probe", "psutil", "psutil"),
    ("router.probe", "prometheus_client", "prometheus"),
    ("router.probe", "h11", "http"),
    ("tiers.probe", "boto3", "s3"),
    ("tiers.probe", "botocore.config", "s3"),
    ("tiers.probe", "xxhash", "xxhash"),
    ("router.probe", "kubernetes.client", "kubernetes"),
    ("router.probe", "redis", "redis"),
    ("router.probe", "rich.progress", "terminal"),
    ("demo", "textual.app", "screen"),
    ("engine.probe", "lupa.lua51", "lua"),
    ("engine.probe", "greenlet", "greenlet"),
]

# Module that imports, and what it may.
ALLOWED = [
    ("admin", "redis"),
    ("client", "redis"),
    ("controller.backends.kubernetes.api", "kubernetes"),
    ("controller.probe", "pocketkv.observability.metrics"),
    ("demo", "pocketkv.client"),
    ("demo", "rich"),
    ("engine.probe", "pocketkv.limits"),
    ("engine.probe", "pocketkv.resp.errors"),
    ("lua.interpreter", "lupa"),
    ("lua.slices", "greenlet"),
    ("observability.http", "h11"),
    ("observability.metrics", "prometheus_client"),
    ("observability.process", "psutil"),
    ("placement", "pocketkv.slots"),
    ("resp.connection", "socket"),
    ("resp.peer", "hiredis"),
    ("resp.reactor", "trio"),
    ("router.probe", "pocketkv.engine.probe"),
    ("router.probe", "trio"),
    ("tiers.s3.client", "boto3"),
    ("tiers.volume.checksums", "xxhash"),
]


def write_package(folder: Path, imports: Iterable[tuple[str, str]]) -> None:
    """Write a package of that name below `folder`, with the rules beside it."""
    package = folder / "pocketkv"
    for module in MODULES:
        path = package.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.touch()
    (package / "__init__.py").touch()
    for module, imported in imports:
        path = package.joinpath(*module.split(".")).with_suffix(".py")
        with path.open("a", encoding="utf-8") as file:
            file.write(f"import {imported}\n")
    shutil.copy(RULES, folder)


def report(folder: Path, rule: str | None = None) -> str:
    """Return what import-linter says of the package in `folder`."""
    main = "from importlinter.cli import lint_imports_command as lint; lint()"
    only = [f"--contract={rule}"] if rule else []
    run = subprocess.run(
        [sys.executable, "-c", main, "--no-cache", "--no-logo", *only],
        cwd=folder,
        # Its report is as wide as the terminal, and breaks longer lines.
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not run.stderr
    assert (run.returncode == 0) == (" 0 broken." in run.stdout), run.stdout
    return run.stdout


def rules() -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(RULES, encoding="utf-8")
    prefix = "importlinter:contract:"
    return [name.removeprefix(prefix) for name in parser.sections() if name.startswith(prefix)]


def test_what_is_allowed_breaks_no_rule(tmp_path: Path) -> None:
    write_package(tmp_path, ALLOWED)
    assert f"{len(rules())} kept, 0 broken." in report(tmp_path)


def test_every_rule_has_an_example_that_breaks_it() -> None:
    assert {rule for _, _, rule in FORBIDDEN} == set(rules())


@pytest.mark.parametrize("rule", rules())
def test_what_is_forbidden_breaks_its_rule(tmp_path: Path, rule: str) -> None:
    examples = [(module, imported) for module, imported, its in FORBIDDEN if its == rule]
    # What is allowed stays there, since a way through an open door must not hide the others.
    write_package(tmp_path, [*ALLOWED, *examples])
    found = report(tmp_path, rule)
    for module, imported in examples:
        shown = imported if imported.startswith("pocketkv.") else imported.split(".")[0]
        assert f"pocketkv.{module} -> {shown} (" in found


def test_a_module_without_a_place_in_the_layers_is_found(tmp_path: Path) -> None:
    write_package(tmp_path, [])
    (tmp_path / "pocketkv" / "surprise.py").touch()
    assert "surprise" in report(tmp_path, "layers")
