"""What a server does with the requests of one connection."""

from __future__ import annotations

from pocketkv.resp.replies import Reply


class RequestHandler:
    """Base of what executes a connection's requests."""

    __slots__ = ()

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request; never raises for what a client did wrong."""
        raise NotImplementedError  # An interface: connections only hold subclasses.

    def on_close(self) -> None:
        """The connection is gone."""
        raise NotImplementedError  # An interface: connections only hold subclasses.
