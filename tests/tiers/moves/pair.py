"""Source and target of a move in one process, without sockets: what is sent is taken at once.

The real code of both sides runs; only the connection between them is played, so that a test
decides what happens between any two steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from pocketkv.engine.database import Database
from pocketkv.engine.emptying import empty_some
from pocketkv.engine.extents import Extents
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.node import Node
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.stream_value import StreamValue
from pocketkv.engine.values import Collection
from pocketkv.placement import PlacementMap, SlotMove, SlotRange
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.resp.replies import FileBulk
from pocketkv.slots import SLOT_COUNT
from pocketkv.tiers import carrying
from pocketkv.tiers.carrying import Carrier
from pocketkv.tiers.copying import Sender
from pocketkv.tiers.move_metrics import HoldTimes
from pocketkv.tiers.resting import Rests
from tests.engine.harness import NODE_ID, OTHER_ID, Client, Engine, make_server
from tests.engine.media import FakeMedium
from tests.replies import Error

JOB = "sort-0123456789abcdef"
LAST_SLOT = SLOT_COUNT - 1
SECRET = bytes(range(32))


def make_engine(**options: Any) -> Engine:
    if "store" not in options:
        options.setdefault("extents", Extents(FakeMedium(8192, page_bytes=4096)))
    return Engine(secret=SECRET, **options)


class PlayedLine:
    """Has the target execute what is posted; what is not answered yet is answered by `answer`."""

    def __init__(self, target: Client, secret: bytes) -> None:
        self.target = target
        self.job_id = JOB
        self.outstanding_bytes = 0
        self.closed = False
        self.before: Callable[[list[Any]], None] = lambda arguments: None
        self.is_cut = False

    def post(self, arguments: list[Any], on_reply: Callable[[Any], None]) -> None:
        self.before(arguments)
        if self.is_cut:
            on_reply(PeerError("cut"))
            return
        reply = self.target(*map(_plain, arguments))
        on_reply(RemoteError(reply.text) if isinstance(reply, Error) else reply)

    async def call(self, *arguments: Any) -> Any:
        if self.is_cut:
            raise PeerError("cut")
        reply = self.target(*map(_plain, arguments))
        if isinstance(reply, Error):
            raise RemoteError(reply.text)
        return reply

    def speak_for(self, job_id: str, secret: bytes, on_reply: Callable[[Any], None]) -> None:
        raise NotImplementedError  # A pair has one job only.

    def send_now(self) -> None:
        """Everything was sent already."""

    def close(self) -> None:
        self.closed = True


def _plain(argument: Any) -> Any:
    if not isinstance(argument, FileBulk):
        return argument
    return b"".join(part.read() for part in argument.ranges)


class Pair:
    """A source, a target, and a move between them.

    Attributes:
        on_step: Called between any two steps of the move.
    """

    def __init__(
        self,
        source: Engine | None = None,
        target: Engine | None = None,
        start: int = 0,
        end: int = LAST_SLOT,
    ) -> None:
        self.source = source or make_engine()
        self.target = target or make_engine()
        self.target.node.id = OTHER_ID
        self.move = SlotMove("2-0", start, end, NODE_ID, OTHER_ID)
        self.on_step: Callable[[], None] = lambda: None
        self.on_post: Callable[[list[Any]], None] = lambda arguments: None
        servers = [make_server(NODE_ID, 7000), make_server(OTHER_ID, 7001)]
        placement = PlacementMap(
            job_id=JOB,
            epoch=2,
            ranges=(SlotRange(0, LAST_SLOT, NODE_ID),),
            quotas={NODE_ID: None, OTHER_ID: None},
            weights={NODE_ID: 1.0},
            moves=(self.move,),
        )
        for engine in (self.source, self.target):
            engine.topology.set_servers(servers, 2)
            engine.topology.set_placement(placement)
        self.client = self.connect(self.source)
        self.client.session.space.own_everything()
        self.other = self.connect(self.target)
        self.is_ordered = True
        self.holds = HoldTimes()
        self.flipped: list[tuple[int, int]] = []
        self.lines: list[PlayedLine] = []

    @staticmethod
    def connect(engine: Engine, *, proxied: bool = False) -> Client:
        client = engine.connect(proxied=proxied)
        client.session.enter_job(JOB)
        return client

    def new_line(self) -> PlayedLine:
        line = PlayedLine(self.connect(self.target, proxied=True), SECRET)
        line.before = self._before_post
        self.lines.append(line)
        return line

    def _before_post(self, arguments: list[Any]) -> None:
        if arguments[0] == "POCKETKV.MOVE":
            self.empty()
        self.on_post(arguments)

    async def open_line(self) -> PlayedLine:
        return self.new_line()

    def carrier(self) -> Carrier:
        return Carrier(
            self.source.node,
            JOB,
            self.move,
            open_line=self.open_line,
            is_ordered=lambda: self.is_ordered,
            target_is_known=lambda: True,
            holds=self.holds,
            rests=Rests(lambda: 0),
            on_flip=lambda keys, size: self.flipped.append((keys, size)),
            log=logging.getLogger("pocketkv.tests"),
        )

    def run(self, monkeypatch: Any) -> None:
        """Carry the move out, or raise what ends it."""
        pair = self

        class SteppingSender(Sender):
            async def _step(self, window_bytes: int = 0) -> None:
                self.raise_failure()
                pair.on_step()
                self.flush()
                await trio.lowlevel.checkpoint()

        monkeypatch.setattr(carrying, "Sender", SteppingSender)

        async def main() -> None:
            await self.carrier().run(self.new_line())  # type: ignore[arg-type]

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    def empty(self) -> None:
        """The background work of both sides."""
        for engine in (self.source, self.target):
            while empty_some(engine.keyspace.open(JOB), 100):
                pass

    def validate(self) -> None:
        self.source.validate()
        self.target.validate()


def contents(node: Node, job_id: str = JOB) -> dict[tuple[int, bytes], tuple[Any, ...]]:
    """Everything that clients of a job could see on a server."""
    found: dict[tuple[int, bytes], tuple[Any, ...]] = {}
    space = node.keyspace.open(job_id)
    for db in space.databases.values():
        for slot, table in db.slot_tables():
            if not space.owned[slot]:
                continue
            for key in [key for key in table if db.live(key, slot)]:
                found[db.index, key] = (*_value(db, key), db.expiry_ms(key), _mark(db, key))
    return found


def _mark(db: Database, key: bytes) -> bool:
    return db.marks is not None and key in db.marks


def _value(db: Database, key: bytes) -> tuple[Any, ...]:
    entry = db.find_stored(key)
    assert entry is not None
    value = db.value_of(key, entry)
    if isinstance(value, SetValue):
        return "set", value.encoding(), frozenset(value.members())
    if isinstance(value, ListValue):
        return "list", tuple(value.items())
    if isinstance(value, SortedSetValue | StreamValue):
        return value.type_name, value.payload()
    assert not isinstance(value, Collection)
    return "string", bytes(value)
