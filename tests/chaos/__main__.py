"""`python -m tests.chaos`: chaos for as long as one likes.

It starts a cluster on this machine, has real clients use it, kills and halts processes of it,
lets servers come and go, and then judges what every client has seen. A seed gives the same
schedule again, if not the same interleaving. The status is 1 if something was found.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.running import Plan, run
from tests.chaos.schedule import Kind


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long things happen")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier schedule")
    parser.add_argument("--runs", type=int, default=1, help="so many runs, each with a new seed")
    parser.add_argument("--clients", type=int, default=2, help="of each kind, for each job")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each command")
    parser.add_argument(
        "--answered-within", type=float, default=5.0, help="seconds of errors after a death"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="KIND",
        default=[kind.name for kind in Kind],
        choices=[kind.name for kind in Kind],
        help="what may happen",
    )
    parser.add_argument("--keep", type=Path, help="a folder for the cluster's log")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    status = 0
    for number in range(options.runs):
        plan = Plan(
            seed=seed + number,
            seconds=options.seconds,
            kinds=frozenset(Kind[name] for name in options.only),
            clients=options.clients,
            pause_s=options.pause,
            answered_within_s=options.answered_within,
        )
        _say(f"seed {plan.seed}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if options.keep is None else options.keep / str(plan.seed)
            result = run(plan, folder, _say)
        _say(result.text())
        status |= bool(result.findings.violations)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
