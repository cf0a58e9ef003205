"""A proxy on loopback between a store and S3, that does wrong to as many requests as it is told."""

from __future__ import annotations

import http.client
import select
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["corrupt", "lost answer", "reset", "slow down", "stall", "truncate"]

STALL_MAX_S = 8.0
UPSTREAM_TIMEOUT_S = 10.0
SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""


class FaultyProxy:
    """Passes requests on to an endpoint.

    Attributes:
        url: Where it listens.
        requests: Method and path of all that came, faults included.
    """

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        assert address.hostname is not None
        self.upstream = (address.hostname, address.port or 80)
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._left = 0
        self._applies: Callable[[str], bool] = lambda request: True
        self.healed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(
        self,
        fault: Fault,
        times: int = 1_000_000,
        applies: Callable[[str], bool] = lambda request: True,
    ) -> None:
        """Do wrong to the next so many requests that a condition on "METHOD path" names."""
        with self._lock:
            self._fault, self._left, self._applies = fault, times, applies
            self.healed = threading.Event()

    def heal(self) -> None:
        """Do right from now on; what is stalled breaks off."""
        with self._lock:
            self._fault, self._left = None, 0
            self.healed.set()

    @property
    def faults_left(self) -> int:
        return self._left

    def next_fault(self, request: str) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            if self._fault is None or not self._left or not self._applies(request):
                return None
            self._left -= 1
            return self._fault

    def close(self) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    proxy: FaultyProxy
    daemon_threads = True
    # Connections that clients keep open would be waited for.
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _pass_on(self) -> None:
        proxy = self.server.proxy
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        fault = proxy.next_fault(f"{self.command} {self.path}")
        if fault == "reset":
            self._reset()
        elif fault == "stall":
            proxy.healed.wait(STALL_MAX_S)
            self._reset()
        elif fault == "slow down":
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        else:
            status, headers, data = self._ask(body)
            if fault == "lost answer":
                self._reset()
            elif fault == "corrupt":
                self._answer(status, headers, data[:-1] + bytes([data[-1] ^ 1]))
            elif fault == "truncate":
                self._answer(status, headers, data, sent=len(data) // 2)
                self._reset()
            else:
                self._answer(status, headers, data)

    # http.server demands these names.
    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = _pass_on  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(
            *self.server.proxy.upstream, timeout=UPSTREAM_TIMEOUT_S
        )
        try:
            # As they came, since they are signed.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"}:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            data = response.read()
            hop = {"connection", "keep-alive", "transfer-encoding"}
            headers = [item for item in response.getheaders() if item[0].lower() not in hop]
            return response.status, headers, data
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, sent: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Half a body may still be on its way; a reset would overtake it.
        select.select([self.connection], [], [], 0.05)
        self.connection.close()
