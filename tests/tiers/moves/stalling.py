"""Stands between two servers, and stops at the word that a test names."""

from __future__ import annotations

import contextlib
import socket
import threading

TAKE = b"$13\r\nPOCKETKV.TAKE\r\n"
COPY = b"POCKETKV.COPY"


class Stalling:
    """Passes everything on to a port, until a word comes.

    Args:
        port: Where to.
        word: What it waits for, in what the connecting side sends.
        passes_word: Whether that is passed on still, and only the answers are not.

    Attributes:
        stalled: Set when the word has come.
    """

    def __init__(self, port: int, word: bytes, *, passes_word: bool = False) -> None:
        self.stalled = threading.Event()
        self._port = port
        self._word = word
        self._passes_word = passes_word
        self._released = threading.Event()
        self._is_done = False
        self._is_closed = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def release(self) -> None:
        """Pass everything on from now on."""
        self._is_done = True
        self._released.set()

    def close(self) -> None:
        """End all connections; what was kept back never arrives."""
        with self._lock:
            self._is_closed = True
        self.release()
        self._listener.close()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port), 5)
            except OSError:
                near.close()
                continue
            with self._lock:
                if self._is_closed:
                    near.close()
                    far.close()
                    return
                self._sockets += [near, far]
            threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pass_back, args=(far, near), daemon=True).start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                seen = seen[-64:] + data
                if not self._is_done and self._word in seen:
                    if self._passes_word:
                        # Nothing of the answer must get through.
                        self.stalled.set()
                        far.sendall(data)
                    self.stalled.set()
                    self._released.wait()
                    if self._passes_word:
                        continue
                if self._is_closed:
                    break
                far.sendall(data)
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _pass_back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                if self._passes_word and self.stalled.is_set():
                    self._released.wait()
                if self._is_closed:
                    break
                near.sendall(data)
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
