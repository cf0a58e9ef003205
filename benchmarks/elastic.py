"""How fast a cluster of this machine changes: jobs that come and go, servers that join.

``python -m benchmarks.elastic`` runs `pocketkv serve` and measures, as a client sees it: from
`JOB.REGISTER` to the reply to the job's first `SET` over a new connection; `JOB.DEREGISTER`; and
from `TIER.SCALE`, which is the decision, until the new server has joined, and until it answers for
a key that was moved to it. It prints these beside what a storage server's process takes to start.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.client import BenchmarkError, Client
from benchmarks.servers import HOST, START_TIMEOUT_S, serving
from pocketkv.slots import key_slot

_KEYS: Final = 1_000
_POLL_S: Final = 0.005


def job_times_s(port: int) -> tuple[float, float]:
    """Return the seconds to a new job's first reply, and those that its end took."""
    with Client(HOST, port) as control:
        control.call("HELLO", 3)
        began_s = time.perf_counter()
        job = control.call("JOB.REGISTER", "benchmark")
        with Client(HOST, port) as client:
            client.call("AUTH", job[b"id"], job[b"token"])
            client.call("SET", "key", "value")
            served_s = time.perf_counter() - began_s
        began_s = time.perf_counter()
        control.call("JOB.DEREGISTER", job[b"id"])
        return served_s, time.perf_counter() - began_s


def growth_times_s(port: int) -> tuple[float, float]:
    """Return the seconds from a decision until a server has joined, and until it serves.

    The tier has one server before and after.

    Raises:
        BenchmarkError: It did not happen in time.
    """
    keys = [f"key-{number}" for number in range(_KEYS)]
    with Client(HOST, port) as control:
        control.call("HELLO", 3)
        for key in keys:
            control.call("SET", key, "value")
        before = {server[b"id"] for server in _servers(control)}
        began_s = time.perf_counter()
        control.call("TIER.SCALE", "dram", 2)
        joined = _until(lambda: [s for s in _servers(control) if s[b"id"] not in before])[0]
        joined_s = time.perf_counter() - began_s
        _until(lambda: _is_served(control, joined, keys))
        served_s = time.perf_counter() - began_s
        control.call("TIER.SCALE", "dram", 1)
        _until(lambda: len(_servers(control)) == 1 and not control.call("MOVE.LIST"))
    return joined_s, served_s


def _is_served(control: Client, server: dict[bytes, Any], keys: list[str]) -> bool:
    """Whether a server answers for one of the keys, none of which was written there."""
    own = [
        (first, last)
        for first, last, _, _, owner in control.call("JOB.INFO", "default")[b"placement"]
        if owner == server[b"id"]
    ]
    there = (k for k in keys if any(a <= key_slot(k.encode()) <= b for a, b in own))
    key = next(there, None)
    if key is None:
        return False
    with Client(HOST, server[b"port"]) as direct:
        value: bytes | None = direct.call("GET", key)
        return value == b"value"


def _servers(control: Client) -> list[dict[bytes, Any]]:
    found: list[dict[bytes, Any]] = control.call("SERVER.LIST")
    return found


def _until(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"the cluster has not changed after {START_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)
    return value


def import_cpu_s() -> float:
    """Return the CPU seconds that a storage server's process takes for its imports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", "import pocketkv.cli, pocketkv.tiers.storage"], check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _line(name: str, unit: str, scale: float, times_s: list[float], target: str) -> str:
    ordered = sorted(times_s)
    figures = (statistics.median(ordered), ordered[-1])
    median, most = (f"{time_s * scale:.1f} {unit}" for time_s in figures)
    return f"{name:<44} median {median:>9}, most {most:>9} of {len(ordered):>3}; target {target}"


def main() -> int:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, help="that come and go (default: 50)")
    parser.add_argument("--servers", type=int, default=5, help="that join (default: 5)")
    options = parser.parse_args()
    # The job `default` goes to the server that joins as well, since it does not say what it needs.
    with serving("--dram", "1", "--nvme", "0", "--unhinted-servers", "2") as port:
        jobs = [job_times_s(port) for _ in range(options.jobs)]
        grown = [growth_times_s(port) for _ in range(options.servers)]
    served, ended = (list(times_s) for times_s in zip(*jobs, strict=True))
    joined, serves = (list(times_s) for times_s in zip(*grown, strict=True))
    print(_line("JOB.REGISTER to the job's first reply", "ms", 1e3, served, "20 ms"))
    print(_line("JOB.DEREGISTER", "ms", 1e3, ended, "20 ms"))
    print(_line("TIER.SCALE until a server has joined", "s", 1.0, joined, "-"))
    print(_line("TIER.SCALE until it serves what was moved", "s", 1.0, serves, "2 s"))
    imports = [import_cpu_s() for _ in range(options.servers)]
    print(_line("imports of a storage server, CPU time", "s", 1.0, imports, "-"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
