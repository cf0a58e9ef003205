"""Reads for the serving thread: in order, by threads or by looking for them; errors; the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio

from pocketkv.engine.cold import Cold
from pocketkv.engine.errors import CommandError
from pocketkv.engine.shelf import StoredRead
from pocketkv.tiers import readers as readers_module
from pocketkv.tiers.readers import Readers
from tests.engine.harness import Engine
from tests.engine.stores import MemoryStore

LOG = logging.getLogger("pocketkv.test")
Results = list[bytes | CommandError]


class Stored:
    """A value that comes after having been looked for so many times."""

    is_coming = True

    def __init__(self, value: bytes, looks: int = 0, error: CommandError | None = None) -> None:
        self.value = value
        self.looks = looks
        self.error = error
        self.read_by: list[str] = []

    def try_read(self) -> bytes | None:
        if self.error is not None:
            raise self.error
        self.looks -= 1
        return self.value if self.looks < 0 else None

    def read(self) -> bytes:
        self.read_by.append(threading.current_thread().name)
        return self.value

    def keep(self, result: bytes | CommandError) -> bool:
        return True

    def prepare(self) -> Iterator[None]:
        return iter(())

    def forget(self) -> None:
        pass


async def wait_for(results: list[Results], count: int = 1) -> None:
    with trio.fail_after(10):
        while len(results) < count:  # noqa: ASYNC110 - what is tested runs in threads
            await trio.sleep(0.001)


def test_threads_read_and_results_come_in_order() -> None:
    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        readers.read([partial(b"%d".__mod__, n) for n in range(100)], found.append)
        await wait_for(found)
        assert found == [[b"%d" % n for n in range(100)]]
        assert readers.waiting == 0
        readers.read([], found.append)
        assert found[1] == []
        readers.close()

    trio.run(main)


def test_an_error_is_the_result_of_its_read_only() -> None:
    def refused() -> bytes:
        raise CommandError(b"IOERR damaged")

    def failing() -> bytes:
        raise OSError(5, "Input/output error")

    def broken() -> bytes:
        raise ValueError("a defect")

    async def main() -> None:
        readers = Readers(2, LOG)
        found: list[Results] = []
        readers.read([refused, failing, broken, lambda: b"fine"], found.append)
        await wait_for(found)
        *errors, fine = found[0]
        assert fine == b"fine"
        texts = [error.text for error in errors if isinstance(error, CommandError)]
        assert texts == [
            b"IOERR damaged",
            b"IOERR Input/output error",
            b"ERR internal error: ValueError",
        ]
        readers.close()

    trio.run(main)


class Played:
    """What reads records past the page cache: those that a test lets it, in the order it says."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.begun: list[Any] = []
        self.given = 0
        self.done: list[tuple[Any, bytes | None]] = []

    @property
    def under_way(self) -> int:
        return len(self.begun) + len(self.done)

    def begin(self, cold: Cold, context: Any) -> bool:
        if self.refused > 0:
            self.refused -= 1
            return False
        self.begun.append(context)
        return True

    def submit(self) -> None:
        self.given = len(self.begun)

    def come(self, payloads: list[bytes | None]) -> None:
        """The last reads that were begun give this, the last one first."""
        assert self.given == len(self.begun)
        for payload in payloads:
            self.done.append((self.begun.pop(), payload))

    def take(self, count: int) -> list[tuple[Any, bytes | None]]:
        taken, self.done = self.done[:count], self.done[count:]
        return taken

    def trim(self) -> None:
        pass

    def close(self) -> None:
        pass


def stored(engine: Engine, *values: bytes) -> list[StoredRead]:
    """Records that are not in memory."""
    client = engine.connect()
    found = []
    for number, value in enumerate(values):
        client("SET", b"{t}%d" % number, value)
        entry = client.db.find_stored(b"{t}%d" % number)
        assert isinstance(entry, Cold)
        assert client.db.shelf is not None
        found.append(StoredRead(client.db.shelf, entry))
    return found


def with_records(played: Played, wake: Callable[[], None] | None = None) -> Readers:
    try:
        return Readers(2, LOG, records=played, wake=wake)  # type: ignore[arg-type]
    except TypeError:
        pytest.skip("what is compiled cannot be played")


def test_records_past_the_page_cache_come_in_any_order() -> None:
    async def main() -> None:
        played = Played()
        woken: list[int] = []
        readers = with_records(played, lambda: woken.append(played.under_way))
        a, b, c = stored(Engine(store=MemoryStore()), b"1", b"2", b"3")
        found: list[Results] = []
        readers.fetch([a], found.append)
        readers.fetch([b, c], found.append)
        # Whoever looks is told once that there is something to look for.
        assert woken == [1]
        assert (readers.waiting, readers.given, readers.given_direct) == (3, 3, 3)
        assert not readers.poll()
        played.come([b"3", b"2", b"1"])
        assert not readers.poll()
        assert found == [[b"2", b"3"], [b"1"]]
        assert readers.waiting == 0
        readers.fetch([a], found.append)
        assert woken == [1, 1]
        readers.close()

    trio.run(main)


