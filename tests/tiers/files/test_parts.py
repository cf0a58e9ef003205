"""Collections that are in parts in real files: cut or damaged anywhere, collected, killed."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketkv.engine import shelf as shelf_module
from pocketkv.engine import writing as writing_module
from pocketkv.engine.cold import Cold
from pocketkv.engine.eviction import evict_some
from pocketkv.tiers import file_store
from pocketkv.tiers.file_store import FileStore
from pocketkv.tiers.volume import state as state_module
from pocketkv.tiers.volume.layout import layout_of
from tests.core import plain_only
from tests.engine.harness import Client, Engine
from tests.engine.stores import write_some
from tests.replies import Error
from tests.tiers.files.servers import must, options_of, serving

LOG = logging.getLogger("test")
ITEMS = [b"item:%d" % number for number in range(200)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shelf_module, writing_module):
        monkeypatch.setattr(module, "PARTED_BYTES", 2000)
    monkeypatch.setattr(writing_module, "PART_BYTES", 400)


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Engine, FileStore]]:
    """A server's engine on a directory."""
    store = FileStore(folder, "nvme", None, LOG)
    try:
        engine = Engine(store=store)
        store.restore(engine.keyspace)
        yield engine, store
    finally:
        store.close()


def write_list(client: Client) -> list[bytes]:
    """A list at `k` in parts, with changes before, beside and after them; what is in it."""
    client("RPUSH", "k", *ITEMS)
    client("RPUSH", "k", "before")
    assert client.db.shelf is not None
    client.db.shelf.begin_writing(b"k")
    write_some(client.engine.keyspace, 2)
    client("LPUSH", "k", "beside")
    write_some(client.engine.keyspace)
    client("RPUSH", "k", "after")
    return [b"beside", *ITEMS, b"before", b"after"]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.log"))


def found(client: Client) -> Any:
    reply = client("LRANGE", "k", 0, -1)
    if isinstance(reply, Error):
        assert reply.text.startswith("IOERR "), reply
        return None
    return reply


def test_it_is_there_after_a_restart_and_is_read_from_the_files(tmp_path: Path) -> None:
    with opened(tmp_path / "values") as (engine, _):
        expected = write_list(engine.connect())
    for _ in range(2):
        with opened(tmp_path / "values") as (engine, _):
            client = engine.connect()
            used = engine.keyspace.used_bytes
            assert isinstance(client.db.find_stored(b"k"), Cold)
            # What it takes on the medium counts as ever.
            assert used > sum(map(len, ITEMS))
            assert found(client) == expected
            while evict_some(engine.keyspace, 1 << 30, 1 << 30):
                pass
            assert engine.keyspace.used_bytes > sum(map(len, ITEMS))
            engine.validate()


@pytest.mark.parametrize("has_index", [True, False])
def test_whatever_the_machine_had_written_of_it(tmp_path: Path, *, has_index: bool) -> None:
    """Each state that was acknowledged, in their order: nothing between them, and no error."""
    with opened(tmp_path / "values") as (engine, _):
        expected = write_list(engine.connect())
        engine.node.commit()
        shutil.copytree(tmp_path / "values", tmp_path / "copy")
    (log,) = segments(tmp_path / "copy")
    data = log.read_bytes()
    states: list[Any] = [[], ITEMS, expected[1:-1], expected[:-1], expected]
    reached = 0
    for size in range(40, len(data), 72):
        folder = tmp_path / "cut"
        shutil.copytree(tmp_path / "copy", folder)
        (log,) = segments(folder)
        log.write_bytes(data[:size])
        # Another start of the machine: what was not brought to the device may be missing.
        (folder / "lock").unlink()
        if not has_index:
            log.with_suffix(".idx").unlink()
        with opened(folder) as (engine, _):
            value = found(engine.connect())
            assert value in states, size
            assert states.index(value) >= reached, size
            reached = states.index(value)
            engine.validate()
        shutil.rmtree(folder)
    assert reached >= 3


