"""The backend's client, led to a test's API server."""

from __future__ import annotations

from kubernetes.client import Configuration

from pocketkv.controller.backends.kubernetes.api import Api
from tests.kubernetes.apiserver import ApiServer

NAMESPACE = "shuffles"
RELEASE = "pk"


def api_of(server: ApiServer) -> Api:
    configuration = Configuration()
    configuration.host = server.url
    return Api(configuration, NAMESPACE)
