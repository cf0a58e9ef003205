"""``python -m benchmarks``: PocketKV beside a real Redis. See ``--help``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, plot, report
from benchmarks.client import BenchmarkError
from benchmarks.redis_benchmark import PROGRAM, is_installed
from benchmarks.sampling import Settings
from benchmarks.servers import allow_many_connections, stopped_by_signals
from benchmarks.session import Plan, Session, known_names

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

_PAIRS, _QUICK_PAIRS = 5, 3
_RUN_S, _QUICK_RUN_S = 1.0, 0.25
_FLOOR_RUNS = 3
_KEYS, _QUICK_KEYS = 1_000_000, 100_000
_HONEST_BYTES, _QUICK_HONEST_BYTES = 1000**3, 100 * 1000**2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status is 0 if all could be measured, whatever came out."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for group, names in known_names().items():
            print(f"{group}: {' '.join(names)}")
        return 0
    plan = _plan(parser, options)
    try:
        with stopped_by_signals():
            return _run(plan, options.json, options.plot)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR


def _run(plan: Plan, json_path: Path, plot_path: Path | None) -> int:
    if not is_installed():
        raise BenchmarkError(f"{PROGRAM} is not installed (Debian: apt-get install redis-tools)")
    allow_many_connections()
    described = machine.describe()
    session = Session(plan)
    began_s = time.monotonic()
    try:
        session.run()
    finally:
        # What was measured before somebody lost patience is worth showing too.
        if session.rows:
            _show(session, described, time.monotonic() - began_s)
            _write(json_path, _as_text(session, described))
    if plot_path is not None:
        try:
            _write(plot_path, plot.draw(session.results, machine.in_one_line(described)))
        except ValueError as error:
            raise BenchmarkError(f"no plot: {error}") from error
    if not session.rows:
        session.failures.append("nothing at all was measured")
        print("\n".join(session.remarks()), file=sys.stderr)
    return FAILED if session.failures else 0


def _show(session: Session, described: dict[str, Any], took_s: float) -> None:
    settings = session.plan.settings
    print(f"\n{machine.in_one_line(described)}; PocketKV's core: {session.core}.")
    print(
        f"Medians of {settings.pairs} pairs of runs of about {settings.run_s:g} s, in turns;"
        f" all took {took_s / 60:.1f} minutes."
    )
    if session.plan.is_quick:
        print("A quick run: few works, few and short runs. For a first impression only.")
    if session.plan.with_noise:
        print("PocketKV's place was taken by another Redis: what differs from 1 is noise.")
    if machine.is_busy(described):
        print(
            "The machine was busy with something else before: throughput and latency may say more"
            " of that than of the servers. CPU per operation suffers less."
        )
    print(f"\n{report.table(session.rows)}\n")
    for line in [*report.losses(session.rows), *session.remarks()]:
        print(line)


def _as_text(session: Session, described: dict[str, Any]) -> str:
    return json.dumps(session.as_json(described, report.losses(session.rows)), indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from error
    print(f"written: {path}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="PocketKV beside a real redis-server, on this machine, in turns.",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute, for an impression")
    parser.add_argument("--only", metavar="NAME,...", default="", help="works or groups of them")
    parser.add_argument("--list", action="store_true", help="print the names for --only")
    parser.add_argument("--pairs", type=int, metavar="N", help="runs by each server")
    parser.add_argument("--run-seconds", type=float, metavar="S", help="how long a run takes")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", default=Path("build/benchmarks.json"),
        help="every sample (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="PATH", help="ratio over value size, as SVG")
    parser.add_argument(
        "--noise", action="store_true", help="compare Redis with Redis, to see the noise"
    )
    planes = parser.add_mutually_exclusive_group()
    planes.add_argument("--direct", action="store_true", help="storage server and Redis only")
    planes.add_argument("--router", action="store_true", help="router and storage server only")
    return parser


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    quick: bool = options.quick
    pairs = options.pairs or (_QUICK_PAIRS if quick else _PAIRS)
    run_s = options.run_seconds or (_QUICK_RUN_S if quick else _RUN_S)
    if pairs < 1 or run_s <= 0:
        parser.error("--pairs and --run-seconds must be above 0")
    if options.noise and options.router:
        parser.error("--noise is about Redis, --router is not")
    if options.plot is not None and options.plot.suffix != ".svg":
        parser.error("--plot: the picture is an SVG, so its name must end in .svg")
    only = frozenset(name for name in options.only.split(",") if name)
    groups = known_names()
    unknown = only - groups.keys() - {name for names in groups.values() for name in names}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of those that --list prints")
    return Plan(
        settings=Settings(pairs, run_s, floor_runs=0 if quick else _FLOOR_RUNS),
        is_quick=quick,
        only=only,
        with_direct=not options.router,
        with_router=not (options.direct or options.noise),
        with_noise=options.noise,
        keys=_QUICK_KEYS if quick else _KEYS,
        honest_bytes=_QUICK_HONEST_BYTES if quick else _HONEST_BYTES,
    )


if __name__ == "__main__":
    sys.exit(main())
