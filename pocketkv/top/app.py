"""The screen of `pocketkv top`: tables that are brought up to date every second.

What cannot be asked for is said in the line below the title, and what was shown last stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Protocol

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, Header, Label, Static

from pocketkv.top import tables
from pocketkv.top.figures import Answers, EventRow, JobRow, View, view
from pocketkv.top.source import SourceError
from pocketkv.top.tables import Cells

# By what the jobs are sorted in turn, the most first.
_SORTS: Final[tuple[tuple[str, Callable[[JobRow], float]], ...]] = (
    ("memory", lambda row: row.used_bytes),
    ("commands", lambda row: row.commands_s),
    ("keys", lambda row: row.keys),
    ("cost", lambda row: row.cost_usd),
)
_EVENTS_SHOWN: Final = 50


class Asks(Protocol):
    """Where answers come from: `Source`."""

    async def ask(self) -> Answers:
        """Return what the cluster answers now.

        Raises:
            SourceError: it does not.
        """
        ...

    async def aclose(self) -> None:
        """Ask no more."""
        ...


class TopApp(App[None]):
    """The screen.

    Args:
        source: Where answers come from.
        place: What is shown as the cluster's place.
        interval_s: How long to wait between two rounds.
    """

    TITLE = "pocketkv top"
    CSS = """
    .heading { color: $accent; text-style: bold; padding: 1 1 0 1; }
    #summary { padding: 0 1; }
    #problem { color: $error; padding: 0 1; display: none; }
    #problem.told { display: block; }
    DataTable { height: auto; max-height: 20; margin: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("p", "pause", "Pause"),
        ("s", "sort", "Sort jobs"),
        ("r", "refresh_now", "Refresh"),
    ]

    def __init__(self, source: Asks, place: str, interval_s: float) -> None:
        super().__init__()
        self.sub_title = place
        self._source = source
        self._interval_s = interval_s
        self._before: Answers | None = None
        self._view = View()
        self._sort = 0
        self._is_paused = False

    def compose(self) -> ComposeResult:
        """Lay out the tables."""
        yield Header(show_clock=True)
        yield Static("asking ...", id="summary", markup=False)
        yield Static("", id="problem", markup=False)
        with VerticalScroll():
            for name, title, columns in (
                ("tiers", "Tiers", tables.TIER_COLUMNS),
                ("servers", "Servers", tables.SERVER_COLUMNS),
                ("jobs", "Jobs", tables.JOB_COLUMNS),
                ("moves", "Moves", tables.MOVE_COLUMNS),
                ("events", "Events", tables.EVENT_COLUMNS),
            ):
                yield Label(title, classes="heading", id=f"{name}-heading")
                table: DataTable[str] = DataTable(id=name, show_cursor=False, zebra_stripes=True)
                table.add_columns(*columns)
                yield table
        yield Footer()

    async def on_unmount(self) -> None:
        """Ask no more."""
        await self._source.aclose()

    def on_mount(self) -> None:
        """Begin to ask."""
        self.set_interval(self._interval_s, self._tick)
        self.run_worker(self._round(), exclusive=True)

    def _tick(self) -> None:
        if not self._is_paused:
            # A round that takes longer than the interval is not begun a second time.
            self.action_refresh_now()

    async def _round(self) -> None:
        """Ask once, and show the answer."""
        try:
            now = await self._source.ask()
        except SourceError as error:
            self._tell(f"no answer: {error}; trying again")
            return
        self._tell("")
        self._view = view(now, self._before)
        self._before = now
        self._show()

    def _tell(self, problem: str) -> None:
        line = self.query_one("#problem", Static)
        line.update(problem)
        line.set_class(bool(problem), "told")

    def _show(self) -> None:
        shown = self._view
        paused = ", paused" if self._is_paused else ""
        self.query_one("#summary", Static).update(tables.summary(shown) + paused)
        self._fill("tiers", map(tables.tier_cells, shown.tiers))
        servers = sorted(shown.servers, key=lambda row: (row.tier, row.id))
        self._fill("servers", map(tables.server_cells, servers))
        name, key = _SORTS[self._sort]
        jobs = sorted(shown.jobs, key=lambda row: (-key(row), row.id))
        self._fill("jobs", map(tables.job_cells, jobs))
        self.query_one("#jobs-heading", Label).update(f"Jobs, by {name}")
        self._fill("moves", map(tables.move_cells, shown.moves))
        self._fill("events", map(tables.event_cells, _latest(shown.events)))

    def _fill(self, name: str, rows: Iterable[Cells]) -> None:
        table = self.query_one(f"#{name}", DataTable)
        x, y = table.scroll_x, table.scroll_y
        table.clear()
        table.add_rows(rows)
        table.display = bool(table.row_count)
        self.query_one(f"#{name}-heading", Label).display = table.display
        table.scroll_to(x, y, animate=False)

    # --- keys ----------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Stop asking, or go on."""
        self._is_paused = not self._is_paused
        self._show()

    def action_sort(self) -> None:
        """Sort the jobs by something else."""
        self._sort = (self._sort + 1) % len(_SORTS)
        self._show()

    def action_refresh_now(self) -> None:
        """Ask at once, unless a round is under way."""
        if not self.workers:
            self.run_worker(self._round(), exclusive=True)


def _latest(events: tuple[EventRow, ...]) -> list[EventRow]:
    """The newest events, the newest first."""
    return sorted(events, key=lambda row: -row.id)[:_EVENTS_SHOWN]
