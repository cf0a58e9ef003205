"""A store on moto: what it writes, reads, counts and deletes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pocketkv.tiers.s3 import cleaning, trash
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import BLOCK_BYTES
from pocketkv.tiers.s3.retained import Retained
from pocketkv.tiers.s3.store import S3Store
from tests.tiers.s3 import behaviour
from tests.tiers.s3.behaviour import MIB, PART, MakeStore, Names, in_pieces, some_bytes


def test_finds_all_well(store: S3Store, names: Names) -> None:
    behaviour.check_finds_all_well(store, names)


def test_packs(store: S3Store, names: Names) -> None:
    behaviour.check_packs(store, names)


def test_packs_go_when_nobody_needs_them(store: S3Store, names: Names) -> None:
    behaviour.check_released_packs_go(store, names)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, PART, PART + 1, 2 * PART, 11 * MIB + 1])
def test_objects(store: S3Store, names: Names, size: int) -> None:
    behaviour.check_objects(store, names, size)


def test_an_object_from_a_reader(store: S3Store) -> None:
    behaviour.check_object_from_a_reader(store)


def test_many_threads(store: S3Store, names: Names) -> None:
    behaviour.check_many_threads(store, names)


def test_a_dropped_job_leaves_nothing(
    make_store: MakeStore, s3: Any, bucket: str, names: Names, unfinished: Names
) -> None:
    behaviour.check_dropped_job(make_store, s3, bucket, names, unfinished)


def test_leftovers_are_swept(
    make_store: MakeStore, s3: Any, bucket: str, names: Names, unfinished: Names
) -> None:
    behaviour.check_leftovers(make_store, s3, bucket, names, unfinished)


def test_retained_keys_are_read_by_another_server(make_store: MakeStore) -> None:
    behaviour.check_retained(make_store)


def test_damage_is_an_error_of_the_value_only(store: S3Store, s3: Any, bucket: str) -> None:
    behaviour.check_damage(store, s3, bucket)


def test_wrong_places_and_second_releases_are_refused(store: S3Store) -> None:
    pack = store.write_pack("job-1", [b"abc", b"def"])
    for offset, size in ((1, 3), (0, 2), (6, 0), (3, 4)):
        with pytest.raises(ValueError, match="item"):
            store.read_item(pack, offset, size)
    with pytest.raises(S3Error) as caught:
        store.read_item(pack, 0, 3, checksum=1)
    assert caught.value.kind == "corrupt"
    store.release(pack, 3)
    with pytest.raises(ValueError, match="before"):
        store.release(pack, 3)
    with pytest.raises(ValueError, match="begins"):
        store.release(pack, 2)
    with pytest.raises(ValueError, match="pack"):
        store.write_pack("job-1", [])


def test_counts_what_packs_hold(store: S3Store) -> None:
    pack = store.write_pack("job-1", [b"x" * 100, b"y" * 50])
    store.release(pack, 0)
    figures = store.figures()
    assert (figures.packs, figures.pack_bytes) == (1, 150)
    assert (figures.pack_live_items, figures.pack_live_bytes) == (1, 50)
    store.drop_job("job-1")
    figures = store.figures()
    assert (figures.packs, figures.pack_bytes) == (0, 0)
    assert (figures.pack_live_items, figures.pack_live_bytes) == (0, 0)
    # A job may be dropped while the engine still lets go of its values.
    store.release(pack, 100)
    assert store.figures().pack_live_items == 0


def test_counts_requests_bytes_and_errors(store: S3Store, s3: Any, bucket: str) -> None:
    pack = store.write_pack("job-1", [b"x" * 100])
    store.read_item(pack, 0, 100)
    s3.delete_object(Bucket=bucket, Key=pack.name)
    with pytest.raises(S3Error):
        store.read_item(pack, 0, 100)
    counts = store.figures().counts
    assert counts.requests == {"PutObject": 1, "GetObject": 2}
    assert set(counts.seconds) == {"PutObject", "GetObject"}
    assert counts.errors == {"missing": 1}
    assert (counts.sent_bytes, counts.received_bytes) == (100, 100)


@pytest.mark.parametrize("size", [1000, 3 * PART])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_source_of_another_size_leaves_nothing(
    store: S3Store, names: Names, unfinished: Names, size: int, wrong: int
) -> None:
    data = some_bytes(size + wrong)
    with pytest.raises(ValueError, match="has"):
        store.write_object("job-1", in_pieces(data, 100_000), size)
    assert names() == []
    assert unfinished() == []
    assert store.figures().objects == 0
    assert store.figures().sending_bytes == 0


def test_a_source_that_fails_leaves_nothing(
    store: S3Store, names: Names, unfinished: Names
) -> None:
    def reader(offset: int, size: int) -> bytes:
        if offset > 2 * PART:
            raise OSError("the disk is gone")
        return bytes(size)

    with pytest.raises(OSError, match="the disk is gone"):
        store.write_object("job-1", reader, 4 * PART)
    assert names() == []
    assert unfinished() == []
    assert store.figures().sending_bytes == 0


def test_bytes_under_way_are_bounded(make_store: MakeStore) -> None:
    store = make_store(in_flight_bytes_max=10 * MIB)
    data = some_bytes(8 * PART)
    blob = store.write_object("job-1", in_pieces(data, MIB), len(data))
    assert b"".join(store.read_object_pieces(blob)) == data
    for budget in (store._transfers.sending, store._transfers.reading, store._transfers.ahead):
        assert 0 < budget.most_bytes <= 10 * MIB
        assert budget.taken_bytes == 0


def test_a_reader_that_stops_early_gives_everything_back(store: S3Store) -> None:
    data = some_bytes(4 * PART)
    blob = store.write_object("job-1", in_pieces(data, MIB), len(data))
    pieces: Any = store.read_object_pieces(blob)
    assert next(pieces) == data[:PART]
    pieces.close()
    assert store.figures().reading_bytes == 0


def test_a_job_that_is_dropped_while_it_is_written(
    store: S3Store, names: Names, unfinished: Names
) -> None:
    # In one piece: moto answers a part of an object that was given up with an error of its own.
    behaviour.check_job_dropped_while_written(store, names, unfinished, 10)


def test_a_job_that_moved_away_keeps_what_others_wrote(make_store: MakeStore, names: Names) -> None:
    mine, other = make_store(), make_store()
    mine.write_pack("job-1", [b"mine"])
    kept = other.write_pack("job-1", [b"other"])
    assert mine.drop_job("job-1", everywhere=False).objects == 1
    assert names() == [kept.name]


def test_more_objects_than_one_request_deletes(
    store: S3Store, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    # S3's own thousand is for a server that is faster.
    monkeypatch.setattr(cleaning, "DELETED_AT_ONCE_MAX", 10)
    monkeypatch.setattr(trash, "DELETED_AT_ONCE_MAX", 10)
    packs = [store.write_pack("job-1", [b"x"]) for _ in range(50)]
    for pack in packs[:25]:
        store.release(pack, 0)
    assert store.empty_trash() == 25
    assert store.drop_job("job-1").objects == 25
    assert names() == []
    assert store.figures().counts.requests["DeleteObjects"] == 6


def test_ids_of_any_letters(store: S3Store, names: Names) -> None:
    for job_id in ("../x", "a/b", "ünï", "a.b c", "%41!"):
        store.write_pack(job_id, [b"x"])
        store.put_retained(job_id, 0, b"k", 1, [b"v"], 1)
        assert len(store.list_retained(job_id)) == 1
    assert all(name.isascii() and ".." not in name for name in names())
    assert set(store.retained_jobs()) == {"../x", "a/b", "ünï", "a.b c", "%41!"}
    for job_id in store.retained_jobs():
        assert store.drop_job(job_id).objects == 1
        store.purge(job_id)
    assert names() == []


def test_a_bucket_without_prefix(make_store: MakeStore, bucket: str, names: Names) -> None:
    store = make_store(url=f"s3://{bucket}")
    pack = store.write_pack("job-1", [b"x"])
    assert pack.name.startswith("jobs/job-1/")
    assert store.drop_job("job-1").objects == 1
    assert names() == []


def test_retained_keys_of_a_long_manifest(store: S3Store) -> None:
    entries = [Retained(0, b"%0200d" % number, 1, b"v%d" % number) for number in range(1000)]
    store.put_retained_many("job-1", entries)
    keys = store.list_retained("job-1")
    assert [key.key for key in keys] == [entry.key for entry in entries]
    assert store.get_retained(keys[999]) == b"v999"


def test_a_damaged_manifest_hides_only_its_own_keys(
    store: S3Store, s3: Any, bucket: str, names: Names
) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        store.put_retained("job-1", 0, key, 1, [b"value"], 5)
    damages: list[Callable[[bytes], bytes]] = [
        lambda data: data[:-30] + b"!" + data[-29:],
        lambda data: data[:-1],
        lambda data: b"short",
    ]
    for name, damage in zip(sorted(names()), damages, strict=False):
        data = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
        s3.put_object(Bucket=bucket, Key=name, Body=damage(data))
    with pytest.raises(S3Error) as caught:
        store.list_retained("job-1")
    assert caught.value.kind == "corrupt"
    damaged: list[S3Error] = []
    assert [key.key for key in store.list_retained("job-1", damaged)] == [b"d"]
    assert len(damaged) == 3
    assert store.purge("job-1").objects == 4


def test_a_damaged_retained_value_is_an_error(store: S3Store, s3: Any, bucket: str) -> None:
    key = store.put_retained("job-1", 0, b"k", 1, [b"value"], 5)
    data = s3.get_object(Bucket=bucket, Key=key.blob.name)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key.blob.name, Body=b"w" + data[1:])
    found = store.list_retained("job-1")[0]
    with pytest.raises(S3Error) as caught:
        store.get_retained(found)
    assert caught.value.kind == "corrupt"
    assert store.figures().counts.errors == {"corrupt": 1}
