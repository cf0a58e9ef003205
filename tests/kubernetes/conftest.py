"""An API server for each test: of the tests' own, or a real one that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.control_plane import (
    VARIABLE,
    ControlPlane,
    control_plane,
    folder_of_binaries,
)
from tests.kubernetes.real import RealCluster
from tests.kubernetes.remote import RealServer


@pytest.fixture
def own_server() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def server(own_server: ApiServer) -> ApiServer:
    return own_server


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A real control plane; without its programs, what needs it is skipped."""
    if folder_of_binaries() is None:
        pytest.skip(f"needs {VARIABLE}: a folder with kube-apiserver and the like")
    with control_plane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def real_server(plane: ControlPlane) -> RealServer:
    """The same with PocketKV's definitions and rights."""
    found = RealServer(plane)
    found.prepare()
    return found


@pytest.fixture(scope="session")
def real_cluster(request: pytest.FixtureRequest) -> RealCluster:
    """The cluster that KUBECONFIG points to, or a control plane."""
    if folder_of_binaries() is None:
        return RealCluster(None)
    return RealCluster(request.getfixturevalue("plane"))
