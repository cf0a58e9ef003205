"""What a server does that is told to end while its controller is there, away, or another one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from pocketkv.placement import PlacementMap
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.tiers.leaving import Leaver
from tests.engine.harness import Engine

LOG = logging.getLogger("pocketkv.tests")
JOB = "default"
TIMEOUT_S = 100.0
AWAY_S = 20.0


class Played:
    """A server with all slots of a job, and a controller that the test plays."""

    def __init__(self, *, keys: int = 1, away_s: float = AWAY_S) -> None:
        self.engine = Engine()
        client = self.engine.connect()
        for number in range(keys):
            client("SET", f"key:{number}", "value")
        self.joined = True
        self.asked: list[tuple[float, str]] = []
        self.refusal = ""
        self.leaver = Leaver(
            self.engine.node,
            cast("Any", SimpleNamespace(connections={})),
            self,
            dict,
            TIMEOUT_S,
            LOG,
            away_s,
        )

    async def call(self, *arguments: bytes | str | int) -> Any:
        """Take a command of the server."""
        await trio.lowlevel.checkpoint()
        if not self.joined:
            raise PeerError("the controller is away")
        self.asked.append((trio.current_time(), str(arguments[0])))
        if self.refusal:
            raise RemoteError(self.refusal)

    def give_slots_away(self) -> None:
        """A map comes by which another one has all slots."""
        placements = self.engine.topology.placements
        placements[JOB] = PlacementMap(JOB, 9, (), {}, {})

    @property
    def commands(self) -> list[str]:
        return [name for _, name in self.asked]

    def leaves(self, *later: tuple[float, Callable[[], None]]) -> float:
        """Have it leave, while things happen after so many seconds; how long it took."""

        async def do(after_s: float, what: Callable[[], None]) -> None:
            await trio.sleep(after_s)
            what()

        async def main() -> float:
            started_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for after_s, what in later:
                    nursery.start_soon(do, after_s, what)
                await self.leaver.leave()
                took_s = trio.current_time() - started_s
                nursery.cancel_scope.cancel()
            return took_s

        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(main, clock=clock)

    def set(self, **attributes: Any) -> Callable[[], None]:
        return lambda: vars(self).update(attributes)

    def serves(self) -> bool:
        return bool(self.engine.connect()("GET", "key:0") == b"value")


def test_it_ends_when_all_has_been_moved() -> None:
    played = Played()
    took_s = played.leaves((3, played.give_slots_away))
    assert played.commands == ["MEMBER.DRAIN"]
    assert 3 <= took_s < 4


def test_what_is_left_when_its_time_is_over_is_told_and_not_served() -> None:
    played = Played()
    assert TIMEOUT_S <= played.leaves() < TIMEOUT_S + 1
    assert played.commands == ["MEMBER.DRAIN", "MEMBER.ENDS"]
    assert not played.serves()


def test_a_controller_that_is_away_is_waited_for() -> None:
    played = Played()
    played.joined = False
    took_s = played.leaves((8, played.set(joined=True)), (12, played.give_slots_away))
    assert played.commands == ["MEMBER.DRAIN"]
    assert 12 <= took_s < 13


def test_the_next_leader_goes_on_with_a_drain() -> None:
    played = Played()
    took_s = played.leaves(
        (2, played.set(joined=False)),
        (10, played.set(joined=True)),
        (15, played.give_slots_away),
    )
    assert played.commands == ["MEMBER.DRAIN", "MEMBER.DRAIN"]
    assert 15 <= took_s < 16


def test_a_controller_that_is_about_to_end_refuses_and_the_next_one_does_not() -> None:
    played = Played()
    played.refusal = "ERR the controller is starting or stopping"
    played.leaves(
        (0.3, played.set(joined=False, refusal="")),
        (6, played.set(joined=True)),
        (9, played.give_slots_away),
    )
    assert played.commands == ["MEMBER.DRAIN", "MEMBER.DRAIN"]


@pytest.mark.parametrize("joined", [True, False])
def test_a_controller_that_does_not_come_back_is_not_waited_for_for_ever(joined: bool) -> None:
    played = Played()
    played.joined = joined
    took_s = played.leaves((2, played.set(joined=False)))
    assert AWAY_S <= took_s < AWAY_S + 4


def test_who_is_refused_ends_at_once() -> None:
    played = Played()
    played.refusal = "ERR there is no other server that could take its slots"
    assert played.leaves() < 1
    assert played.commands == ["MEMBER.DRAIN"]


@pytest.mark.parametrize(("keys", "away_s"), [(0, AWAY_S), (1, 0.0)])
def test_who_has_nothing_to_lose_or_ends_with_its_controller_does_not_wait(
    keys: int, away_s: float
) -> None:
    played = Played(keys=keys, away_s=away_s)
    played.joined = False
    assert played.leaves() < 1
    assert played.commands == []
