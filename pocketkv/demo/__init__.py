"""``pocketkv demo``: an inverted index by map, shuffle and reduce, over real files.

Mapper and reducer processes, which stand for Lambdas, exchange their data only through a job of
PocketKV; the result is compared with what one process computes by itself. Importing this package
costs nothing: what it needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from pocketkv.amounts import parse_bytes

MAPPERS: Final = 8
REDUCERS: Final = 4
WORKERS_MAX: Final = 256
INPUT_LIMIT: Final = "64mb"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's flags to a parser."""
    parser.description = (
        "Build an inverted index of real files by map, shuffle and reduce through PocketKV, and"
        " check it. Without --url or --port, a cluster is started for it on free ports."
    )
    parser.add_argument(
        "--input",
        type=Path,
        metavar="DIR",
        help="folder of text files (default: the Python standard library's sources)",
    )
    parser.add_argument(
        "--limit",
        type=_size,
        default=_size(INPUT_LIMIT),
        metavar="SIZE",
        help=f"most bytes of files that are read (default: {INPUT_LIMIT})",
    )
    parser.add_argument(
        "--mappers", type=_workers, default=MAPPERS, metavar="M", help=f"(default: {MAPPERS})"
    )
    parser.add_argument(
        "--reducers", type=_workers, default=REDUCERS, metavar="R", help=f"(default: {REDUCERS})"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url",
        help="router of a running cluster; where administration is closed, $POCKETKV_ADMIN_PASSWORD"
        " holds its password",
    )
    where.add_argument("--port", type=_port, help="the same, for a router on this machine")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep job, data and cluster until Ctrl-C, to be looked at",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the exit status: 0 right, 1 wrong or failed, 2 cannot begin, 130 Ctrl-C."""
    # redis-py and rich take half a second to import, which no other command should pay for.
    from pocketkv.demo.main import main  # noqa: PLC0415

    return main(arguments)


def _size(text: str) -> int:
    try:
        amount_bytes = parse_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if amount_bytes <= 0:
        raise argparse.ArgumentTypeError("nothing would be read")
    return amount_bytes


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= WORKERS_MAX:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not 1 to {WORKERS_MAX}")
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text[:40]}' is not a port")
    return int(text)
