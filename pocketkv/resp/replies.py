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
``Several``             each of the replies            each of the replies
``Encoded``             the bytes as they are          the bytes as they are
``FileBulk``            bulk                           bulk
``NO_REPLY``            nothing at all                 nothing at all
======================  =============================  ======================================

A handler never formats protocol; the encoder reads this table (see ``encoder.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, Union


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


class ScriptErrorReply(ErrorReply):
    """An error that a script answered; whatever its text, it says nothing of this server.

    Attributes:
        is_counted: Whether it is that of a command which the script called, and counted as such.
    """

    __slots__ = ("is_counted",)

    def __init__(self, text: bytes, *, is_counted: bool) -> None:
        self.text = text
        self.is_counted = is_counted


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


class Several:
    """Replies that leave one after the other, where the client asked once (SUBSCRIBE)."""

    __slots__ = ("replies",)

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies


class Encoded:
    """A reply that is encoded already, for this connection's protocol version."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


class ViewOwner(Protocol):
    """Keeps a part of a file as it is, for as long as the object lives."""

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a part of the file."""
        ...


class StoredOwner(ViewOwner, Protocol):
    """The same of a file that is not in memory."""

    def resident(self, offset: int, size: int) -> int:
        """How many bytes from `offset` on, at most `size`, can be sent now.

        Raises:
            OSError: The file cannot be asked.
        """
        ...

    def fetch(self, offset: int, size: int) -> None:
        """Make a part of it resident; for a worker thread, since it waits for the device.

        Raises:
            Exception: It cannot be read, or is not what was written.
        """
        ...


class FileRange:
    """Bytes that stand in a file, and stay as they are for as long as this object lives.

    Attributes:
        fd, offset, size: Where they are. With a negative `fd` they are to be copied out of
            `owner.view`, as bytes in memory are; otherwise the system may send the file's pages
            themselves, and refers to them for as long as the other side leaves them unread.
        owner: What keeps them from being changed or used for something else.
    """

    __slots__ = ("fd", "offset", "owner", "size")

    def __init__(self, fd: int, offset: int, size: int, owner: ViewOwner) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size
        self.owner = owner

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        """The bytes, copied."""
        return bytes(self.owner.view(self.offset, self.size))


class FileBulk:
    """A bulk whose contents stand in a file: `size` bytes, in these ranges."""

    __slots__ = ("ranges", "size")

    def __init__(self, size: int, ranges: list[FileRange]) -> None:
        self.size = size
        self.ranges = ranges


class Marker:
    """A reply that is told by identity."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Listener:
    """Base of who waits for replies that are not known yet."""

    __slots__ = ()

    def on_reply_known(self) -> None:
        """More of a reply is known, or all of it."""
        raise NotImplementedError  # An interface: replies only know subclasses.


class Deferred:
    """A reply that is not known yet.

    The connection keeps the reply's place in the order. With ``exclusive`` (a blocking command)
    the connection's next request waits for it as well; without (a router that forwards), later
    requests go on while this one is under way.

    A long reply that is encoded already may be given in pieces, with `give`; `complete` then gives
    the rest. Pieces leave as soon as it is the reply's turn.

    Args:
        exclusive: Whether the connection's later requests must wait.
        on_abandon: Called once if the connection goes away before the reply is known.

    Attributes:
        pieces: What was given of the reply, and is held until its turn.
        is_begun: Whether some of it is on its way to the client, so that it must be completed.
        connection: Who is told when more of it is known; set by the connection that sends it.
    """

    __slots__ = (
        "_listener",
        "connection",
        "exclusive",
        "is_begun",
        "on_abandon",
        "pieces",
        "reply",
    )

    def __init__(
        self, *, exclusive: bool = True, on_abandon: Callable[[], None] | None = None
    ) -> None:
        self._begin(exclusive, on_abandon)

    def _begin(self, exclusive: bool, on_abandon: Callable[[], None] | None) -> None:
        """What `__init__` does; a compiled subclass that is made often calls this for less."""
        self.exclusive = exclusive
        self.on_abandon = on_abandon
        self.reply: Reply | Marker = PENDING
        self.pieces: list[bytes] | None = None
        self.is_begun = False
        self.connection: Listener | None = None
        self._listener: Callable[[], None] | None = None

    @property
    def done(self) -> bool:
        """Whether the reply is known."""
        return self.reply is not PENDING

    def give(self, piece: bytes) -> None:
        """Give the next piece of a reply that is encoded already."""
        if self.pieces is None:
            self.pieces = []
        self.pieces.append(piece)
        if self.connection is not None:
            self.connection.on_reply_known()

    def complete(self, reply: Reply) -> None:
        """Give the reply. Only the first one counts, so a time-out may race the real answer."""
        if self.reply is not PENDING:
            return
        self.reply = reply
        # Who made it may refer to it, and would keep it, with the files that it may have open.
        self.on_abandon = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.on_reply_known()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when the reply is known; at once if it is known already."""
        if self.reply is not PENDING:
            listener()
            return
        earlier = self._listener
        self._listener = listener if earlier is None else _both(earlier, listener)

    def abandon(self) -> None:
        """The connection is gone: nobody waits for this reply any more."""
        self.connection = None
        self._listener = None
        if self.reply is PENDING and self.on_abandon is not None:
            self.on_abandon()


def _both(earlier: Callable[[], None], later: Callable[[], None]) -> Callable[[], None]:
    def listener() -> None:
        earlier()
        later()

    return listener


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
    Several,
    Encoded,
    FileBulk,
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
