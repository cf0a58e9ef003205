"""The same clusters on a real S3 server, which checks signatures, and keeps objects on a disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketkv import client
from tests.e2e.local import eventually, serving
from tests.e2e.s3 import test_retained_in_s3 as retaining
from tests.e2e.s3 import test_serve_spills as spilling
from tests.tiers.s3.test_seaweedfs import seaweedfs  # noqa: F401 - it is a fixture here

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Names = Callable[[], list[str]]


@pytest.fixture
def endpoint(seaweedfs: str) -> str:  # noqa: F811
    return seaweedfs


def test_retained_keys(tmp_path: Path, bucket: str, endpoint: str, names: Names) -> None:
    options = ("--dram", "2", "--nvme", "0", "--retain", f"s3://{bucket}/kept")
    with serving(tmp_path, *options, environment={"AWS_ENDPOINT_URL": endpoint}) as cluster:
        job = retaining.retain_some(f"redis://127.0.0.1:{cluster.port}")
        job.deregister()
        eventually(lambda: retaining.is_moved(job), 60)
        retaining.check_all_is_there(job)
        reader = job.info()["retention"]["server"]
        (pid,) = [server["pid"] for server in cluster.servers() if server["id"] == reader]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: job.info()["retention"]["server"] not in {reader, None})
        retaining.check_all_is_there(job)
        client.purge_job(job)
        eventually(lambda: names() == [], 60)


def test_spill(tmp_path: Path, bucket: str, endpoint: str, names: Names) -> None:
    spilling.test_s3(tmp_path, bucket, endpoint, names)


def test_sparse_packs(tmp_path: Path, bucket: str, endpoint: str, names: Names) -> None:
    spilling.test_sparse_packs_are_written_anew(tmp_path, bucket, endpoint, names)
