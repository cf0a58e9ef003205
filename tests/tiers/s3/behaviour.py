"""What a store does on any S3: run on moto, and on a real server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pocketkv.tiers.s3.blobs import Blob
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import BLOCK_BYTES
from pocketkv.tiers.s3.retained import Retained
from pocketkv.tiers.s3.store import S3Store

MIB = 1024 * 1024
PART = 5 * MIB

Names = Callable[[], list[str]]
MakeStore = Callable[..., S3Store]


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def check_finds_all_well(store: S3Store, names: Names) -> None:
    store.check()
    assert store.available
    assert store.reason == ""
    assert names() == []


def check_packs(store: S3Store, names: Names) -> None:
    values = [b"one", b"", b"\x00\xff" * 500, b"last", b""]
    pack = store.write_pack("job-1", values)
    assert names() == [pack.name]
    assert pack.name.startswith("a/prefix/jobs/job-1/")
    items = pack.items()
    assert [item.size for item in items] == [3, 0, 1000, 4, 0]
    assert len({item.offset for item in items}) == len(items)
    for item, value in zip(items, values, strict=True):
        assert store.read_item(pack, item.offset, item.size, item.checksum) == value
        assert store.read_item(pack, item.offset, item.size) == value
    assert [value for _, value in store.read_live(pack)] == values


def check_released_packs_go(store: S3Store, names: Names) -> None:
    packs = [store.write_pack("job-1", [b"x" * 100] * 10) for _ in range(3)]
    for item in packs[0].items():
        store.release(packs[0], item.offset)
    for item in packs[1].items()[:6]:
        store.release(packs[1], item.offset)
    assert store.sparse_packs() == [packs[1]]
    live = list(store.read_live(packs[1]))
    assert [item for item, _ in live] == packs[1].items()[6:]
    assert store.empty_trash() == 1
    assert names() == [packs[1].name, packs[2].name]


def check_objects(store: S3Store, names: Names, size: int) -> None:
    data = some_bytes(size)
    blob = store.write_object("job-1", in_pieces(data, 300_001), size)
    assert names() == [blob.name]
    assert store.read_object(blob) == data
    edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, PART - 1, PART, PART + 1, size - 1, size]
    for start in edges:
        for end in (start, start + 1, start + 100, size):
            if 0 <= start <= end <= size:
                assert store.read_object(blob, start, end) == data[start:end]
    store.delete_object(blob)
    assert store.figures().object_bytes == 0
    store.empty_trash()
    assert names() == []


def check_object_from_a_reader(store: S3Store) -> None:
    data = some_bytes(2 * PART + 17)
    asked: list[tuple[int, int]] = []

    def reader(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return data[offset : offset + size]

    blob = store.write_object("job-1", reader, len(data))
    assert sum(size for _, size in asked) == len(data)
    assert [offset for offset, _ in asked] == sorted({offset for offset, _ in asked})
    assert store.read_object(blob, PART - 10, PART + 10) == data[PART - 10 : PART + 10]


def check_many_threads(store: S3Store, names: Names) -> None:
    def work(number: int) -> tuple[Blob, bytes]:
        data = some_bytes(6 * MIB + number, number)
        blob = store.write_object("job-1", in_pieces(data, MIB), len(data))
        assert b"".join(store.read_object_pieces(blob)) == data
        pack = store.write_pack("job-1", [data[:1000]])
        assert store.read_item(pack, 0, 1000) == data[:1000]
        return blob, data

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(work, range(6)))
    assert len(names()) == 12
    figures = store.figures()
    assert figures.sending_bytes == figures.reading_bytes == 0
    assert figures.objects == 6
    assert figures.object_bytes == sum(len(data) for _, data in done)


def check_dropped_job(
    make_store: MakeStore, s3: Any, bucket: str, names: Names, unfinished: Names
) -> None:
    mine, other = make_store(), make_store()
    for store in (mine, other):
        for number in range(3):
            store.write_pack("job-1", [b"a", b"b"])
            store.write_object("job-1", [b"c" * number], number)
        store.write_pack("job-10", [b"stays"])
        store.put_retained("job-1", 0, b"key", 1, [b"stays, too"], 10)
    prefix = f"a/prefix/jobs/job-1/{mine._writer}"
    s3.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/large-99999999")
    deleted = mine.drop_job("job-1")
    assert (deleted.objects, deleted.uploads) == (12, 1)
    assert unfinished() == []
    assert [name for name in names() if "/job-1/" in name and "/jobs/" in name] == []
    assert len(names()) == 4
    assert mine.figures().packs == 1
    assert mine.figures().objects == 0
    assert mine.drop_job("job-1").objects == 0


def check_job_dropped_while_written(
    store: S3Store, names: Names, unfinished: Names, size: int
) -> None:
    def dropping(data: bytes) -> Iterator[bytes]:
        yield data[:-1]
        store.drop_job("job-1")
        yield data[-1:]

    with pytest.raises(S3Error) as caught:
        store.write_object("job-1", dropping(bytes(size)), size)
    assert caught.value.kind == "missing"
    assert "dropped" in caught.value.text
    store.empty_trash()
    assert names() == []
    assert unfinished() == []
    assert store.figures().objects == 0
    assert store.write_object("job-1", [b"x"], 1).size == 1


def check_leftovers(
    make_store: MakeStore, s3: Any, bucket: str, names: Names, unfinished: Names
) -> None:
    crashed = make_store(server_id="ssd.1")
    gone = make_store(server_id="ssd-2")
    for store in (crashed, gone):
        store.write_pack("lives-1", [b"x"])
        store.write_pack("ended-1", [b"x"])
        store.put_retained("ended-1", 0, b"key", 1, [b"value"], 5)
    s3.create_multipart_upload(
        Bucket=bucket, Key=f"a/prefix/jobs/lives-1/{crashed._writer}/large-99999999"
    )
    s3.put_object(Bucket=bucket, Key="a/prefix/jobs/something/else", Body=b"not ours")
    store = make_store(server_id="ssd.1")
    kept = store.write_pack("lives-1", [b"y"])

    # Only earlier runs of the same server go at once: others may know jobs that this one does not.
    assert store.sweep({"lives-1"}).objects == 2
    assert unfinished() == []
    assert kept.name in names()
    assert sum(f"/{gone._writer}/" in name for name in names()) == 2
    assert store.sweep({"lives-1"}, age_min_s=-60).objects == 1
    assert store.sweep({"lives-1"}, {"ssd-2", "ssd.1"}, age_min_s=-60).objects == 0
    assert store.sweep({"lives-1"}, {"ssd.1"}, age_min_s=-60).objects == 1
    assert store.read_item(kept, 0, 1) == b"y"
    assert len(store.list_retained("ended-1")) == 1
    assert s3.get_object(Bucket=bucket, Key="a/prefix/jobs/something/else")["Body"].read()


def check_retained(make_store: MakeStore) -> None:
    writer, reader = make_store(server_id="a"), make_store(server_id="b")
    large = some_bytes(2 * PART + 3)
    binary = bytes(range(256))
    writer.put_retained("job-1", 3, binary, 1, in_pieces(large, MIB), len(large), due_ms=77)
    writer.put_retained_many(
        "job-1",
        [Retained(0, b"k%d" % number, 3, b"v" * number) for number in range(50)],
    )
    writer.put_retained("job-1", 0, b"k7", 1, [b"newer"], 5)
    writer.put_retained("job-2", 0, b"", 1, [], 0)

    keys = {(key.db, key.key): key for key in reader.list_retained("job-1")}
    assert len(keys) == 51
    found = keys[3, binary]
    assert (found.kind, found.due_ms, found.size) == (1, 77, len(large))
    assert b"".join(reader.get_retained_pieces(found)) == large
    assert reader.get_retained(found, PART - 5, PART + 5) == large[PART - 5 : PART + 5]
    assert reader.get_retained(keys[0, b"k7"]) == b"newer"
    assert reader.get_retained(keys[0, b"k0"]) == b""
    assert reader.get_retained(keys[0, b"k49"]) == b"v" * 49
    assert keys[0, b"k49"].kind == 3
    assert sorted(reader.retained_jobs()) == ["job-1", "job-2"]

    assert reader.purge("job-1").objects > 0
    assert reader.list_retained("job-1") == []
    assert reader.retained_jobs() == ["job-2"]
    assert [(key.key, key.size) for key in writer.list_retained("job-2")] == [(b"", 0)]


def check_damage(store: S3Store, s3: Any, bucket: str) -> None:
    pack = store.write_pack("job-1", [b"first", b"second", b"third"])
    data = bytearray(s3.get_object(Bucket=bucket, Key=pack.name)["Body"].read())
    data[7] ^= 1
    s3.put_object(Bucket=bucket, Key=pack.name, Body=bytes(data))
    first, second, third = pack.items()
    with pytest.raises(S3Error) as caught:
        store.read_item(pack, second.offset, second.size)
    assert caught.value.kind == "corrupt"
    assert store.read_item(pack, first.offset, first.size) == b"first"
    assert store.read_item(pack, third.offset, third.size) == b"third"
    s3.put_object(Bucket=bucket, Key=pack.name, Body=bytes(data[:-2]))
    with pytest.raises(S3Error) as caught:
        store.read_item(pack, third.offset, third.size)
    assert caught.value.kind == "corrupt"
    s3.delete_object(Bucket=bucket, Key=pack.name)
    with pytest.raises(S3Error) as caught:
        store.read_item(pack, first.offset, first.size)
    assert caught.value.kind == "missing"
    assert store.available
