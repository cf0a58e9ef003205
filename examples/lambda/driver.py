"""Count words by map and reduce, with functions that exchange their data through PocketKV.

    python driver.py --url redis://ROUTER:6379 --function pocketkv-example FILE ...
    python driver.py --url redis://127.0.0.1:6379 --local FILE ...

registers a job, invokes the mappers, then the reducers, and deregisters the job: whatever
happened, nothing is left. ``--local`` runs the functions as processes of this machine. Where
administration is closed, ``POCKETKV_ADMIN_PASSWORD`` holds its password.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from functions import FunctionError, Invoke, on_lambda, on_this_machine

from pocketkv import client

# An event of Lambda has at most 6 MB.
TEXT_CHARACTERS_MAX = 1_500_000
LEASE_S = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status: 0, 1 if a function failed, 2 if it cannot begin."""
    options = parse(arguments)
    try:
        shares = split(options.files, options.mappers)
    except (OSError, ValueError) as error:
        print(f"driver: {error}", file=sys.stderr)
        return 2
    # A process that stands for a function finds the handler beside this file.
    invoke = (
        on_this_machine("handler", os.cpu_count() or 1)
        if options.local
        else on_lambda(options.function)
    )
    try:
        counted, report = count_words(options.url, shares, options.reducers, invoke)
    except (FunctionError, client.PocketError) as error:
        print(f"driver: {error}", file=sys.stderr)
        return 1
    for word, times in counted.most_common(options.top):
        print(f"{times:>10}  {word}")
    print(report)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Count words through PocketKV.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--url", default="redis://127.0.0.1:6379", help="of a router")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--function", help="name of the function in AWS Lambda")
    how.add_argument("--local", action="store_true", help="processes of this machine instead")
    parser.add_argument("--mappers", type=int, default=8)
    parser.add_argument("--reducers", type=int, default=4)
    parser.add_argument("--top", type=int, default=10, help="how many words are shown")
    options = parser.parse_args(arguments)
    if not (1 <= options.mappers <= 1000 and 1 <= options.reducers <= 1000):
        parser.error("--mappers and --reducers are 1 to 1000")
    return options


def split(files: Sequence[Path], mappers: int) -> list[str]:
    """The text of all files, in as many shares, cut between lines.

    Raises:
        OSError: A file cannot be read.
        ValueError: A share would be too large for an event.
    """
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
    size = -(-len(lines) // mappers)
    shares = ["\n".join(lines[at * size : (at + 1) * size]) for at in range(mappers)]
    if max(map(len, shares)) > TEXT_CHARACTERS_MAX:
        raise ValueError("a mapper's share is too large for an event: more --mappers")
    return shares


def count_words(
    url: str, shares: Sequence[str], reducers: int, invoke: Invoke
) -> tuple[Counter[str], str]:
    """Count, and say what it took and what it cost, by the catalog of the cluster.

    Raises:
        FunctionError: A function has failed.
        PocketError: The cluster does not do what is asked.
    """
    started_s = time.monotonic()
    total = Counter[str]()
    with client.register_job(
        "word-count",
        url=url,
        lambdas=max(len(shares), reducers),
        capacity=max(64 * 1024**2, 4 * sum(map(len, shares))),
        lease=LEASE_S,
        keep_lease=True,
        admin_password=os.environ.get("POCKETKV_ADMIN_PASSWORD"),
    ) as job:
        mapped = invoke(
            [
                {"task": "map", "mapper": n, "reducers": reducers, "text": text, "url": job.url}
                for n, text in enumerate(shares)
            ]
        )
        mapped_s = time.monotonic()
        invoke(
            [
                {"task": "reduce", "reducer": n, "mappers": len(shares), "url": job.url}
                for n in range(reducers)
            ]
        )
        reduced_s = time.monotonic()
        with job.connect() as storage:
            for reducer in range(reducers):
                total.update(json.loads(storage.get_buffer(f"reduce/{reducer}")))
        info = job.info()
    if total.total() != sum(answer["words"] for answer in mapped):
        raise FunctionError("reducers have not counted what mappers have found")
    return total, (
        f"{len(shares)} mappers {mapped_s - started_s:.1f} s, {reducers} reducers"
        f" {reduced_s - mapped_s:.1f} s, {total.total()} words; on {' and '.join(info['tiers'])},"
        f" {info['cost_usd_per_hour']:.4f} USD an hour by the catalog:"
        f" {info['cost_usd_per_hour'] * (time.monotonic() - started_s) / 3600:.8f} USD"
    )


if __name__ == "__main__":
    sys.exit(main())
