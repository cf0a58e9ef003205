from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

import pytest
import trio

from pocketkv import limits
from pocketkv.observability import http as server
from pocketkv.observability.http import Answer, Route

PATIENCE_S = 20.0


async def _awaited() -> Answer:
    await trio.lowlevel.checkpoint()
    return 200, "text/plain", b"later\n"


def _broken() -> Answer:
    raise RuntimeError("a defect")


ROUTES: Mapping[str, Route] = {
    "/healthz": lambda: (200, "text/plain", b"ok\n"),
    "/readyz": lambda: (503, "text/plain", b"not ready\n"),
    "/metrics": lambda: (200, "text/plain; version=0.0.4", b"up 1\n"),
    "/later": _awaited,
    "/broken": _broken,
    "/huge": lambda: (200, "text/plain", bytes(32 * limits.MIB)),
}


def with_server(main: Callable[[int], Awaitable[None]]) -> None:
    """Run `main` with the port of a server of `ROUTES`."""

    async def run() -> None:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                port = await nursery.start(server.serve, "127.0.0.1", 0, ROUTES)
                await main(port)
                nursery.cancel_scope.cancel()

    trio.run(run)


async def exchange(port: int, request: bytes, *, end: bool = True) -> bytes:
    """Send bytes; everything that comes back until the server closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        if end:
            await stream.send_eof()
        return b"".join([bytes(part) async for part in stream])


def get(path: str, method: str = "GET", headers: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{headers}\r\n".encode()


def answer_to(request: bytes) -> bytes:
    answers = []

    async def main(port: int) -> None:
        answers.append(await exchange(port, request))

    with_server(main)
    return answers[0]


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 ")
    return int(answer[9:12])


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/healthz", 200, b"ok\n"),
        ("/readyz", 503, b"not ready\n"),
        ("/metrics", 200, b"up 1\n"),
        ("/metrics?name=x", 200, b"up 1\n"),
        ("http://h:1/metrics", 200, b"up 1\n"),
        ("/later", 200, b"later\n"),
    ],
)
def test_a_route_is_answered(path: str, status: int, body: bytes) -> None:
    answer = answer_to(get(path))
    head, _, got = answer.partition(b"\r\n\r\n")
    assert (status_of(answer), got) == (status, body)
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert b"cache-control: no-store" in head.lower()


def test_an_ordinary_client_understands_it() -> None:
    def scrape(port: int) -> list[tuple[int, str | None, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        got = []
        for method, path in (("GET", "/metrics"), ("HEAD", "/metrics"), ("GET", "/healthz")):
            connection.request(method, path)
            response = connection.getresponse()
            got.append((response.status, response.getheader("Content-Type"), response.read()))
        connection.close()
        return got

    async def main(port: int) -> None:
        assert await trio.to_thread.run_sync(scrape, port) == [
            (200, "text/plain; version=0.0.4", b"up 1\n"),
            (200, "text/plain; version=0.0.4", b""),
            (200, "text/plain", b"ok\n"),
        ]

    with_server(main)


def test_head_tells_the_length_and_sends_no_body() -> None:
    answer = answer_to(get("/metrics", "HEAD"))
    assert b"content-length: 5\r\n" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        pytest.param(get("/"), 404, b"/healthz", id="no such path"),
        pytest.param(get("/metrics/x"), 404, b"/metrics", id="below a path"),
        pytest.param(get("*", "OPTIONS"), 404, b"Not Found", id="no path"),
        pytest.param(get("/metrics", "POST"), 405, b"GET and HEAD", id="method"),
        pytest.param(get("/metrics", "DELETE"), 405, b"GET and HEAD", id="another method"),
        pytest.param(b"*1\r\n$4\r\nPING\r\n", 400, b"Bad Request", id="Redis's protocol"),
        pytest.param(b"PING\r\n\r\n", 400, b"Bad Request", id="an inline command"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"", id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, b"Bad Request", id="no host"),
        pytest.param(b"GET / HTTP/x.y\r\nHost: h\r\n\r\n", 400, b"", id="version"),
        pytest.param(get("/", headers="a\r\n"), 400, b"Bad Request", id="broken header"),
        pytest.param(get("/", headers="A: " + "x" * 20000), 431, b"", id="endless header"),
        pytest.param(b"G" * 20000, 431, b"", id="endless line"),
        pytest.param(get("/" + "x" * 50000), 431, b"", id="endless path"),
        pytest.param(
            get("/metrics", headers="Content-Length: 99999\r\n") + b"x" * 99999,
            413,
            b"no body",
            id="large body",
        ),
        pytest.param(
            get("/metrics", headers="Content-Length: 9\r\nExpect: 100-continue\r\n"),
            417,
            b"no body",
            id="large body to come",
        ),
        pytest.param(
            get("/metrics", headers="Transfer-Encoding: gzip\r\n"), 501, b"", id="encoding"
        ),
        pytest.param(get("/broken"), 500, b"log", id="a defect of ours"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(
    request_: bytes, status: int, words: bytes
) -> None:
    answer = answer_to(request_)
    assert status_of(answer) == status
    assert words in answer.partition(b"\r\n\r\n")[2]


def test_a_wrong_method_is_told_the_right_ones() -> None:
    assert b"allow: get, head\r\n" in answer_to(get("/metrics", "PUT")).lower()


def test_a_small_body_is_ignored() -> None:
    answer = answer_to(get("/metrics", headers="Content-Length: 3\r\n") + b"xyz")
    assert status_of(answer) == 200


def test_a_defect_of_a_route_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "pocketkv"):
        answer = answer_to(get("/broken") + get("/healthz"))
    assert [record.getMessage() for record in caplog.records] == ["request failed"]
    assert b"a defect" not in answer
    assert answer.endswith(b"\r\n\r\nok\n")


def test_requests_may_be_pipelined() -> None:
    answer = answer_to(get("/healthz") * 3 + get("/metrics", headers="Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200") == 4
    assert answer.endswith(b"up 1\n")


def test_the_end_may_come_at_any_byte() -> None:
    request = get("/healthz")

    async def main(port: int) -> None:
        for cut in range(len(request)):
            answer = await exchange(port, request[:cut])
            assert answer == b"" or status_of(answer) == 400
        assert status_of(await exchange(port, request)) == 200

    with_server(main)


def test_a_request_may_come_byte_by_byte() -> None:
    async def main(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for byte in get("/healthz"):
                await stream.send_all(bytes([byte]))
                await trio.lowlevel.checkpoint()
            await stream.send_eof()
            answer = b"".join([bytes(part) async for part in stream])
        assert answer.endswith(b"ok\n")

    with_server(main)


# --- limits ------------------------------------------------------------------------------------


def test_half_a_request_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_REQUEST_TIMEOUT_S", 0.05)

    async def main(port: int) -> None:
        answer = await exchange(port, b"GET /metr", end=False)
        assert status_of(answer) == 408

    with_server(main)


def test_an_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_IDLE_TIMEOUT_S", 0.05)

    async def main(port: int) -> None:
        assert await exchange(port, b"", end=False) == b""
        assert (await exchange(port, get("/healthz"), end=False)).endswith(b"ok\n")

    with_server(main)


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_REQUEST_TIMEOUT_S", 0.1)
    monkeypatch.setattr(limits, "HTTP_REFUSAL_TIMEOUT_S", 0.1)
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 1)

    async def main(port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(get("/huge"))
            # The only place is taken until the server has given up.
            while status_of(await exchange(port, get("/healthz"))) == 503:
                await trio.lowlevel.checkpoint()

    with_server(main)


def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 2)

    async def main(port: int) -> None:
        first = await trio.open_tcp_stream("127.0.0.1", port)
        second = await trio.open_tcp_stream("127.0.0.1", port)
        for stream in (first, second):
            await stream.send_all(get("/healthz"))
            assert status_of(bytes(await stream.receive_some())) == 200
        refused = await exchange(port, get("/healthz"))
        assert status_of(refused) == 503
        assert b"too many connections" in refused
        await first.aclose()
        while status_of(await exchange(port, get("/healthz"))) == 503:
            await trio.lowlevel.checkpoint()
        await second.aclose()

    with_server(main)


def test_a_client_may_go_away_at_any_time() -> None:
    async def main(port: int) -> None:
        for _ in range(20):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(get("/huge"))
            await stream.receive_some(1)
            # A reset instead of an orderly end.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
        assert status_of(await exchange(port, get("/healthz"))) == 200

    with_server(main)


# --- the port ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "taken"), [("127.0.0.1", True), ("192.0.2.1", False), ("no.such.host.invalid", False)]
)
def test_a_port_that_cannot_be_had_is_an_error_of_the_caller(host: str, taken: bool) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other, trio.fail_after(PATIENCE_S):
            port = other.getsockname()[1] if taken else 0
            async with trio.open_nursery() as nursery:
                with pytest.raises(OSError, match=r"in use|assign|known"):
                    await nursery.start(server.serve, host, port, ROUTES)

    trio.run(main)


def test_the_port_is_free_again_when_it_ends() -> None:
    async def main() -> None:
        port = 0
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                port = await nursery.start(server.serve, "127.0.0.1", port, ROUTES)
                assert status_of(await exchange(port, get("/healthz"))) == 200
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_name_is_an_address_too() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            port = await nursery.start(server.serve, "localhost", 0, ROUTES)
            async with await trio.open_tcp_stream("localhost", port) as stream:
                await stream.send_all(get("/healthz"))
                assert status_of(bytes(await stream.receive_some())) == 200
            nursery.cancel_scope.cancel()

    trio.run(main)
