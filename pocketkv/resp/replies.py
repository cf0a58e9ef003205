"""The values that a command answers with, as Python objects.

======================  =============================  ======================================
Python                  RESP2                          RESP3
======================  =============================  ======================================
``None``                null bulk ``$-1``              null ``_``
``bytes, bytearray``    bulk                           bulk
``int``                 integer                        integer
``float``               bulk                           double ``,``
``bool``                integer 0 or 1                 boolean ``#t``
``list, tuple``         array                          array
``dict``                flat array                     map ``%``
``set, frozenset``      array                          set ``~``
``Simple``              simple string                  simple string
``ErrorReply``          error                          error
``SetReply``            array                          set, in the order given
``Verbatim``            bulk                           verbatim string ``=``
``NULL_ARRAY``          null array ``*-1``             null ``_``
``Push``                array                          push ``>``
``Encoded``             the bytes as they are          the bytes as they are
``NO_REPLY``            nothing at all                 nothing at all
======================  =============================  ======================================

A handler never formats protocol; the encoder reads this table (see ``encoder.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, Union


class Simple:
    """A simple string (``+OK``). The text must not hold CR or LF."""

    __slots__ = ("encoded", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.encoded = b"+" + text + b"\r\n"

    def __repr__(self) -> str:
        return f"Simple({self.text!r})"


class ErrorReply:
    """An error as a value (``-ERR ...``): the text with its code; CR and LF become spaces."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"


class SetReply:
    """A set whose members, any replies, are already in a sequence, without duplicates."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Reply]) -> None:
        self.members = members


class Verbatim:
    """Text for people (``INFO``): RESP3 tells its format, three characters such as ``txt``."""

    __slots__ = ("form", "text")

    def __init__(self, text: bytes, form: bytes = b"txt") -> None:
        self.text = text
        self.form = form


class Push:
    """An out-of-band message; only its RESP3 form is marked as such."""

    __slots__ = ("items",)

    def __init__(self, items: list[Reply]) -> None:
        self.items = items


class Encoded:
    """A reply that is encoded already, for this connection's protocol version."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


class Marker:
    """A reply that is told by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Deferred:
    """A reply that is not known yet.

    The connection keeps the reply's place in the order. With ``exclusive`` (a blocking command)
    the connection's next request waits for it as well; without (a router that forwards), later
    requests go on while this one is under way.

    Args:
        exclusive: Whether the connection's later requests must wait.
        on_abandon: Called once if the connection goes away before the reply is known.
    """

    __slots__ = ("_listener", "exclusive", "on_abandon", "reply")

    def __init__(
        self, *, exclusive: bool = True, on_abandon: Callable[[], None] | None = None
    ) -> None:
        self.exclusive = exclusive
        self.on_abandon = on_abandon
        self.reply: Reply | Marker = PENDING
        self._listener: Callable[[], None] | None = None

    @property
    def done(self) -> bool:
        """Whether the reply is known."""
        return self.reply is not PENDING

    def complete(self, reply: Reply) -> None:
        """Give the reply. Only the first one counts, so a time-out may race the real answer."""
        if self.reply is not PENDING:
            return
        self.reply = reply
        listener, self._listener = self._listener, None
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when the reply is known; at once if it is known already."""
        if self.reply is not PENDING:
            listener()
        else:
            self._listener = listener

    def abandon(self) -> None:
        """The connection is gone: nobody waits for this reply any more."""
        self._listener = None
        if self.reply is PENDING and self.on_abandon is not None:
            self.on_abandon()


Reply: TypeAlias = Union[
    bytes,
    bytearray,
    int,
    float,
    bool,
    Simple,
    ErrorReply,
    SetReply,
    Verbatim,
    Push,
    Encoded,
    Marker,
    Deferred,
    "list[Reply]",
    "tuple[Reply, ...]",
    "dict[Any, Reply]",
    "set[bytes]",
    "frozenset[bytes]",
    None,
]

PENDING: Final = Marker("PENDING")
NO_REPLY: Final = Marker("NO_REPLY")
NULL_ARRAY: Final = Marker("NULL_ARRAY")
OK: Final = Simple(b"OK")
PONG: Final = Simple(b"PONG")
QUEUED: Final = Simple(b"QUEUED")
