"""A small HTTP/1.1 server for scrapers and probes: GET and HEAD of a few fixed paths.

It is an ordinary trio server beside the reactor, in the same thread, so a probe that is answered
in time shows that the process's loop turns. Requests are bounded in size and time, connections in
number. The only door of h11.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

import h11
import trio

from pocketkv import limits

# Status, content type and body.
Answer: TypeAlias = tuple[int, str, bytes]
Route: TypeAlias = Callable[[], Answer | Awaitable[Answer]]

TEXT: Final = "text/plain; charset=utf-8"
_RECEIVE_BYTES: Final = 16 * limits.KIB
_ALLOW: Final = ("Allow", "GET, HEAD")

logger = logging.getLogger("pocketkv.http")


async def serve(
    host: str,
    port: int,
    routes: Mapping[str, Route],
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    Args:
        host: The address to listen on.
        port: 0 takes a free one.
        routes: By path. A route that raises is logged, and answered with status 500.
        task_status: Told the actual port as soon as it can be connected to.

    Raises:
        OSError: It cannot listen there; raised before `task_status` is told anything.
    """
    listener = _listen(host, port)
    server = _Server(routes)
    async with listener:
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(server.serve_connection, [listener])


def _listen(host: str, port: int) -> trio.SocketListener:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(limits.HTTP_CONNECTIONS_MAX)
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


class _Server:
    """What the connections of one server share."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._connections = 0

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Answer one client's requests until it goes, or makes a mistake, or takes too long."""
        self._connections += 1
        try:
            async with stream:
                client = _Client(stream)
                if self._connections > limits.HTTP_CONNECTIONS_MAX:
                    await client.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
                    return
                while await self._serve_one(client):
                    client.http.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client went away, which is its right.
        finally:
            self._connections -= 1

    async def _serve_one(self, client: _Client) -> bool:
        """Answer one request; whether another may follow on the same connection."""
        with trio.move_on_after(limits.HTTP_IDLE_TIMEOUT_S) as idle:
            await client.wait_for_bytes()
        if idle.cancelled_caught:
            return False
        with trio.move_on_after(limits.HTTP_REQUEST_TIMEOUT_S) as scope:
            try:
                request = await client.read_request()
                if request is None:
                    return False
                await client.respond(*await self._answer(request))
            except h11.RemoteProtocolError as error:
                await client.refuse(error.error_status_hint, str(error))
        if scope.cancelled_caught:
            await client.refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time")
            return False
        return client.http.our_state is h11.DONE and client.http.their_state is h11.DONE

    async def _answer(self, request: h11.Request) -> tuple[int, str, bytes, list[tuple[str, str]]]:
        """Status, content type, body, and further headers."""
        path = _path(request.target)
        route = self._routes.get(path)
        if route is None:
            known = ", ".join(sorted(self._routes))
            return *_plain(HTTPStatus.NOT_FOUND, f"there is only {known}"), []
        if request.method not in (b"GET", b"HEAD"):
            text = "there is only GET and HEAD"
            return *_plain(HTTPStatus.METHOD_NOT_ALLOWED, text), [_ALLOW]
        try:
            answer = route()
            status, content_type, body = answer if isinstance(answer, tuple) else await answer
        except Exception:  # a defect of one route must not end the server
            logger.exception("request failed", extra={"path": path})
            return *_plain(HTTPStatus.INTERNAL_SERVER_ERROR, "see the server's log"), []
        return status, content_type, body, []


class _Client:
    """One connection, with h11's state of it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.http = h11.Connection(
            h11.SERVER, max_incomplete_event_size=limits.HTTP_REQUEST_BYTES_MAX
        )
        self._stream = stream
        self._method = b""

    async def wait_for_bytes(self) -> None:
        """Wait until the next request has begun, or the client has gone."""
        if not self.http.trailing_data[0]:
            await self._receive()

    async def _receive(self) -> None:
        self.http.receive_data(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))

    async def read_request(self) -> h11.Request | None:
        """The next request, its body read and thrown away; ``None`` if the client has gone.

        Raises:
            h11.RemoteProtocolError: It is not HTTP, or too long.
        """
        request: h11.Request | None = None
        self._method = b""
        body_bytes = 0
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    raise h11.RemoteProtocolError(
                        "no body is expected", HTTPStatus.EXPECTATION_FAILED
                    )
                await self._receive()
            elif isinstance(event, h11.Request):
                request = event
                self._method = event.method
            elif isinstance(event, h11.Data):
                body_bytes += len(event.data)
                if body_bytes > limits.HTTP_REQUEST_BYTES_MAX:
                    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                    raise h11.RemoteProtocolError("no body is expected", status)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None

    async def refuse(self, status: int, reason: str) -> None:
        """Answer what was no proper request, after which the connection ends."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        with trio.move_on_after(limits.HTTP_REFUSAL_TIMEOUT_S):
            await self.respond(*_plain(status, reason), [("Connection", "close")])
            # Closing while something is unread would take the answer back, so it is read first.
            await self._stream.send_eof()
            unread_bytes = limits.HTTP_REQUEST_BYTES_MAX
            while unread_bytes > 0 and (data := await self._stream.receive_some(_RECEIVE_BYTES)):
                unread_bytes -= len(data)

    async def respond(
        self, status: int, content_type: str, body: bytes, headers: list[tuple[str, str]]
    ) -> None:
        """Send a whole response; its body only if the request was not HEAD."""
        fields = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            # What is measured now is of no use later.
            ("Cache-Control", "no-store"),
            *headers,
        ]
        parts = [
            self.http.send(
                h11.Response(status_code=status, headers=fields, reason=HTTPStatus(status).phrase)
            )
        ]
        if self._method != b"HEAD":
            parts.append(self.http.send(h11.Data(data=body)))
        parts.append(self.http.send(h11.EndOfMessage()))
        await self._stream.send_all(b"".join(part or b"" for part in parts))


def _plain(status: int, text: str) -> tuple[int, str, bytes]:
    phrase = HTTPStatus(status).phrase
    return status, TEXT, f"{status} {phrase}: {text}\n".encode()


def _path(target: bytes) -> str:
    """The path of a request's target, which may be a whole address, without its query."""
    text = target.decode("latin-1").partition("?")[0]
    if "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text
