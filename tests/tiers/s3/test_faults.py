"""What goes wrong between a store and S3: outages, resets, stalls, damage, refusals."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.opening import open_store
from pocketkv.tiers.s3.options import S3Options
from pocketkv.tiers.s3.store import S3Store
from tests.tiers.s3.behaviour import MIB, PART, MakeStore, Names, in_pieces, some_bytes
from tests.tiers.s3.faulty import Fault, FaultyProxy

WAIT_TIMEOUT_S = 8.0


def eventually(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"it is not so after {WAIT_TIMEOUT_S} s"
        select.select([], [], [], 0.01)


@pytest.fixture
def far(make_store: MakeStore, proxy: FaultyProxy) -> Iterator[S3Store]:
    """A store behind a proxy that can do wrong."""
    store = make_store(endpoint_url=proxy.url, read_timeout_s=1.0)
    yield store
    # Before the store is closed, which waits for what it has asked.
    proxy.heal()


def is_get(request: str) -> bool:
    return request.startswith("GET")


# --- what passes by itself -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["reset", "slow down", "stall", "lost answer"])
def test_a_request_is_repeated(far: S3Store, proxy: FaultyProxy, fault: Fault) -> None:
    proxy.fail(fault, times=1)
    pack = far.write_pack("job-1", [b"value"])
    assert far.read_item(pack, 0, 5) == b"value"
    assert proxy.faults_left == 0
    assert far.figures().counts.retries == 1
    assert far.figures().counts.errors == {}
    assert far.available


@pytest.mark.parametrize("fault", ["reset", "slow down", "truncate"])
def test_a_read_is_repeated(far: S3Store, proxy: FaultyProxy, fault: Fault) -> None:
    data = some_bytes(100_000)
    pack = far.write_pack("job-1", [data])
    proxy.fail(fault, times=1, applies=is_get)
    assert far.read_item(pack, 0, len(data)) == data
    assert proxy.faults_left == 0
    assert far.figures().counts.retries == 1


def test_a_byte_that_changes_on_the_way_is_read_again(far: S3Store, proxy: FaultyProxy) -> None:
    pack = far.write_pack("job-1", [b"value"])
    blob = far.write_object("job-1", [b"large"], 5)
    reads: list[Callable[[], bytes]] = [
        lambda: far.read_item(pack, 0, 5),
        lambda: far.read_object(blob),
    ]
    for read in reads:
        proxy.fail("corrupt", times=1, applies=is_get)
        assert read() in {b"value", b"large"}
        assert proxy.faults_left == 0
        proxy.fail("corrupt", times=2, applies=is_get)
        with pytest.raises(S3Error) as caught:
            read()
        assert caught.value.kind == "corrupt"
    proxy.fail("corrupt", times=1, applies=is_get)
    assert [value for _, value in far.read_live(pack)] == [b"value"]
    assert proxy.faults_left == 0
    assert far.figures().counts.errors == {"corrupt": 2}
    assert far.available


def test_a_lost_answer_to_the_end_of_an_object_in_parts(
    far: S3Store, proxy: FaultyProxy, names: Names, unfinished: Names
) -> None:
    data = some_bytes(2 * PART)
    proxy.fail("lost answer", times=1, applies=lambda request: "POST" in request and "=" in request)
    blob = far.write_object("job-1", in_pieces(data, MIB), len(data))
    assert proxy.faults_left == 0
    assert far.read_object(blob) == data
    assert names() == [blob.name]
    assert unfinished() == []


# --- outages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["reset", "slow down", "stall"])
def test_an_outage_is_refused_and_ends_by_itself(
    make_store: MakeStore, proxy: FaultyProxy, names: Names, fault: Fault
) -> None:
    store = make_store(endpoint_url=proxy.url, attempts_max=1, read_timeout_s=0.5)
    pack = store.write_pack("job-1", [b"value"])
    proxy.fail(fault)
    for _ in range(2):
        with pytest.raises(S3Error) as caught:
            store.write_pack("job-1", [b"other"])
        assert caught.value.kind == "unavailable"
    assert not store.available
    assert "PutObject" in store.reason
    asked = len([request for request in proxy.requests if request.startswith("PUT")])
    began_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(S3Error) as caught:
            store.read_item(pack, 0, 5)
        assert caught.value.kind == "unavailable"
        assert store.reason in caught.value.text
    assert time.monotonic() - began_s < 0.5
    assert len([request for request in proxy.requests if request.startswith("PUT")]) == asked
    assert store.figures().outages == 1

    proxy.heal()
    eventually(lambda: store.available)
    assert store.reason == ""
    assert store.read_item(pack, 0, 5) == b"value"
    # Those whose fate was not known are not left behind.
    store.empty_trash()
    assert names() == [pack.name]


def test_an_outage_comes_again(make_store: MakeStore, proxy: FaultyProxy) -> None:
    store = make_store(endpoint_url=proxy.url, attempts_max=1)
    for _ in range(3):
        proxy.fail("slow down")
        while store.available:
            with pytest.raises(S3Error):
                store.write_pack("job-1", [b"x"])
        proxy.heal()
        eventually(lambda: store.available)
        store.write_pack("job-1", [b"x"])
    assert store.figures().outages == 3


def test_an_outage_in_the_middle_of_a_large_value(
    make_store: MakeStore, proxy: FaultyProxy, names: Names, unfinished: Names
) -> None:
    store = make_store(endpoint_url=proxy.url, attempts_max=1)
    data = some_bytes(6 * PART)
    proxy.fail(
        "reset", applies=lambda request: "partNumber=" not in request or "=1&" not in request
    )

    def pieces() -> Iterator[bytes]:
        proxy.heal()
        yield data[: 2 * PART]
        proxy.fail("reset")
        yield data[2 * PART :]

    with pytest.raises(S3Error) as caught:
        store.write_object("job-1", pieces(), len(data))
    assert caught.value.kind == "unavailable"
    assert store.figures().sending_bytes == 0
    assert store.figures().objects == 0
    proxy.heal()
    eventually(lambda: store.available)
    store.empty_trash()
    assert names() == []
    assert unfinished() == []
    assert store.figures().trash == 0
    blob = store.write_object("job-1", in_pieces(data, MIB), len(data))
    assert b"".join(store.read_object_pieces(blob)) == data


def test_an_outage_in_the_middle_of_reading(make_store: MakeStore, proxy: FaultyProxy) -> None:
    store = make_store(endpoint_url=proxy.url, attempts_max=1, transfers_max=1)
    data = some_bytes(4 * PART)
    blob = store.write_object("job-1", in_pieces(data, MIB), len(data))
    pieces = store.read_object_pieces(blob)
    assert next(pieces) == data[:PART]
    proxy.fail("truncate")
    with pytest.raises(S3Error) as caught:
        list(pieces)
    assert caught.value.kind == "unavailable"
    assert store.figures().reading_bytes == 0


def test_what_cannot_be_deleted_stays_in_the_trash(
    far: S3Store, proxy: FaultyProxy, names: Names
) -> None:
    packs = [far.write_pack("job-1", [b"x"]) for _ in range(3)]
    for pack in packs:
        far.release(pack, 0)
    proxy.fail("slow down", times=2)
    with pytest.raises(S3Error):
        far.empty_trash()
    assert far.figures().trash == 3
    assert len(names()) == 3
    assert far.empty_trash() == 3
    assert names() == []


def test_a_dropped_job_in_an_outage_is_dropped_again(
    far: S3Store, proxy: FaultyProxy, names: Names
) -> None:
    far.write_pack("job-1", [b"x"])
    proxy.fail("slow down", times=2)
    with pytest.raises(S3Error):
        far.drop_job("job-1")
    assert far.drop_job("job-1").objects == 1
    assert names() == []


def test_a_closed_store_leaves_no_thread_in_an_outage(
    make_store: MakeStore, proxy: FaultyProxy
) -> None:
    store = make_store(endpoint_url=proxy.url, attempts_max=1, failures_max=1)
    proxy.fail("slow down")
    with pytest.raises(S3Error):
        store.write_pack("job-1", [b"x"])
    prober = store._client.breaker._prober
    assert prober is not None
    store.close()
    assert not prober.is_alive()


# --- what the operator must mend -----------------------------------------------------------------


def refused_check(store: S3Store, kind: str) -> str:
    with pytest.raises(S3Error) as caught:
        store.check()
    assert caught.value.kind == kind
    assert "\n" not in caught.value.text
    assert store.url in caught.value.text
    return caught.value.text


def test_a_missing_bucket(make_store: MakeStore) -> None:
    text = refused_check(make_store(url="s3://there-is-none/x"), "missing")
    assert "NoSuchBucket" in text


def test_no_credentials(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = make_store()
    assert "credentials" in refused_check(store, "denied")
    assert store.available


def test_nobody_listens(make_store: MakeStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        text = refused_check(make_store(endpoint_url=address, attempts_max=1), "unavailable")
    assert address in text


def test_nobody_answers(make_store: MakeStore) -> None:
    """Whoever starts a server is told soon: calls are repeated more often than this check."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = make_store(endpoint_url=address, attempts_max=6, read_timeout_s=0.2)
        assert address in refused_check(store, "unavailable")
        silent.setblocking(False)
        for _ in range(2):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_an_endpoint_that_is_no_address(make_store: MakeStore) -> None:
    with pytest.raises(S3Error) as caught:
        make_store(endpoint_url="not an address")
    assert caught.value.kind == "denied"
    assert "not an address" in caught.value.text


