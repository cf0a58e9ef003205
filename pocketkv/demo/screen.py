"""What the demo shows: a bar per stage on a terminal, plain lines elsewhere, and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

Advance = Callable[[int], None]
"""Takes how many bytes are done by now."""

_STAGE_COLUMNS = 8
_PLAIN_COLUMNS = 120
_UNITS = (("gb", 1024**3), ("mb", 1024**2), ("kb", 1024))


class Screen:
    """Standard output. Words are plain text: nothing in them is taken for markup."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            # A file has no width that a table would have to fit into.
            self._console.width = _PLAIN_COLUMNS

    def say(self, text: str = "") -> None:
        """Show a line, as long as it is."""
        self._console.print(text, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, what: str, total_bytes: int) -> Iterator[Advance]:
        """Show a stage's progress while the block runs."""
        if not self._console.is_terminal:
            self.say(f"{name}: {what}")
            yield lambda done_bytes: None
            return
        columns = (
            TextColumn(f"{name:<{_STAGE_COLUMNS}}"),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(name, total=max(1, total_bytes))
            yield lambda done_bytes: progress.update(bar, completed=done_bytes)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table; all columns but the first are figures."""
        # Six columns of figures are to fit into 80.
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.say()
        self.say(title)
        self._console.print(table)


def amount(size_bytes: float) -> str:
    """Return bytes for people, in units of 1024, with one decimal."""
    for name, unit in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f}{name}"
    return f"{size_bytes:.0f}b"


def rate(size_bytes: float, duration_s: float) -> str:
    """Return bytes per second for people."""
    return f"{amount(size_bytes / max(duration_s, 1e-9))}/s"
