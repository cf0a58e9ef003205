"""How long one request of a function takes: PUT and GET of 1 KB, one after another, percentiles.

    python latency.py --url redis://ROUTER:6379                       # from where this runs
    python latency.py --url redis://ROUTER:6379 --function NAME       # from within a function
    python latency.py --url ... --cluster                             # straight to storage servers

This is the microbenchmark of Pocket (OSDI '18), whose functions took 317 to 437 us for a request
of 1 KB to DRAM. As a function's handler it is ``latency.handler``, and needs redis-py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

VALUE_BYTES = 1024
WARM_UP = 100
SHOWN = (("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))


def measure(url: str, requests: int, cluster: bool) -> dict[str, dict[str, float]]:
    """Percentiles and mean of each kind of request, in microseconds."""
    make = redis.RedisCluster.from_url if cluster else redis.Redis.from_url
    storage: Any = make(url, socket_timeout=30, socket_connect_timeout=5)
    try:
        value = os.urandom(VALUE_BYTES)
        keys = [f"latency/{number}" for number in range(requests)]
        for key in keys[:WARM_UP]:
            storage.set(key, value)
            storage.get(key)
        found = {
            "PUT": summary(timed(lambda key: storage.set(key, value), keys)),
            "GET": summary(timed(storage.get, keys)),
        }
        if storage.get(keys[-1]) != value:
            raise RuntimeError("the value that was read is not the one that was written")
        for key in keys:
            storage.unlink(key)
        return found
    finally:
        storage.close()


def timed(request: Callable[[str], object], keys: Sequence[str]) -> list[float]:
    """How long each request took, in microseconds."""
    taken = []
    for key in keys:
        started_ns = time.perf_counter_ns()
        request(key)
        taken.append((time.perf_counter_ns() - started_ns) / 1000)
    return taken


def summary(taken_us: Sequence[float]) -> dict[str, float]:
    """Percentiles (nearest rank) and mean."""
    ordered = sorted(taken_us)
    last = len(ordered) - 1
    found = {name: ordered[round(share * last)] for name, share in SHOWN}
    return {**found, "mean": sum(ordered) / len(ordered)}


def handler(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """What Lambda calls."""
    return measure(event["url"], event["requests"], event["cluster"])


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures as lines."""
    names = [name for name, _ in SHOWN] + ["mean"]
    lines = ["us   " + "".join(f"{name:>9}" for name in names)]
    for kind, figures in found.items():
        lines.append(f"{kind:<5}" + "".join(f"{figures[name]:>9.0f}" for name in names))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in a job of its own; the exit status: 0, or 1 if it failed."""
    # A function's archive has neither of these.
    from functions import FunctionError, on_lambda  # noqa: PLC0415

    from pocketkv import client  # noqa: PLC0415

    parser = argparse.ArgumentParser(description="Latency of 1 KB PUTs and GETs.")
    parser.add_argument("--url", default="redis://127.0.0.1:6379", help="of a router")
    parser.add_argument("--function", help="measure from within this function of AWS Lambda")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--cluster", action="store_true", help="straight to the storage servers")
    parser.add_argument("--tiers", nargs="+", help="tiers that the job may use")
    options = parser.parse_args(arguments)
    if not 1 <= options.requests <= 1_000_000:
        parser.error("--requests is 1 to 1000000")
    try:
        with client.register_job(
            "latency",
            url=options.url,
            capacity=64 * 1024**2 + 4 * VALUE_BYTES * options.requests,
            tiers=options.tiers,
            latency="sensitive",
            lease=900,
            admin_password=os.environ.get("POCKETKV_ADMIN_PASSWORD"),
        ) as job:
            event = {"url": job.url, "requests": options.requests, "cluster": options.cluster}
            found = on_lambda(options.function)([event])[0] if options.function else handler(event)
            info = job.info()
    except (FunctionError, client.PocketError, redis.RedisError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    way = "straight to storage servers" if options.cluster else "through a router"
    print(
        f"{options.requests} of each, {VALUE_BYTES} bytes, on {' and '.join(info['tiers'])}, {way}"
    )
    print(table(found))
    print(f"{info['cost_usd_per_hour']:.4f} USD an hour for the job, by the catalog")
    return 0


if __name__ == "__main__":
    sys.exit(main())
