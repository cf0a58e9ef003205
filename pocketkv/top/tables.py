"""Rows of figures as cells of text: one function per table, for the screen and a plain print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from pocketkv.amounts import format_bytes
from pocketkv.top.figures import BUSY, FULL, EventRow, JobRow, MoveRow, ServerRow, TierRow, View

Cells = Sequence[Text | str]

_BAR_CELLS: Final = 10
# Eighths of a cell, the full one last.
_BLOCKS: Final = "▏▎▍▌▋▊▉█"
_ID_CHARACTERS: Final = 8
# A server that was not heard of for longer than two reports is worth a look.
_SILENT_MS: Final = 2_500

TIER_COLUMNS: Final = ("tier", "servers", "wanted", "limits", "used", "", "promised", "USD/h")
SERVER_COLUMNS: Final = (
    "server", "tier", "state", "address", "cpu", "network", "", "used", "", "keys", "jobs",
    "clients", "heard",
)  # fmt: skip
JOB_COLUMNS: Final = (
    "job", "phase", "tiers", "servers", "used", "of quota", "keys", "ops/s", "lost", "lease",
    "USD", "short of",
)  # fmt: skip
MOVE_COLUMNS: Final = ("job", "slots", "from", "to", "copied", "")
EVENT_COLUMNS: Final = ("time", "event", "what")


def tier_cells(row: TierRow) -> Cells:
    """Return a tier's cells, as `TIER_COLUMNS` names them."""
    limits = "" if row.servers_max is None else f"{row.servers_min or 0}..{row.servers_max}"
    return (
        row.name,
        str(row.servers),
        "" if row.wanted is None else str(row.wanted),
        limits,
        bar(row.used),
        f"{format_bytes(row.used_bytes)} of {format_bytes(row.capacity_bytes)}",
        bar(row.promised),
        f"{row.cost_usd_per_hour:.3f}",
    )


def server_cells(row: ServerRow) -> Cells:
    """Return a server's cells, as `SERVER_COLUMNS` names them."""
    state = Text(row.state, style="" if row.state == "up" else "yellow")
    if row.problem:
        state = Text(f"{row.state}: {row.problem}", style="red")
    heard = f"{row.heard_ms_ago / 1000:.1f} s"
    return (
        short(row.id),
        row.tier,
        state,
        row.address,
        bar(row.cpu),
        bar(row.network),
        f"{format_bytes(round(row.network_bytes_s))}/s",
        bar(row.used),
        format_bytes(row.used_bytes),
        f"{row.keys:,}",
        str(row.jobs),
        str(row.connections),
        Text(heard, style="red" if row.heard_ms_ago > _SILENT_MS else ""),
    )


def job_cells(row: JobRow) -> Cells:
    """Return a job's cells, as `JOB_COLUMNS` names them."""
    quota = row.quota_bytes
    return (
        row.id,
        row.phase,
        " ".join(row.tiers),
        str(row.servers),
        format_bytes(row.used_bytes),
        "" if quota is None else bar(row.used_bytes / quota if quota else 1.0),
        f"{row.keys:,}",
        f"{row.commands_s:,.0f}",
        Text(f"{row.lost_keys:,}", style="red" if row.lost_keys else ""),
        "" if row.lease_left_s is None else f"{row.lease_left_s:.0f} s",
        f"{row.cost_usd:.6f}",
        Text("; ".join(row.short), style="yellow"),
    )


def move_cells(row: MoveRow) -> Cells:
    """Return a move's cells, as `MOVE_COLUMNS` names them."""
    return (
        row.job,
        row.slots,
        short(row.source),
        short(row.target),
        Text(_blocks(row.done), style="cyan"),
        f"{format_bytes(row.done_bytes)} of {format_bytes(row.total_bytes)}",
    )


def event_cells(row: EventRow) -> Cells:
    """Return an event's cells, as `EVENT_COLUMNS` names them."""
    at = time.strftime("%H:%M:%S", time.localtime(row.time_ms / 1000))
    return at, row.kind, row.text


def summary(view: View) -> str:
    """Return the whole cluster in a line."""
    used, capacity = format_bytes(view.used_bytes), format_bytes(view.capacity_bytes)
    return (
        f"{len(view.servers)} servers, {used} of {capacity} used, {len(view.jobs)} jobs,"
        f" {len(view.moves)} moves, {view.cost_usd_per_hour:.3f} USD an hour"
    )


def short(server_id: str) -> str:
    """Return as much of a server's id as tells it from others."""
    return server_id[:_ID_CHARACTERS]


def bar(load: float) -> Text:
    """Return a load as a bar and a percentage, in the colour of how much it is."""
    style = "red" if load >= FULL else ("yellow" if load >= BUSY else "green")
    return Text(f"{_blocks(load)} {load:4.0%}", style=style)


def _blocks(load: float) -> str:
    eighths = round(min(1.0, max(0.0, load)) * _BAR_CELLS * len(_BLOCKS))
    whole, rest = divmod(eighths, len(_BLOCKS))
    drawn = _BLOCKS[-1] * whole + (_BLOCKS[rest - 1] if rest else "")
    return drawn.ljust(_BAR_CELLS, "·")
