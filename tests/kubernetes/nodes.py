"""The machine that a test plays where a real scheduler wants to know of one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from pocketkv.controller.backends.kubernetes.api import MERGE_PATCH, ApiError, ConflictError
from tests.kubernetes.remote import RealServer

NAME: Final = "test-machine"
_PATH: Final = "/api/v1/nodes"
# A machine that is not heard of for 40 s has failed.
_HEARTBEAT_S: Final = 5.0


class Node:
    """A machine with a core for each storage pod.

    Args:
        server: Whose it is.
    """

    def __init__(self, server: RealServer) -> None:
        self._api = server.plane.api("default")
        self._told: tuple[int, float] = (-1, 0.0)
        try:
            self._api.request("POST", _PATH, {"metadata": {"name": NAME}})
        except ConflictError:
            pass  # An earlier test's.

    def beat(self, cores: int) -> None:
        """Say now and then that it is there, and how much room it has."""
        before, told_s = self._told
        if before == cores and time.monotonic() - told_s < _HEARTBEAT_S:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        room = {"cpu": str(cores), "memory": "64Gi", "pods": "250"}
        ready: dict[str, Any] = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "played by a test",
            "lastHeartbeatTime": now,
        }
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        try:
            self._api.request(
                "PATCH", f"{_PATH}/{NAME}/status", {"status": status}, content_type=MERGE_PATCH
            )
        except ApiError:
            return  # The next beat tells.
        self._told = (cores, time.monotonic())

    def close(self) -> None:
        """Close its connections; it is left for the next test."""
        self._api.close()
