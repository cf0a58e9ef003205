"""Only a controller with this backend pays for the package `kubernetes`."""

from __future__ import annotations

import subprocess
import sys

PLANES = "pocketkv.cli, pocketkv.tiers.storage, pocketkv.router.service, pocketkv.controller.serve"


def test_nobody_else_imports_it() -> None:
    program = f"import sys, {PLANES}\nassert 'kubernetes' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
