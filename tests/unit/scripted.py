"""A Redis server that answers as a test tells it, and fails when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

STOP_TIMEOUT_S = 10.0

Answer = Callable[[list[bytes]], bytes | None]


class ScriptedServer:
    """Answers each request with what `answer` gives, and hangs up without an answer on None."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[list[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def job_requests(self) -> list[list[bytes]]:
        """What was asked but for the greetings."""
        greetings = {b"HELLO", b"CLIENT", b"PING"}
        return [request for request in self.requests if request[0] not in greetings]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream:
            while header := stream.readline():
                count = int(header[1:])
                request = []
                for _ in range(count):
                    length = int(stream.readline()[1:])
                    request.append(stream.read(length + 2)[:-2])
                self.requests.append(request)
                reply = self._greet(request) or self.answer(request)
                if reply is None:
                    return
                sock.sendall(reply)

    @staticmethod
    def _greet(request: list[bytes]) -> bytes | None:
        if request[0] == b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        if request[0] == b"PING":
            return b"+PONG\r\n"
        return b"+OK\r\n" if request[0] == b"CLIENT" else None

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT_S)


def answers(*replies: bytes | None) -> Answer:
    """Give the replies in turn, whatever is asked; the last one for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def bulk_map(**fields: str) -> bytes:
    pairs = [text.encode() for pair in fields.items() for text in pair]
    return b"%%%d\r\n" % len(fields) + b"".join(b"$%d\r\n%b\r\n" % (len(t), t) for t in pairs)
