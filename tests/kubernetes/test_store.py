"""The leader's memory in the API: batches, parts, terms, and writes whose answers are lost."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest

from pocketkv.controller.backends.kubernetes import store as stores
from pocketkv.controller.backends.kubernetes.store import (
    TERM_BITS,
    KubernetesStore,
    ReplacedError,
    Tables,
)
from pocketkv.controller.messages import Persist
from pocketkv.controller.store import StoreError
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE, RELEASE, api_of

HEAD = "pk-state"


def store_of(server: ApiServer) -> KubernetesStore:
    return KubernetesStore(api_of(server), RELEASE, {"app.kubernetes.io/instance": RELEASE})


def batch(epoch: int, job: str = "", size: int = 10, **fields: Any) -> Persist:
    record = {"text": random.Random(epoch).randbytes(size).hex()}
    jobs = {job: record} if job else {}
    return Persist(epoch=epoch, jobs=jobs, placements=jobs, **fields)


def read(server: ApiServer) -> Any:
    return store_of(server).read()


def test_an_empty_one_begins_a_term(server: ApiServer) -> None:
    snapshot = store_of(server).read()
    assert (snapshot.epoch, snapshot.jobs) == (1 << TERM_BITS, {})
    assert read(server).epoch == 2 << TERM_BITS


def test_what_was_written_is_read(server: ApiServer) -> None:
    store = store_of(server)
    first = store.read().epoch
    servers = {"a": {"port": 1}, "b": {"port": 2}}
    store.write(batch(first + 1, "j1", servers=servers, facts={"wanted": {"dram": 2}}))
    store.write(batch(first + 2, "j2", removed_servers=("a",)))
    store.write(batch(first + 3, removed_jobs=("j1",)))
    snapshot = read(server)
    assert set(snapshot.jobs) == set(snapshot.placements) == {"j2"}
    assert snapshot.servers == {"b": {"port": 2}}
    assert snapshot.facts == {"wanted": {"dram": 2}}
    assert snapshot.epoch == 2 << TERM_BITS


def test_a_batch_is_one_write(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    before = len(server.requests)
    store.write(batch(epoch + 1, "j1"))
    assert [r.split("?")[0] for r in server.requests[before:]] == [
        f"PATCH /api/v1/namespaces/{NAMESPACE}/configmaps/{HEAD}"
    ]


def test_an_older_epoch_is_refused(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    store.write(batch(epoch + 5))
    with pytest.raises(ValueError, match="comes after"):
        store.write(batch(epoch + 4))


def test_a_head_that_is_full_goes_to_parts_and_those_are_put_together(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "HEAD_BYTES_MAX", 2_000)
    monkeypatch.setattr(stores, "PART_BYTES_MAX", 1_000)
    monkeypatch.setattr(stores, "COMPACT_BYTES_MIN", 3_000)
    store = store_of(server)
    epoch = store.read().epoch
    for i in range(120):
        ended = (f"j{i - 40}",) if i >= 40 else ()
        store.write(batch(epoch + i, f"j{i}", 100 + i, removed_jobs=ended))
    names = {one["metadata"]["name"] for one in server.objects.all(NAMESPACE, "configmaps")}
    snapshot = read(server)
    written = {f"j{i}": batch(epoch + i, "x", 100 + i).jobs["x"] for i in range(80, 120)}
    assert snapshot.jobs == written
    head = json.loads(server.objects.get(NAMESPACE, "configmaps", HEAD)["data"]["head"])
    named = {part for group in head["groups"] for part in group["parts"]}
    assert names == named | {HEAD}
    assert 1 < len(named) < 40


def test_parts_that_nobody_names_are_removed(server: ApiServer) -> None:
    store_of(server).read()
    labels = {"pocketkv.io/state-of": RELEASE}
    orphan = {"metadata": {"name": "pk-state-1-7-0", "labels": labels}}
    server.objects.create(NAMESPACE, "configmaps", orphan)
    read(server)
    assert server.objects.find(NAMESPACE, "configmaps", "pk-state-1-7-0") is None


def test_who_was_replaced_writes_nothing(server: ApiServer) -> None:
    old = store_of(server)
    epoch = old.read().epoch
    old.write(batch(epoch + 1, "j1"))
    new = store_of(server)
    newer = new.read().epoch
    assert newer > epoch + 1
    with pytest.raises(ReplacedError, match="another controller leads"):
        old.write(batch(epoch + 2, "of-the-old-one"))
    new.write(batch(newer + 1, "j2"))
    assert set(read(server).jobs) == {"j1", "j2"}


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_write_whose_answer_is_lost_is_made_once(
    server: ApiServer, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "PUT":
        monkeypatch.setattr(stores, "HEAD_BYTES_MAX", 0)
    store = store_of(server)
    epoch = store.read().epoch
    with server.fault(f"{method} .*{HEAD}", after=True, times=1) as fault:
        store.write(batch(epoch + 1, "j1"))
    assert fault.met == 1
    store.write(batch(epoch + 2, "j2"))
    assert set(read(server).jobs) == {"j1", "j2"}


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_write_that_fails_is_tried_again(server: ApiServer, status: int) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    headers = {"Retry-After": "0"} if status == 429 else {}
    with server.fault(f"PATCH .*{HEAD}", status=status, headers=headers, times=2) as fault:
        store.write(batch(epoch + 1, "j1"))
    assert fault.met == 2
    assert set(read(server).jobs) == {"j1"}


def test_a_head_that_somebody_else_touched_is_written(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    server.objects.patch(NAMESPACE, "configmaps", HEAD, {"metadata": {"labels": {"x": "y"}}})
    store.write(batch(epoch + 1, "j1"))
    assert set(read(server).jobs) == {"j1"}


def test_a_refusal_that_will_not_pass_is_told(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    with server.fault("PATCH", status=403), pytest.raises(StoreError, match="403"):
        store.write(batch(epoch + 1, "j1"))


def test_a_head_that_was_removed_is_not_made_again(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    server.objects.delete(NAMESPACE, "configmaps", HEAD)
    with pytest.raises(ReplacedError, match="removed"):
        store.write(batch(epoch + 1, "j1"))


def test_closing_ends_a_write_that_is_tried_again_and_again(server: ApiServer) -> None:
    store = store_of(server)
    epoch = store.read().epoch
    errors: list[Exception] = []

    def write() -> None:
        try:
            store.write(batch(epoch + 1, "j1"))
        except StoreError as error:
            errors.append(error)

    with server.outage():
        thread = threading.Thread(target=write)
        thread.start()
        store.close()
        thread.join(20)
    assert not thread.is_alive()
    assert len(errors) == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        {"data": {"head": "{"}},
        {"data": {"head": "{}"}},
        {"data": {"head": None}},
        {"data": {"head": json.dumps({"version": 9, "term": 1, "sequence": 0, "groups": []})}},
        {"binaryData": {"00000001-000000000001": "AAAA"}},
    ],
)
def test_a_damaged_one_is_refused(server: ApiServer, spoilt: Any) -> None:
    store_of(server).read()
    server.objects.patch(NAMESPACE, "configmaps", HEAD, spoilt)
    with pytest.raises(StoreError, match=r"damaged|another version"):
        read(server)


def test_a_part_that_is_missing_is_damage(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "HEAD_BYTES_MAX", 0)
    store = store_of(server)
    store.write(batch(store.read().epoch + 1, "j1"))
    for one in server.objects.all(NAMESPACE, "configmaps"):
        if one["metadata"]["name"] != HEAD:
            server.objects.delete(NAMESPACE, "configmaps", one["metadata"]["name"])
    with pytest.raises(StoreError, match="is not there"):
        read(server)


def test_it_goes_with_what_owns_it(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "HEAD_BYTES_MAX", 300)
    name = f"{RELEASE}-release"
    one = server.objects.create(NAMESPACE, "configmaps", {"metadata": {"name": name}})
    owner = {"kind": "ConfigMap", "name": name, "uid": one["metadata"]["uid"]}
    # One that an earlier version has made belongs to nobody yet.
    read(server)
    store = KubernetesStore(api_of(server), RELEASE, {}, [owner])
    epoch = store.read().epoch
    for number in range(8):
        store.write(batch(epoch + number, f"j{number}", 100))
    assert len(server.objects.all(NAMESPACE, "configmaps")) > 2
    server.objects.delete(NAMESPACE, "configmaps", name)
    assert server.objects.all(NAMESPACE, "configmaps") == []


def test_batches_put_together_do_what_they_did_one_by_one() -> None:
    one_by_one, together = Tables(), Tables()
    batches = [
        Persist(epoch=1, jobs={"j": {"n": 1}}, servers={"a": {}, "b": {}}),
        Persist(epoch=2, removed_servers=("a",), facts={"wanted": 1}),
        Persist(epoch=3, servers={"a": {"new": True}}, removed_jobs=("j",)),
        Persist(epoch=4, removed_servers=("b",), events={"7": {"kind": "x"}}),
    ]
    merged = batches[0]
    for later in batches[1:]:
        merged = merged.followed_by(later)
    for some in batches:
        one_by_one.apply(vars(some))
    together.apply(vars(Persist(epoch=0, jobs={"j": {"n": 0}}, servers={"b": {}})))
    together.apply(vars(merged))
    assert together.snapshot(0) == one_by_one.snapshot(0)
