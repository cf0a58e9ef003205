"""Why the controller refuses something. Messages can follow ``ERR`` in a reply."""

from __future__ import annotations


class RefusedError(Exception):
    """What was asked for cannot be; nothing has changed."""


class UnknownJobError(RefusedError):
    """There is no such job (any more)."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no such job '{job_id}'")


class UnknownServerError(RefusedError):
    """There is no such storage server."""

    def __init__(self, server_id: str) -> None:
        super().__init__(f"no such server '{server_id}'")


class SnapshotError(Exception):
    """What was remembered is not what a controller remembers; the message is one line."""