def test_an_unknown_profile(make_store: MakeStore) -> None:
    with pytest.raises(S3Error) as caught:
        make_store(profile="there-is-none")
    assert caught.value.kind == "denied"
    assert "there-is-none" in caught.value.text


@pytest.mark.parametrize(
    "url", ["", "bucket/x", "http://bucket/x", "s3://", "s3://a b/x", "s3:///x", "s3://bucket/../x"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(S3Error) as caught:
        open_store(url, options=S3Options())
    assert caught.value.kind == "denied"


def test_an_endpoint_from_the_environment(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with open_store(f"s3://{bucket}/x", server_id="ssd-1") as store:
        store.check()


# --- credentials by the usual ways ---------------------------------------------------------------


def test_credentials_of_a_service_account(
    make_store: MakeStore, endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Kubernetes gives them to a pod: a token in a file, which STS takes for a role's keys."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    token = tmp_path / "token"
    token.write_text("a-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pocketkv")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
    store = make_store()
    store.check()
    signer: Any = store._client._s3._request_signer  # type: ignore[attr-defined]
    assert signer._credentials.method == "assume-role-with-web-identity"


def test_credentials_and_endpoint_of_a_profile(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    settings = tmp_path / "config"
    settings.write_text(
        "[profile mine]\nregion = eu-west-1\naws_access_key_id = AKIDMINE\n"
        f"aws_secret_access_key = mine\nendpoint_url = {endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    with open_store(f"s3://{bucket}/x", options=S3Options(profile="mine")) as store:
        store.check()
        assert store._client._s3.meta.region_name == "eu-west-1"
        assert store._client.endpoint == endpoint
