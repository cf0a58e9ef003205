"""Calls between Lua and Python by Lua's own interface, which is C's: none without a compiler.

The compiled twin is `direct.pyx`. lupa turns each value of one language into one of the other by
what it might be; who knows what there can be does it in a third of the time.
"""

from __future__ import annotations

from typing import Any, NoReturn


class OutOfMemoryError(Exception):
    """Lua has no memory left."""


class FailedError(Exception):
    """Lua failed outside of a script's code; the argument is why."""


class Direct:
    """Calls into one interpreter, and out of it; only the twin makes one.

    Attributes:
        given: What the sandbox is to be given, by name: functions of Lua.
    """

    given: dict[bytes, Any]

    def used_bytes(self) -> int:
        """Memory that Lua takes."""
        _refuse()

    def table(self, items: list[Any] | dict[Any, Any]) -> Any:
        """What `Host.invoke_list` gives for a list or a dict that is to be a table."""
        _refuse()

    def body(self, function: Any) -> Any:
        """A function of Lua, to be given to `run` or `call`."""
        _refuse()

    def enter(self, sandbox: Any) -> None:
        """The sandbox is made, and shows what executes scripts."""
        _refuse()

    def run(self, code: Any, protocol: int, given: list[bytes], key_count: int) -> Any:
        """Execute a script, with its keys and arguments as globals.

        Returns:
            What the sandbox's `finished` does; several values in a tuple.

        Raises:
            OutOfMemoryError, FailedError: Lua failed outside of the script.
            BaseException: What the host raised against its promise.
        """
        _refuse()

    def call(self, code: Any, protocol: int, given: list[bytes], key_count: int) -> Any:
        """Execute a function, with its keys and arguments as two tables; otherwise as `run`."""
        _refuse()


def _refuse() -> NoReturn:
    raise NotImplementedError  # `connect` gives nobody one.


def connect(_runtime: Any, _library: bytes, _host: Any) -> Direct | None:
    """Calls into an interpreter of lupa's, before it is a sandbox: ``None``, here."""
    return None
