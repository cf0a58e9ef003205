"""Calls between Lua and Python by Lua's own interface, which is C's: there is none without a compiler.

The compiled twin is `direct.pyx`. lupa turns each value of one language into one of the other by
what it might be; who knows what there can be does it in a third of the time.
"""

from __future__ import annotations

from typing import Any, NoReturn


class OutOfMemory(Exception):
    """Lua has no memory left."""


class Failed(Exception):
    """Lua failed outside of a script's code; the argument is why."""


class Direct:
    """Calls into one interpreter, and out of it; only the twin makes one.

    Attributes:
        invoke, tick: Functions of Lua, as `Host.invoke` and `Host.tick`.
    """

    invoke: Any
    tick: Any

    def table(self, items: list[Any] | dict[Any, Any]) -> Any:
        """What `Host.invoke_list` gives for a list or a dict that is to be a table."""
        _refuse()

    def body(self, function: Any) -> Any:
        """A function of Lua, to be given to `run`."""
        _refuse()

    def used_kib(self) -> int:
        """Memory that Lua takes."""
        _refuse()

    def run(self, entry: Any, code: Any, protocol: int, given: list[bytes], key_count: int) -> Any:
        """Call ``entry(code, protocol, keys, arguments)``; what it returns, several in a tuple.

        Raises:
            OutOfMemory, Failed: Lua failed.
            BaseException: What the host raised against its promise.
        """
        _refuse()


def _refuse() -> NoReturn:
    raise NotImplementedError  # `connect` gives nobody one.


def connect(runtime: Any, library: bytes, host: Any) -> Direct | None:
    """Calls into an interpreter of lupa's, before it is a sandbox: ``None``, here."""
    return None
