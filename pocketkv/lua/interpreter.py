"""An interpreter of Lua for one job's scripts; the only door to lupa.

What a script does that has to do with the server goes through a `Host`. Its methods never raise:
Lua could not tell a script in its own words, and what Python raises is no business of scripts.
"""

from __future__ import annotations

import hashlib
import pkgutil
from functools import partial
from typing import Any, Final, Protocol

from lupa import lua51
from lupa.lua51 import LuaError, LuaMemoryError, LuaRuntime

from pocketkv import limits
from pocketkv.lua.bytecode import without_tail_calls
from pocketkv.lua.direct import FailedError, OutOfMemoryError, connect

# So many arguments are passed on Lua's stack; more take a table.
_STACK_ARGUMENTS_MAX: Final = 200
# How what a script came to is taken, unless it is a value as it is.
_ENCODED, _STATUS, _ERROR_REPLY = 1, 3, 4
# Pieces of the sandbox, made while Lua's own functions are still there.
_PARTS: Final = ("replies", "registering")
_MODULES: Final = ("bit", "struct", "cmsgpack", "cjson")


class Host(Protocol):
    """What scripts ask of the server."""

    def invoke_list(self, request: list[Any]) -> Any:
        """A command: its reply.

        Or a tuple of ``None``, an error, the text of a status, and whether the error was counted.
        """
        ...

    def invoke(self, *arguments: Any) -> Any:
        """`invoke_list`, as lupa calls it."""
        ...

    def invoke_many(self, arguments: Any, count: int) -> Any:
        """`invoke` with so many arguments, in a table of Lua."""
        ...

    def tick(self) -> bytes | None:
        """Called every few milliseconds; why the script is to end, if it is."""
        ...

    def setresp(self, version: int) -> None:
        """Replies from now on are as in this version of the protocol."""
        ...

    def acl_check_cmd(self, *arguments: Any) -> Any:
        """Whether a command may be called; or a tuple of ``None`` and an error."""
        ...

    def log(self, level: int, text: bytes) -> None:
        """A message for the server's log."""
        ...

    def register(self, name: bytes, body: Any, description: bytes | None, flags: bytes) -> Any:
        """A library that is being loaded has a function; what is wrong with it, if anything."""
        ...