def test_a_byte_that_is_wrong_is_an_error_and_never_another_value(tmp_path: Path) -> None:
    with opened(tmp_path / "values") as (engine, _):
        client = engine.connect()
        expected = write_list(client)
        client("SET", "other", "value")
    (log,) = segments(tmp_path / "values")
    data = log.read_bytes()
    errors = 0
    for offset in range(32, len(data), 67):
        folder = tmp_path / "flipped"
        shutil.copytree(tmp_path / "values", folder)
        (log,) = segments(folder)
        log.write_bytes(data[:offset] + bytes([data[offset] ^ 0x41]) + data[offset + 1 :])
        with opened(folder) as (engine, _):
            client = engine.connect()
            value = found(client)
            errors += value is None
            assert value in (None, expected), offset
            if offset < data.rfind(b"other") - 36:
                assert client("GET", "other") == b"value"
            client("DEL", "k")
            assert client("RPUSH", "k", "new") == 1
            engine.validate()
        shutil.rmtree(folder)
    assert errors > 10


@plain_only
def test_segments_are_collected_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = replace(layout_of("nvme"), segment_bytes=4096, collect_bytes=1024)
    monkeypatch.setattr(file_store, "layout_of", lambda tier: layout)
    monkeypatch.setattr(state_module, "RESERVE_BYTES_MIN", 512)
    monkeypatch.setattr(state_module, "RESERVE_BYTES_MAX", 512)
    rng = random.Random(5)
    model: list[bytes] = list(ITEMS)
    folder = tmp_path / "values"
    with opened(folder) as (engine, _):
        engine.connect()("RPUSH", "k", *ITEMS)
    for turn in range(4):
        with opened(folder) as (engine, store):
            client = engine.connect()
            for number in range(60):
                client("SET", f"filler:{number % 7}", b"x" * rng.randrange(600))
                if number % 10 == 0:
                    client("SET", f"stays:{turn}:{number}", b"x" * 500)
                if rng.randrange(3) == 0:
                    client("RPUSH", "k", f"new:{number}")
                    client("LPOP", "k")
                    model = [*model[1:], b"new:%d" % number]
                if rng.randrange(8) == 0:
                    while evict_some(engine.keyspace, 1 << 30, 1 << 30):
                        pass
                for _ in range(3):
                    store.volume.collect_step()
                write_some(engine.keyspace, rng.randrange(4))
                engine.node.commit()
                store.sync()
            assert found(client) == model
            assert store.volume.state.collected_bytes > 0
            write_some(engine.keyspace)
            store.volume.open("default").seal()
            for _ in range(300):
                store.volume.collect_step()
                write_some(engine.keyspace)
                engine.node.commit()
                store.sync()
            # Nothing holds what is of no use any more.
            left = list(store.volume.open("default").segments.values())
            assert not any(segment.drained and segment.live for segment in left)
            assert sum(segment.size for segment in left) < 8 * 4096 + 2 * store.volume.live_bytes
    with opened(folder) as (engine, _):
        assert found(engine.connect()) == model


def test_a_directory_of_the_former_format_is_read(tmp_path: Path) -> None:
    """It is the same but for parts; once they may be there, an older program must refuse it."""
    folder = tmp_path / "values"
    with opened(folder) as (engine, _):
        client = engine.connect()
        client("SADD", "small", *range(20))
        client("SET", "string", "value")
    text = (folder / "FORMAT").read_text()
    assert text.startswith("pocketkv 3\n")
    (folder / "FORMAT").write_text(text.replace("pocketkv 3", "pocketkv 2"))
    with opened(folder) as (engine, _):
        client = engine.connect()
        assert client("GET", "string") == b"value"
        assert client("SCARD", "small") == 20
    assert (folder / "FORMAT").read_text() == text


@pytest.mark.timeout(180)
def test_a_server_that_is_killed_while_it_writes_one(tmp_path: Path) -> None:
    """Changes that were acknowledged are there, whatever was being written of the whole."""
    options = options_of("nvme", tmp_path / "values")
    held = {b"member:%d" % number for number in range(20_000)}
    rng = random.Random(3)
    with serving(tmp_path, *options) as server:
        members = sorted(held)
        for at in range(0, len(members), 5000):
            must(server.control("SADD", "huge", *members[at : at + 5000]))
        server.kill()
    for turn in range(2):
        with serving(tmp_path, *options) as server:
            client = server.control
            assert set(client("SMEMBERS", "huge")) == held
            # So many that it is written whole some time.
            for number in range(rng.randrange(400, 900)):
                new, old = b"new:%d:%d" % (turn, number), b"member:%d" % rng.randrange(20_000)
                must(client("SADD", "huge", new))
                must(client("SREM", "huge", old))
                held.add(new)
                held.discard(old)
            server.kill()
    with serving(tmp_path, *options) as server:
        assert set(server.control("SMEMBERS", "huge")) == held
