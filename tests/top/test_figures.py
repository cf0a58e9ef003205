from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.top import tables
from pocketkv.top.figures import Answers, view
from tests.top.answers import MIB, answers, job, server, tier


def test_rates_are_those_between_two_answers() -> None:
    before = answers(10.0)
    now = answers(
        12.0,
        servers=[server(received_bytes=30 * MIB, sent_bytes=10 * MIB)],
        jobs=[job(commands=5_000)],
    )
    shown = view(now, before)
    assert shown.servers[0].network_bytes_s == 20 * MIB
    assert shown.servers[0].network == pytest.approx(0.2)
    assert shown.jobs[0].commands_s == 2_500


def test_there_are_no_rates_without_an_earlier_answer_or_over_a_restart() -> None:
    busy = answers(10.0, servers=[server(sent_bytes=MIB)], jobs=[job(commands=9)])
    for now, before in ((busy, None), (answers(11.0), busy), (busy, busy)):
        shown = view(now, before)
        assert shown.servers[0].network_bytes_s == 0
        assert shown.jobs[0].commands_s == 0


def test_a_tier_is_as_full_as_its_scarcest_resource() -> None:
    assert view(answers(), None).tiers[0].promised == pytest.approx(0.75)
    bandwidth = tier(committed_bytes_s=190)
    assert view(answers(tiers=[bandwidth]), None).tiers[0].promised == pytest.approx(0.95)


def test_tiers_without_servers_are_left_out() -> None:
    absent = tier(tier="hdd", servers=0, wanted=0, servers_max=None)
    elastic = tier(tier="nvme", servers=0, wanted=0)
    assert [row.name for row in view(answers(tiers=[absent, elastic]), None).tiers] == ["nvme"]


def test_the_whole_is_the_sum() -> None:
    shown = view(answers(servers=[server(), server(id="other")]), None)
    assert (shown.used_bytes, shown.capacity_bytes) == (128 * MIB, 512 * MIB)
    assert tables.summary(shown) == (
        "2 servers, 128mb of 512mb used, 1 jobs, 1 moves, 1.008 USD an hour"
    )


figures = st.dictionaries(
    st.sampled_from(sorted({*server(), *job(), *tier(), "fields", "start", "time_ms"})),
    st.none() | st.integers(-5, 10**15) | st.text(max_size=5) | st.lists(st.text(), max_size=2),
)


@given(st.lists(figures, max_size=3))
def test_whatever_another_version_tells_can_be_shown(rows: list[dict[str, Any]]) -> None:
    now = Answers(2.0, rows, rows, rows, rows, rows)
    shown = view(now, Answers(1.0, rows, rows, rows, rows, rows))
    for column_names, cells in (
        (tables.TIER_COLUMNS, map(tables.tier_cells, shown.tiers)),
        (tables.SERVER_COLUMNS, map(tables.server_cells, shown.servers)),
        (tables.JOB_COLUMNS, map(tables.job_cells, shown.jobs)),
        (tables.MOVE_COLUMNS, map(tables.move_cells, shown.moves)),
        (tables.EVENT_COLUMNS, map(tables.event_cells, shown.events)),
    ):
        assert all(len(row) == len(column_names) for row in cells)


@pytest.mark.parametrize(
    ("load", "drawn", "style"),
    [
        (0.0, "··········   0%", "green"),
        (0.0125, "▏·········   1%", "green"),
        (0.65, "██████▌···  65%", "yellow"),
        (0.8, "████████··  80%", "red"),
        (3.0, "██████████ 300%", "red"),
    ],
)
def test_a_bar_is_as_long_as_the_load(load: float, drawn: str, style: str) -> None:
    text = tables.bar(load)
    assert (text.plain, text.style) == (drawn, style)


def test_what_is_wrong_stands_out() -> None:
    shown = view(answers(servers=[server(medium_error="disk full", heard_ms_ago=9_000)]), None)
    cells = tables.server_cells(shown.servers[0])
    texts = {str(cell): getattr(cell, "style", "") for cell in cells}
    assert texts["up: disk full"] == "red"
    assert texts["9.0 s"] == "red"