def test_what_cannot_be_read_past_the_page_cache_is_read_by_a_thread() -> None:
    async def main() -> None:
        played = Played()
        readers = with_records(played)
        a, b, c = stored(Engine(store=MemoryStore()), b"1", b"2", b"3")
        found: list[Results] = []
        readers.fetch([a], found.append)
        readers.fetch([b, c], found.append)
        readers.poll()
        played.come([None, b"2", None])
        readers.poll()
        await wait_for(found, 2)
        assert sorted(found) == [[b"1"], [b"2", b"3"]]
        # What is refused goes the other ways.
        played.refused = 2
        readers.fetch([a, b, c], found.append)
        assert not readers.poll()
        assert len(found) == 2
        played.come([b"3"])
        readers.poll()
        assert found[2] == [b"1", b"2", b"3"]
        readers.close()

    trio.run(main)


def test_a_record_is_asked_for_once() -> None:
    """Whoever refuses it because it is wanted again has noted that."""

    async def main() -> None:
        played = Played(refused=1)
        readers = with_records(played)
        a, b = stored(Engine(store=MemoryStore()), b"1", b"2")
        found: list[Results] = []
        readers.fetch([a], found.append)
        assert (played.refused, played.begun, readers.given_direct) == (0, [], 0)
        readers.poll()
        assert found == [[b"1"]]
        played.refused = 1
        readers.fetch([a, b], found.append)
        assert len(played.begun) == 1
        readers.close()

    trio.run(main)


def test_records_are_passed_on_some_at_a_time() -> None:
    async def main() -> None:
        played = Played()
        readers = with_records(played)
        (read,) = stored(Engine(store=MemoryStore()), b"1")
        found: list[Results] = []
        for _ in range(40):
            readers.fetch([read], found.append)
        readers.poll()
        played.come([b"1"] * 40)
        polls = 1
        while readers.poll():
            assert len(found) < 40
            polls += 1
        assert found == [[b"1"]] * 40
        assert 2 < polls < 40
        readers.close()

    trio.run(main)


def test_what_is_coming_is_looked_for_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "_POLLED_S", 1000.0)

    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        first, second = Stored(b"1", looks=3), Stored(b"2")
        readers.fetch([first, second], found.append)
        assert not found
        assert [readers.poll() for _ in range(4)] == [True, True, True, False]
        assert found == [[b"1", b"2"]]
        assert first.read_by == second.read_by == []
        damaged = CommandError(b"IOERR damaged")
        readers.fetch([Stored(b"", error=damaged)], found.append)
        assert not readers.poll()
        assert found[1] == [damaged]
        readers.close()

    trio.run(main)


def test_many_that_have_come_are_passed_on_a_few_at_a_time() -> None:
    """Each is a command that is executed, and others wait for their turn meanwhile."""

    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        for number in range(10):
            readers.fetch([Stored(b"%d" % number)], found.append)
        polls = 1
        while readers.poll():
            assert len(found) < 10
            polls += 1
        assert found == [[b"%d" % number] for number in range(10)]
        assert 1 < polls < 10
        assert readers.waiting == 0
        readers.close()

    trio.run(main)


def test_what_one_command_names_is_taken_at_once() -> None:
    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        readers.fetch([Stored(b"%d" % number) for number in range(40)], found.append)
        assert not readers.poll()
        assert found == [[b"%d" % number for number in range(40)]]
        readers.close()

    trio.run(main)


def test_what_is_still_coming_at_the_end_is_left() -> None:
    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        readers.fetch([Stored(b"", looks=1_000_000)], found.append)
        assert readers.poll()
        readers.close()
        assert (found, readers.waiting) == ([], 1)

    trio.run(main)


def test_what_does_not_come_soon_is_left_to_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "_POLLED_S", 0.0)

    async def main() -> None:
        readers = Readers(4, LOG)
        found: list[Results] = []
        stored = Stored(b"late", looks=1_000_000)
        readers.fetch([stored], found.append)
        readers.poll()
        await wait_for(found)
        assert found == [[b"late"]]
        assert stored.read_by == ["reader"]
        readers.close()

    trio.run(main)


def test_a_medium_that_is_slow_is_not_looked_at() -> None:
    async def main() -> None:
        readers = Readers(4, LOG, polls=False)
        found: list[Results] = []
        stored = Stored(b"value")
        readers.fetch([stored], found.append)
        assert not readers.poll()
        await wait_for(found)
        assert stored.read_by == ["reader"]
        readers.close()

    trio.run(main)
