"""What the figures are from: the machine, the programs, the code."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.client import BenchmarkError
from pocketkv import __version__

# The last minute's load per core, from which on others are in the way.
_BUSY_SHARE: Final = 0.25
_ROOT: Final = Path(__file__).resolve().parent.parent


def describe() -> dict[str, Any]:
    """Return what belongs to the figures besides how they were measured."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "kernel": platform.release(),
        "load_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "pocketkv": __version__,
        "redis_server": _version("redis-server"),
        "redis_benchmark": _version("redis-benchmark"),
        "fio": _first_line("fio", "--version"),
        "commit": _first_line("git", "rev-parse", "HEAD"),
        "has_uncommitted_changes": bool(_first_line("git", "status", "--porcelain")),
        # Names only: a value may be a secret.
        "variables": sorted(name for name in os.environ if name.startswith("POCKETKV_")),
    }


def in_one_line(machine: dict[str, Any]) -> str:
    """Return a short description for the head of the table."""
    changed = " with changes" if machine["has_uncommitted_changes"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']},"
        f" Python {machine['python']}, load {machine['load_before'][0]:.1f} before;"
        f" PocketKV {machine['pocketkv']} at {machine['commit'][:10]}{changed};"
        f" redis-server {machine['redis_server']}"
    )


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether other work kept the machine busy before the measuring began."""
    load_per_core: float = machine["load_before"][0] / machine["cores"]
    return load_per_core > _BUSY_SHARE


def require_compiled() -> None:
    """Make sure that the hot path is compiled: all of it, as what is started from here finds it.

    Raises:
        BenchmarkError: A module of it would be run as plain Python.
    """
    plain = [name for name in hot_path() if not _is_compiled(name)]
    if plain:
        raise BenchmarkError(f"not compiled: {', '.join(plain)}; `make bench` compiles them first")


def hot_path() -> list[str]:
    """Return the modules that ``setup.py`` compiles."""
    # As text: running it would start a build.
    for node in ast.parse((_ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            paths: tuple[str, ...] = ast.literal_eval(node.value)
            return [path.rpartition(".")[0].replace("/", ".") for path in paths]
    raise BenchmarkError("setup.py does not tell what it compiles")


def _is_compiled(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin or "").endswith(".so")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, model = line.partition(":")
        if name.strip() == "model name":
            return model.strip()
    return platform.machine()


def _version(program: str) -> str:
    found = re.search(r"\d+\.\d+\.\d+", _first_line(program, "--version"))
    return found[0] if found else "unknown"


def _first_line(*command: str) -> str:
    """What a program prints first; "unknown" where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0]
