"""S3 for tests: moto's server in this process, a bucket for each test, stores that get closed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from pocketkv.tiers.s3.options import S3Options
from pocketkv.tiers.s3.store import S3Store
from tests.tiers.s3.faulty import FaultyProxy

KEY_ID = "AKIDEXAMPLE"
SECRET_KEY = "example-of-a-secret"
REGION = "us-east-1"

# Short enough for tests of outages; stores on loopback answer within milliseconds.
OPTIONS = S3Options(
    part_bytes=5 * 1024 * 1024,
    transfers_max=4,
    in_flight_bytes_max=20 * 1024 * 1024,
    connect_timeout_s=1.0,
    read_timeout_s=5.0,
    attempts_max=2,
    failures_max=2,
    probe_wait_s=0.05,
    probe_wait_max_s=0.2,
)

MakeStore = Callable[..., S3Store]

_buckets = itertools.count(1)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What AWS's tools find on this machine is not for tests."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    with warnings.catch_warnings():
        # What moto imports warns of what it does itself.
        warnings.simplefilter("ignore")
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second

        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def endpoint(moto_endpoint: str) -> str:
    """Where S3 is; modules replace it by another."""
    return moto_endpoint


@pytest.fixture
def s3(endpoint: str, credentials: None) -> Iterator[Any]:
    """A client of the tests' own, that sees what is really there."""
    client = boto3.client("s3", endpoint_url=endpoint)
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"bucket-{next(_buckets)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def make_store(endpoint: str, bucket: str) -> Iterator[MakeStore]:
    """Makes stores; keywords are those of `S3Options`, `url` and `server_id`."""
    stores: list[S3Store] = []

    def make(
        url: str = f"s3://{bucket}/a/prefix", server_id: str | None = None, **changes: Any
    ) -> S3Store:
        options = replace(OPTIONS, **{"endpoint_url": endpoint, **changes})
        stores.append(S3Store(url, server_id=server_id, options=options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> S3Store:
    return make_store()


@pytest.fixture
def proxy(endpoint: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(endpoint)
    yield proxy
    proxy.close()


@pytest.fixture
def names(s3: Any, bucket: str) -> Callable[[], list[str]]:
    """Lists all objects of the bucket."""

    def list_names() -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    return list_names


@pytest.fixture
def unfinished(s3: Any, bucket: str) -> Callable[[], list[str]]:
    """Lists what is being sent in parts."""

    def list_names() -> list[str]:
        page = s3.list_multipart_uploads(Bucket=bucket)
        return [item["Key"] for item in page.get("Uploads", ())]

    return list_names
