"""The subcommand ``pocketkv top``: the screen on a terminal, one print elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pocketkv.admin import PASSWORD_VARIABLE, add_url_argument

if TYPE_CHECKING:
    from rich.console import Console

    from pocketkv.top.source import Source
    from pocketkv.top.tables import Cells

_INTERVAL_S: Final = 1.0
_INTERVAL_MIN_S: Final = 0.2
_INTERVAL_MAX_S: Final = 3600.0
# A print has no earlier answer: rates are reckoned over so long.
_PRINT_INTERVAL_S: Final = 1.0
_FILE_COLUMNS: Final = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's flags."""
    add_url_argument(parser)
    parser.add_argument(
        "--interval",
        type=_interval,
        default=_INTERVAL_S,
        metavar="SECONDS",
        help="how often to ask (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="print one view and end")


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not _INTERVAL_MIN_S <= value <= _INTERVAL_MAX_S:
        message = f"not {_INTERVAL_MIN_S} to {_INTERVAL_MAX_S:.0f} seconds: {text!r}"
        raise argparse.ArgumentTypeError(message)
    return value


def run(namespace: argparse.Namespace) -> int:
    """Run the subcommand; the process's exit status."""
    # The client and the terminal's library take a while to import; only this subcommand pays.
    from pocketkv.top.source import Source, SourceError

    try:
        source = Source(namespace.url, os.environ.get(PASSWORD_VARIABLE))
        if namespace.once or not sys.stdout.isatty():
            asyncio.run(_print_once(source))
            return 0
        from pocketkv.top.app import TopApp

        app = TopApp(source, _place(namespace.url), namespace.interval)
        app.run()
    except SourceError as error:
        print(f"pocketkv top: {error}", file=sys.stderr)
        return 1
    return app.return_code or 0


def _place(url: str) -> str:
    """A URL without what is secret in it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


async def _print_once(source: Source) -> None:
    from rich.console import Console

    from pocketkv.top import tables
    from pocketkv.top.figures import view

    try:
        before = await source.ask()
        await asyncio.sleep(_PRINT_INTERVAL_S)
        shown = view(await source.ask(), before)
    finally:
        await source.aclose()
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # A file has no width that a table would have to fit into.
        console.width = _FILE_COLUMNS
    console.print(tables.summary(shown))
    for title, columns, rows in (
        ("Tiers", tables.TIER_COLUMNS, map(tables.tier_cells, shown.tiers)),
        ("Servers", tables.SERVER_COLUMNS, map(tables.server_cells, shown.servers)),
        ("Jobs", tables.JOB_COLUMNS, map(tables.job_cells, shown.jobs)),
        ("Moves", tables.MOVE_COLUMNS, map(tables.move_cells, shown.moves)),
        ("Events", tables.EVENT_COLUMNS, map(tables.event_cells, shown.events)),
    ):
        _print_table(console, title, columns, rows)


def _print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Cells]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    for cells in rows:
        table.add_row(*cells)
    if table.row_count:
        console.print(table)
