"""Files that are damaged while no server runs: errors on the keys concerned, never wrong bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pocketkv.limits import KIB, MIB
from tests.replies import Error
from tests.tiers.files.servers import Client, Server, must, options_of, pattern, serving

SIZES = [200, KIB, 60 * KIB, 70 * KIB, MIB]
COUNT = 12


def fill(client: Client) -> dict[bytes, bytes | set[bytes]]:
    held: dict[bytes, bytes | set[bytes]] = {}
    for size in SIZES:
        for number in range(COUNT):
            name, value = b"%d:%d" % (size, number), pattern(size + number, size)
            must(client("SET", name, value))
            held[name] = value
    for number in range(3):
        members = {pattern(number, 100) + b"%d" % member for member in range(50)}
        must(client("SADD", b"set:%d" % number, *members))
        held[b"set:%d" % number] = members
    return held


def damaged(client: Client, held: dict[bytes, bytes | set[bytes]]) -> set[bytes]:
    """The keys that are answered with IOERR; all others have to be right."""
    found = set()
    for name, value in held.items():
        is_set = isinstance(value, set)
        reply = client("SMEMBERS" if is_set else "GET", name)
        if isinstance(reply, Error):
            assert reply.text.startswith("IOERR "), reply
            found.add(name)
        else:
            assert (set(reply) if is_set else reply) == value, name
    return found


def flip(path: Path, offset: int, count: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        data = file.read(count)
        file.seek(offset)
        file.write(bytes(byte ^ 0x55 for byte in data))


def find(folder: Path, wanted: bytes) -> tuple[Path, int]:
    """Where some bytes stand, in just one file."""
    for path in folder.rglob("*"):
        if path.is_file() and (at := path.read_bytes().find(wanted)) >= 0:
            return path, at
    raise AssertionError("not found")


@pytest.mark.parametrize("end", [Server.stop, Server.kill], ids=["stopped", "killed"])
@pytest.mark.parametrize("tier", ["nvme", "hdd"])
def test_only_the_keys_that_were_damaged(tmp_path: Path, tier: str, end: object) -> None:
    folder = tmp_path / "values"
    options = options_of(tier, folder)
    with serving(tmp_path, *options) as server:
        held = fill(server.control)
        assert callable(end)
        end(server)
    chosen = {b"%d:%d" % (size, 3) for size in SIZES} | {b"set:1"}
    for name in chosen:
        value = held[name]
        wanted = min(value) if isinstance(value, set) else value[:64]
        path, at = find(folder, wanted)
        flip(path, at + 40, 2)
    with serving(tmp_path, *options) as server:
        client = server.control
        assert damaged(client, held) == chosen
        # They can be written anew, or removed.
        for name in chosen:
            assert isinstance(client("GETRANGE", name, "0", "100"), Error)
            must(client("TYPE", name))
            must(client("SET", name, b"new") if len(name) % 2 else client("DEL", name))
        assert damaged(client, {n: v for n, v in held.items() if n not in chosen}) == set()
        server.kill()
    with serving(tmp_path, *options) as server:
        left = {name: value for name, value in held.items() if name not in chosen}
        assert damaged(server.control, left) == set()
        for name in chosen:
            assert server.control("GET", name) == (b"new" if len(name) % 2 else None)


def check_random_damage(tmp_path: Path, seed: int, rounds: int) -> None:
    """Damage any place of any file, one at a time: no wrong bytes, and no key is gone."""
    rng = random.Random(seed)
    folder = tmp_path / "values"
    options = options_of("nvme", folder)
    with serving(tmp_path, *options) as server:
        held = fill(server.control)
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".log", ".idx", ".dat"})
    assert {path.suffix for path in files} == {".log", ".idx", ".dat"}
    originals = {path: path.read_bytes() for path in files}
    hurt = 0
    for _ in range(rounds):
        path = rng.choice(files)
        data = originals[path]
        at = rng.randrange(max(1, len(data.rstrip(b"\0"))))
        flip(path, at, rng.choice([1, 8, 5000]))
        with serving(tmp_path, *options) as server:
            hurt += len(damaged(server.control, held))
            server.kill()
        for path, data in originals.items():
            path.write_bytes(data)
        for path in folder.rglob("*"):
            if path.suffix in {".log", ".idx", ".dat"} and path not in originals:
                path.unlink()
    assert hurt > 0


def test_random_damage(tmp_path: Path) -> None:
    check_random_damage(tmp_path, 1, 5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 5))
def test_much_random_damage(tmp_path: Path, seed: int) -> None:
    check_random_damage(tmp_path, seed, 60)


def test_files_that_are_gone_or_short(tmp_path: Path) -> None:
    folder = tmp_path / "values"
    options = options_of("nvme", folder)
    with serving(tmp_path, *options) as server:
        held = fill(server.control)
    large = {name for name in held if name.startswith((b"71680:", b"1048576:"))}
    data = next(folder.rglob("large-*.dat"))
    whole = data.read_bytes()
    data.write_bytes(whole[: 3 * MIB])
    with serving(tmp_path, *options) as server:
        failed = damaged(server.control, held)
        assert failed
        assert failed < large
        server.kill()
    data.unlink()
    with serving(tmp_path, *options) as server:
        assert damaged(server.control, held) == large
        must(server.control("SET", "new", pattern(1, 70 * KIB)))
        server.kill()
    # It was not overwritten meanwhile, and can come back.
    assert not data.exists()
    data.write_bytes(whole)
    with serving(tmp_path, *options) as server:
        assert damaged(server.control, held) == set()
        assert server.control("GET", "new") == pattern(1, 70 * KIB)
