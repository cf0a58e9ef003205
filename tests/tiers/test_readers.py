"""Reads for the serving thread: in order, by threads or by looking for them; errors; the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import trio

from pocketkv.engine.errors import CommandError
from pocketkv.tiers import readers as readers_module
from pocketkv.tiers.readers import Readers

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
