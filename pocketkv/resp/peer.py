"""A client for our own servers, for control traffic: one connection, replies in order, pushes.

Data between servers goes through the reactor; this one is for what happens a few times a second
(joining, reports, maps, job commands). It is the only door of hiredis, which is for replies of
our own servers: its parser has no limits that would suit client bytes. A wrong address may lead
to anything, so it is given whole replies only, which `FrameScanner` has measured.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import hiredis
import trio

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from pocketkv.resp.errors import PeerError, ProtocolError
from pocketkv.resp.frames import FrameScanner

_RECEIVE_BYTES = 64 * limits.KIB
_PUSHES_MAX = 1024
_NEED_DATA = object()


class RemoteError(PeerError):
    """The server answered with an error; `code` is its first word (``ERR``, ``MOVED`` ...)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


class _Reader(hiredis.Reader):
    def __init__(self) -> None:
        super().__init__(protocolError=PeerError, replyError=_reply_error, notEnoughData=_NEED_DATA)


def _reply_error(text: str) -> RemoteError:
    return RemoteError(text)


def decode_reply(raw: bytes) -> Any:
    """One raw reply as Python objects; an error reply is returned as a `RemoteError`.

    Raises:
        PeerError: The bytes are not one whole reply.
    """
    scanner = FrameScanner()
    scanner.feed(raw)
    frame = _next_frame(scanner)
    if frame is None or scanner.buffered_bytes:
        raise PeerError("not one whole reply")
    return _decode(_Reader(), frame)


def _next_frame(scanner: FrameScanner) -> bytes | None:
    """The next whole reply, ``None`` if it is not all there."""
    try:
        frame = scanner.next_frame()
    except ProtocolError as error:
        raise PeerError(str(error)) from error
    return frame if isinstance(frame, bytes) else None


def _decode(reader: _Reader, frame: bytes) -> Any:
    reader.feed(frame)
    try:
        reply = reader.gets()
    except TypeError as error:
        # A map whose keys are arrays; no server of ours sends one.
        raise PeerError(f"a reply that cannot be decoded: {error}") from error
    if reply is _NEED_DATA:
        raise PeerError("a reply that cannot be decoded")
    return reply


class Peer:
    """A connection to one of our own servers. Use `connect_peer`.

    Attributes:
        pushes: Receives each out-of-band message, as a list.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = _Reader()
        self._scanner = FrameScanner()
        self._send_lock = trio.Lock()
        self._waiting: deque[_Waiter] = deque()
        self._push_sender, self.pushes = trio.open_memory_channel[list[Any]](_PUSHES_MAX)
        self._failure: PeerError | None = None

    async def call(self, *arguments: bytes | str | int, timeout_s: float = math.inf) -> Any:
        """Send one command and wait for its reply.

        Raises:
            RemoteError: The server answered with an error.
            PeerError: No answer within `timeout_s`, or the connection broke.
        """
        waiter = _Waiter()
        with trio.move_on_after(timeout_s):
            await self._send(arguments, waiter)
            await waiter.event.wait()
        if not waiter.event.is_set():
            raise PeerError(f"no answer to {arguments[0]!r} within {timeout_s} s")
        if isinstance(waiter.reply, PeerError):
            raise waiter.reply
        return waiter.reply

    async def _send(self, arguments: tuple[bytes | str | int, ...], waiter: _Waiter) -> None:
        request = encode_request([_argument(a) for a in arguments])
        async with self._send_lock:
            if self._failure is not None:
                # Not the same object: each caller's traceback is its own.
                raise PeerError(str(self._failure))
            self._waiting.append(waiter)
            # A request that was cut off half way would garble the next one.
            with (
                trio.CancelScope(shield=True),
                trio.move_on_after(limits.UPSTREAM_REPLY_TIMEOUT_S) as scope,
            ):
                try:
                    await self._stream.send_all(request)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    self._fail(PeerError("connection broke while sending"))
                    raise PeerError("connection broke while sending") from error
            if scope.cancelled_caught:
                self._fail(PeerError("the server does not read"))

    async def read_replies(self) -> None:
        """Deliver replies and pushes until the connection ends. Runs as a task of its own."""
        try:
            while True:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    break
                self._scanner.feed(bytes(data))
                while (frame := _next_frame(self._scanner)) is not None:
                    self._deliver(_decode(self._reader, frame))
            self._fail(PeerError("the server closed the connection"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(PeerError(f"connection broke: {error}"))
        except PeerError as error:
            self._fail(error)
        finally:
            # Cancelled: a call of a task that goes on must not wait for ever.
            self._fail(PeerError("closed"))

    def _deliver(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            try:
                self._push_sender.send_nowait(list(reply))
            except trio.WouldBlock:
                raise PeerError("pushes are not taken") from None
        elif self._waiting:
            waiter = self._waiting.popleft()
            waiter.reply = reply
            waiter.event.set()
        else:
            raise PeerError("a reply that nobody asked for")

    async def aclose(self) -> None:
        """Close the connection; calls under way raise `PeerError`."""
        self._fail(PeerError("closed"))
        await trio.aclose_forcefully(self._stream)

    def _fail(self, error: PeerError) -> None:
        if self._failure is None:
            self._failure = error
        while self._waiting:
            waiter = self._waiting.popleft()
            waiter.reply = PeerError(str(error))
            waiter.event.set()
        self._push_sender.close()


class _Waiter:
    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.reply: Any = None


def _argument(value: bytes | str | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


async def open_peer(
    nursery: trio.Nursery,
    host: str,
    port: int,
    *,
    timeout_s: float = limits.UPSTREAM_CONNECT_TIMEOUT_S,
) -> Peer:
    """Connect to a server; its replies are read by a task in `nursery` until `Peer.aclose`.

    Raises:
        PeerError: It could not be reached within `timeout_s`.
    """
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError) as error:
        raise PeerError(f"cannot reach {host}:{port}: {error}") from error
    peer = Peer(stream)
    nursery.start_soon(peer.read_replies)
    return peer
