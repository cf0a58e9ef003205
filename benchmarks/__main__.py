"""``python -m benchmarks``: PocketKV beside a real Redis. See ``--help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import docs, machine, plot, report
from benchmarks.client import BenchmarkError
from benchmarks.kept import Outcome, from_json
from benchmarks.redis_benchmark import PROGRAM, is_installed
from benchmarks.sampling import Settings
from benchmarks.servers import allow_many_connections, stopped_by_signals
from benchmarks.session import Plan, Session, known_names
from benchmarks.works import MIB

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

_PAIRS, _QUICK_PAIRS = 5, 3
_RUN_S, _QUICK_RUN_S = 0.8, 0.25
_FLOOR_RUNS = 3
# What is not begun by then is not measured; both usually need three quarters of it.
_MINUTES, _QUICK_MINUTES = 18.0, 1.0
_KEYS, _QUICK_KEYS = 1_000_000, 100_000
_HONEST_BYTES, _QUICK_HONEST_BYTES = 1000**3, 100 * 1000**2
_TIER_MIB, _QUICK_TIER_MIB = 1024, 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status is 0 if all could be measured, whatever came out."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for group, names in known_names().items():
            print(f"{group}: {' '.join(names)}")
        return 0
    plan = _plan(parser, options)
    paths = Paths(options.json, options.plot, options.write_docs)
    try:
        with stopped_by_signals():
            if options.again is not None:
                _keep(_told(options.again), paths)
                return 0
            return _run(plan, paths)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are written: every sample, the picture, the figures in the documentation."""

    json: Path
    plot: Path | None
    docs: Path | None


def _run(plan: Plan, paths: Paths) -> int:
    if not is_installed():
        raise BenchmarkError(f"{PROGRAM} is not installed (Debian: apt-get install redis-tools)")
    allow_many_connections()
    described = machine.describe()
    session = Session(plan)
    try:
        session.run()
    finally:
        # What was measured before somebody lost patience is worth showing too.
        if session.rows:
            outcome = session.outcome(described)
            _show(outcome)
            text = json.dumps(outcome.as_json(report.losses(outcome.rows)), indent=1)
            _write(paths.json, text + "\n")
    if session.rows:
        _keep(session.outcome(described), paths)
    else:
        session.failures.append("nothing at all was measured")
        print("\n".join(session.remarks()), file=sys.stderr)
    return FAILED if session.failures else 0


def _keep(outcome: Outcome, paths: Paths) -> None:
    """Write what documentation shows of a run that is over."""
    if paths.plot is not None:
        try:
            _write(paths.plot, plot.draw(outcome.results, machine.in_one_line(outcome.machine)))
        except ValueError as error:
            raise BenchmarkError(f"no plot: {error}") from error
    if paths.docs is not None:
        docs.write(paths.docs, outcome)
        print(f"written: {paths.docs}", file=sys.stderr)


def _told(path: Path) -> Outcome:
    """What an earlier run has left."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: {error}") from error


def _show(outcome: Outcome) -> None:
    print("\n" + "\n".join(report.heading(outcome)))
    print(f"\n{report.table(outcome.rows)}\n")
    for line in [*report.losses(outcome.rows), *outcome.remarks]:
        print(line)


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
        "--write-docs", type=Path, metavar="PATH", help="put the figures into a Markdown file"
    )
    parser.add_argument(
        "--again", type=Path, metavar="JSON",
        help="measure nothing: write plot and documentation from what --json has kept",
    )  # fmt: skip
    parser.add_argument(
        "--dir", type=Path, metavar="PATH", default=Path("build/tiers"),
        help="where file tiers keep their values (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tier-mib", type=int, metavar="N",
        help=f"values of each work of file tiers, in MiB (default: {_TIER_MIB}; four times that"
        " must be free)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, metavar="M", help="begin nothing more after that")
    parser.add_argument(
        "--allow-plain", action="store_true", help="measure a hot path that is not compiled"
    )
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
    tier_mib = options.tier_mib or (_QUICK_TIER_MIB if quick else _TIER_MIB)
    if tier_mib < 1:
        parser.error("--tier-mib must be above 0")
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
        time_s=60 * (options.minutes or (_QUICK_MINUTES if quick else _MINUTES)),
        allows_plain=options.allow_plain,
        tier_folder=str(options.dir),
        tier_bytes=tier_mib * MIB,
    )


if __name__ == "__main__":
    sys.exit(main())
