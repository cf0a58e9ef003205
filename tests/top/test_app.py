from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual.pilot import Pilot
from textual.widgets import DataTable, Label, Static

from pocketkv.top.app import TopApp
from pocketkv.top.figures import Answers
from pocketkv.top.source import SourceError
from tests.top.answers import answers, job

# Rounds come when the test asks for them.
NEVER_S = 3600.0


class Told:
    """A source that answers what a test put there."""

    def __init__(self, *told: Answers | SourceError) -> None:
        self.told = list(told)
        self.is_closed = False

    async def ask(self) -> Answers:
        answer = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(answer, SourceError):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.is_closed = True


def watch(source: Told, steps: Callable[[TopApp, Pilot[None]], Awaitable[None]]) -> None:
    async def run() -> None:
        app = TopApp(source, "router:6379", NEVER_S)
        async with app.run_test(size=(180, 50)) as pilot:
            await app.workers.wait_for_complete()
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


def rows(app: TopApp, name: str) -> list[list[str]]:
    table = app.query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]


async def refresh(app: TopApp, pilot: Pilot[None]) -> None:
    await pilot.press("r")
    await app.workers.wait_for_complete()
    await pilot.pause()


def test_everything_that_is_answered_is_shown() -> None:
    source = Told(answers())

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert rows(app, "tiers")[0][:4] == ["dram", "2", "3", "1..8"]
        assert rows(app, "servers")[0][:4] == ["5d8fbeb6", "dram", "up", "127.0.0.1:7001"]
        assert rows(app, "jobs")[0][:4] == ["shuffle-1", "active", "dram", "2"]
        assert rows(app, "moves")[0][:4] == ["shuffle-1", "0-99", "5d8fbeb6", "d397b424"]
        assert rows(app, "events")[0][1:] == ["tier grows", "tier=dram wanted=3"]
        assert app.sub_title == "router:6379"

    watch(source, steps)
    assert source.is_closed


def test_an_empty_table_has_no_heading() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert not app.query_one("#moves-heading", Label).display
        assert app.query_one("#jobs-heading", Label).display

    watch(Told(answers(moves=[])), steps)


def test_no_answer_is_said_and_what_was_shown_stays() -> None:
    source = Told(answers(10.0), SourceError("connection refused"), answers(12.0))

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await refresh(app, pilot)
        problem = app.query_one("#problem", Static)
        assert "no answer: connection refused" in str(problem.render())
        assert rows(app, "jobs")
        await refresh(app, pilot)
        assert not str(problem.render())

    watch(source, steps)


def test_jobs_are_sorted_by_what_the_user_wants() -> None:
    large, many = job(id="large", used_bytes=9, keys=1), job(id="many", used_bytes=1, keys=9)

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert [row[0] for row in rows(app, "jobs")] == ["large", "many"]
        await pilot.press("s", "s")
        await pilot.pause()
        assert "keys" in str(app.query_one("#jobs-heading", Label).render())
        assert [row[0] for row in rows(app, "jobs")] == ["many", "large"]

    watch(Told(answers(jobs=[many, large])), steps)


def test_a_pause_is_said() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("p")
        await pilot.pause()
        assert str(app.query_one("#summary", Static).render()).endswith(", paused")

    watch(Told(answers()), steps)