class ScriptError(Exception):
    """A script was not compiled, or failed.

    Attributes:
        text: The error line.
        where: Where it failed, as ``@source:line``; empty if nobody knows.
        is_counted: Whether it is a command's, which has been counted.
    """

    def __init__(self, text: bytes, where: bytes = b"", *, is_counted: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.where = where
        self.is_counted = is_counted


class Encoded:
    """What a script answered, encoded."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


class Status:
    """A script answered with a status; its text may hold anything."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


OK_STATUS: Final = Status(b"OK")


class Failure:
    """A script answered with an error, which it did not raise.

    Attributes:
        text: The error line; it may hold anything.
        is_counted: Whether it is a command's, which has been counted.
    """

    __slots__ = ("is_counted", "text")

    def __init__(self, text: bytes, *, is_counted: bool) -> None:
        self.text = text
        self.is_counted = is_counted


def _no_attributes(*_: object) -> str:
    raise AttributeError("scripts see no objects")


def _source(name: str) -> bytes:
    text = pkgutil.get_data("pocketkv.lua", f"{name}.lua")
    assert text is not None  # It is part of the package.
    return text


class Interpreter:
    """Lua, with what scripts may use and nothing else.

    Args:
        host: The server.
        version: What ``redis.REDIS_VERSION`` shows, such as ``7.0.15``.
    """

    def __init__(self, host: Host, version: str) -> None:
        self._lua = LuaRuntime(
            encoding=None,
            source_encoding="latin-1",
            attribute_filter=_no_attributes,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            max_memory=limits.SCRIPT_MEMORY_HARD_BYTES,
        )
        library = lua51.__file__.encode("utf-8", "surrogateescape")
        # lupa calls and is called where Lua's own interface cannot be had.
        self._direct = direct = connect(self._lua, library, host)
        major, minor, patch = map(int, version.split("."))
        given = {
            b"invoke": host.invoke,
            b"invoke_many": host.invoke_many,
            b"tick": host.tick,
            b"setresp": host.setresp,
            b"acl_check_cmd": host.acl_check_cmd,
            b"log": host.log,
            b"register": partial(_register, host, self),
            b"sha1hex": lambda text: hashlib.sha1(text).hexdigest().encode(),
            b"without_tail_calls": without_tail_calls,
            b"version": version.encode(),
            b"version_number": major << 16 | minor << 8 | patch,
            b"pattern_bytes_max": limits.SCRIPT_PATTERN_BYTES_MAX,
            b"instructions": limits.SCRIPT_INSTRUCTIONS_PER_TICK,
            b"reply_bytes_max": limits.SCRIPT_REPLY_BYTES_MAX,
            b"soft_kib": limits.SCRIPT_MEMORY_BYTES // limits.KIB,
        }
        if direct is not None:
            given |= direct.given
        load = self._lua.eval(b"function(code, name) return assert(loadstring(code, name)) end")
        # All by one name: an error tells where the script was, not where these were.
        modules = [load(_source(name), b"=sandbox") for name in _MODULES]
        for part in _PARTS:
            given[part.encode()] = load(_source(part), b"=sandbox")()
        made = load(_source("sandbox"), b"=sandbox")(self._lua.table_from(given))
        for name, module in zip(_MODULES, modules, strict=True):
            module(made[b"modules"][name.encode()], made[b"tools"])
        self._compile = made[b"compile"]
        self._run, self._run_tables = made[b"run"], made[b"run_tables"]
        self._call, self._call_tables = made[b"call"], made[b"call_tables"]
        self._load_library = made[b"load_library"]
        self.table = self._lua.table_from
        if direct is not None:
            self.table = direct.table
            direct.enter(made)
        self._memory_used = self._lua.get_memory_used
        self._memory_max_bytes = limits.SCRIPT_MEMORY_BYTES
        self._memory_idle_bytes = limits.SCRIPT_MEMORY_IDLE_BYTES

    def used(self) -> int:
        """Bytes of memory that it takes."""
        return int(self._memory_used()) if self._direct is None else self._direct.used_bytes()

    def _kept(self, function: Any) -> Any:
        """A function of Lua as it is called."""
        return function if self._direct is None else self._direct.body(function)

    def compile(self, code: bytes) -> Any:
        """A script, to be given to `run`.

        Raises:
            ScriptError: It is none.
        """
        self._require_room(4 * len(code))
        try:
            made = self._compile(code)
        except LuaError as error:
            raise ScriptError(_text(error)) from None
        if type(made) is tuple:
            raise ScriptError(made[1])
        return self._kept(made)

    def run(self, script: Any, protocol: int, given: list[bytes], key_count: int) -> Any:
        """Execute a script.

        Args:
            script: As `compile` made it.
            protocol: The version in which an answer is encoded.
            given: Keys, and then arguments.
            key_count: How many are keys.

        Returns:
            What it answered: a value of Python, `Encoded`, `Status` or `Failure`.

        Raises:
            ScriptError: It failed.
        """
        self._make_room(given)
        try:
            if self._direct is not None:
                result = self._direct.run(script, protocol, given, key_count)
            else:
                result = self._pass(self._run, self._run_tables, script, protocol, given, key_count)
        except (LuaError, OutOfMemoryError, FailedError) as error:
            raise self._failure(error) from None
        self._tidy()
        return _answer(result) if type(result) is tuple else result

    def call(self, body: Any, protocol: int, given: list[bytes], key_count: int) -> Any:
        """Execute a function of a library; otherwise as `run`."""
        self._make_room(given)
        try:
            if self._direct is not None:
                result = self._direct.call(body, protocol, given, key_count)
            else:
                result = self._pass(self._call, self._call_tables, body, protocol, given, key_count)
        except (LuaError, OutOfMemoryError, FailedError) as error:
            raise self._failure(error) from None
        self._tidy()
        return _answer(result) if type(result) is tuple else result

    def _pass(
        self,
        run: Any,
        run_tables: Any,
        code: Any,
        protocol: int,
        given: list[bytes],
        key_count: int,
    ) -> Any:
        """Have lupa call what executes a script."""
        if len(given) <= _STACK_ARGUMENTS_MAX:
            return run(code, protocol, key_count, *given)
        keys, arguments = self.table(given[:key_count]), self.table(given[key_count:])
        return run_tables(code, protocol, keys, arguments)

    def _failure(self, error: Exception) -> ScriptError:
        """What went wrong outside of a script's code."""
        if isinstance(error, LuaMemoryError | OutOfMemoryError):
            self._lua.gccollect()
            return ScriptError(b"ERR not enough memory")
        if isinstance(error, FailedError):
            return ScriptError(b"ERR " + error.args[0])
        return ScriptError(_text(error))

    def _tidy(self) -> None:
        """After a script: take back what it left, if that is much."""
        if self.used() > self._memory_idle_bytes:
            self._lua.gccollect()

    def load_library(self, code: bytes) -> None:
        """Execute a library's code, which registers its functions.

        Raises:
            ScriptError: It failed.
        """
        self._require_room(4 * len(code))
        try:
            failure = self._load_library(code)
        except LuaError as error:
            raise ScriptError(_text(error)) from None
        if failure is not None:
            raise ScriptError(failure)

    def _make_room(self, given: list[bytes]) -> None:
        """`_require_room` for a script's keys and arguments."""
        size = 64 * len(given)
        for argument in given:
            size += len(argument)
        self._require_room(size)

    def _require_room(self, size: int) -> None:
        if self.used() + size > self._memory_max_bytes:
            self._lua.gccollect()
            if self.used() + size > self._memory_max_bytes:
                raise ScriptError(b"OOM scripts of this job take more memory than they may")


def _register(
    host: Host,
    interpreter: Interpreter,
    name: bytes,
    body: Any,
    description: bytes | None,
    flags: bytes,
) -> Any:
    """`Host.register`, with a function that `Interpreter.call` takes."""
    return host.register(name, interpreter._kept(body), description, flags)


def _answer(result: tuple[Any, ...]) -> Any:
    """What a script answered that is no value as it is.

    Raises:
        ScriptError: It failed.
    """
    kind, value = result[0], result[1]
    if kind == _STATUS:
        return OK_STATUS if value == b"OK" else Status(value)
    if kind == _ENCODED:
        return Encoded(value)
    is_counted = bool(result[2])
    if kind == _ERROR_REPLY:
        return Failure(value, is_counted=is_counted)
    where = b"%b:%d" % (result[3], result[4]) if len(result) > 4 and result[3] else b""
    raise ScriptError(value, where, is_counted=is_counted)


def _text(error: Exception) -> bytes:
    """What went wrong outside of a script's code."""
    return b"ERR " + str(error).encode("utf-8", "replace")
