"""The first process of a container ends when it is told to, from its very beginning."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
# What stands for the rest of the program is told to end while it is loaded.
LOADED = """
import os, signal, sys, types
class Rest(types.ModuleType):
    @property
    def main(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return lambda: 7
sys.modules["pocketkv.cli"] = Rest("pocketkv.cli")
from pocketkv.__main__ import main
assert os.getpid() == 1
sys.exit(main())
"""


def test_it_ends_while_it_is_being_loaded() -> None:
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("no namespaces of processes here")
    run = subprocess.run(
        [*UNSHARE, sys.executable, "-c", LOADED], capture_output=True, timeout=60, check=False
    )
    assert run.stderr == b""
    assert run.returncode == 143
