"""The image, as far as that can be tried without a container engine.

What the Dockerfile's first stage runs is run here, on the very files that it copies; what comes
out is run like the image: by an unprivileged user, without capabilities, on a file system that it
cannot write to.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocketkv import __version__
from tests.kubernetes import charts

ROOT = charts.ROOT
DOCKERFILE = ROOT / "dockerfiles" / "Dockerfile"
USER = "65532"
SIZE_BYTES_MAX = 150 * 10**6
BUILD_TIMEOUT_S = 1500
START_TIMEOUT_S = 60.0
# The shell in between is the first that may no more than the user: setpriv itself can still start
# what the user could not.
AS_USER = (
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all", "sh", "-c", 'exec "$0" "$@"'),
)
CAN_BUILD = """
import os, pip, sys, sysconfig, venv
has_headers = os.path.exists(sysconfig.get_path("include") + "/Python.h")
sys.exit(sys.version_info < (3, 11) or not has_headers)
"""
# What is left out of packages must not be missed.
USES_ITS_PACKAGES = """
import boto3, kubernetes, pocketkv, textual
from kubernetes import client, config, watch
client.AppsV1Api(), client.CoordinationV1Api(), client.CustomObjectsApi()
keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
s3 = boto3.client("s3", **keys)
assert "bucket" in s3.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
boto3.client("sts", **keys)
print(pocketkv.__version__)
"""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def arguments_of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def copied() -> list[Path]:
    """What the first stage copies from the checkout."""
    sources = []
    for rest in arguments_of("COPY"):
        if not rest.startswith("--from"):
            sources += [Path(name) for name in rest.split()[:-1]]
    return sources


# --- the file ------------------------------------------------------------------------------------


def test_it_has_two_stages_and_an_entry_point() -> None:
    assert len(arguments_of("FROM")) == 2
    assert arguments_of("ENTRYPOINT") == ['["pocketkv"]']
    assert arguments_of("HEALTHCHECK")[0].startswith("--interval=")
    labels = arguments_of("LABEL")[0]
    for label in ("title", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert f"VERSION={__version__}" in arguments_of("ARG")


def test_its_user_is_the_charts() -> None:
    assert arguments_of("USER") == [f"{USER}:{USER}"]
    for spec in charts.pod_specs(charts.render({})).values():
        assert spec["securityContext"]["runAsUser"] == int(USER)
        assert spec["securityContext"]["runAsGroup"] == int(USER)


def test_its_ports_are_the_charts() -> None:
    exposed = set(map(int, arguments_of("EXPOSE")[0].split()))
    found = {
        port["containerPort"]
        for spec in charts.pod_specs(charts.render({})).values()
        for container in spec["containers"]
        for port in container.get("ports", [])
    }
    assert found == exposed


def test_what_it_copies_is_there_and_reaches_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert {path.as_posix() for path in copied()} == kept
    for path in copied():
        assert (ROOT / path).exists()


# --- what it builds ------------------------------------------------------------------------------


def python_of_everybody() -> str:
    """A Python that an unprivileged user may run, and that can build."""
    for name in (f"{sys.base_prefix}/bin/python3", "/usr/bin/python3"):
        command = [*AS_USER, name, "-c", CAN_BUILD]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return name
    pytest.skip("no Python with headers that an unprivileged user may run")


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """What the image has in /opt/pocketkv."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody else")
    python = python_of_everybody()
    # pytest's own folders are closed to other users, and /tmp is to be an empty one.
    with tempfile.TemporaryDirectory(prefix="pocketkv-image-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        source = folder / "source"
        for path in copied():
            target = source / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / path).is_dir():
                leave = shutil.ignore_patterns("__pycache__", "*.so", "*.c")
                shutil.copytree(ROOT / path, target, ignore=leave)
            else:
                shutil.copy(ROOT / path, target)
        run = subprocess.run(
            ["sh", source / "dockerfiles/install.sh", source, folder / "opt"],
            env={**os.environ, "PYTHON": python, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        shutil.rmtree(source)
        yield folder / "opt"


def contained(installed: Path, *command: str) -> list[str]:
    """A command line that runs a command as a pod does: no rights, and only /tmp to write to."""
    user = shlex.join(AS_USER)
    closed = "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro /"
    path = shlex.quote(str(installed / "bin" / command[0]))
    return [
        *("unshare", "--mount", "sh", "-c"),
        f"{closed} && exec {user} {path} {shlex.join(command[1:])}",
    ]


def image_environment(**more: str) -> dict[str, str]:
    """The variables that the image sets, and no others."""
    found = dict(re.findall(r"(\w+)=(\S+)", arguments_of("ENV")[0]))
    return {**found, "PATH": "/usr/bin:/bin", **more}


def can_be_contained() -> bool:
    command = ["unshare", "--mount", "mount", "--make-rprivate", "/"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_it_is_small_and_compiled(installed: Path) -> None:
    files = [path for path in installed.rglob("*") if path.is_file() and not path.is_symlink()]
    size_bytes = sum(path.stat().st_size for path in files)
    assert size_bytes < SIZE_BYTES_MAX, f"{size_bytes / 1e6:.0f} MB"
    modules = re.findall(r'"(pocketkv/[\w/]+)\.pyx?"', (ROOT / "setup.py").read_text())
    built = {path.as_posix().split("site-packages/")[-1].partition(".")[0]
             for path in files if path.suffix == ".so"}  # fmt: skip
    assert set(modules) <= built


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_it_has_what_the_subcommands_need(installed: Path) -> None:
    if not can_be_contained():
        pytest.skip("no mount namespaces here")
    run = subprocess.run(
        contained(installed, "python", "-c", USES_ITS_PACKAGES),
        env=image_environment(),
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == __version__


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
@pytest.mark.parametrize(
    "command", [("storage",), ("serve", "--dram", "1", "--nvme", "0", "--memory", "64mb")]
)
def test_it_serves_as_a_user_without_rights(installed: Path, command: tuple[str, ...]) -> None:
    if not can_be_contained():
        pytest.skip("no mount namespaces here")
    environment = image_environment(POCKETKV_METRICS_PORT=str(free_port()))
    reading, writing = os.pipe()
    options = ["--port", "0", "--announce-fd", str(writing)]
    process = subprocess.Popen(
        contained(installed, "pocketkv", *command, *options),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as announced:
            assert select.select([announced], [], [], START_TIMEOUT_S)[0]
            ready = json.loads(announced.readline())
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        assert re.search(rf"^Uid:\t{USER}\t{USER}\t", status, re.MULTILINE)
        assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
        with socket.create_connection(("127.0.0.1", ready["port"]), 10) as client:
            client.sendall(b"SET key value\r\nGET key\r\nINFO pocketkv\r\n")
            said = b""
            while b"pocketkv_core" not in said:
                said += client.recv(1 << 16)
        assert said.startswith(b"+OK\r\n$5\r\nvalue\r\n")
        assert b"pocketkv_core:compiled" in said
        _check_health(installed, environment)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _check_health(installed: Path, environment: dict[str, str]) -> None:
    """Run the image's HEALTHCHECK."""
    _, _, text = arguments_of("HEALTHCHECK")[0].partition("CMD ")
    command = json.loads(text)
    run = subprocess.run(
        contained(installed, *command), env=environment, timeout=START_TIMEOUT_S, check=False
    )
    assert run.returncode == 0
