"""One job's libraries of functions: FUNCTION LOAD, LIST, DELETE, and what FCALL finds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.arguments import Glob
from pocketkv.engine.errors import CommandError
from pocketkv.engine.script_flags import Flags
from pocketkv.lua.interpreter import ScriptError
from pocketkv.resp.parser import split_words

if TYPE_CHECKING:
    from pocketkv.engine.scripts import Scripts

ENGINE: Final = b"LUA"
_NAME: Final = re.compile(rb"[A-Za-z0-9_]+\Z")
_BAD_NAME: Final = (
    b"ERR Library names can only contain letters, numbers, or underscores(_) and must be at "
    b"least one character long"
)
NO_LIBRARY: Final = b"ERR Library not found"
NO_FUNCTION: Final = b"ERR Function not found"


class Function:
    """A function of a library."""

    __slots__ = ("body", "description", "flags", "library", "name")

    def __init__(
        self, library: Library, name: bytes, body: Any, description: bytes | None, flags: Flags
    ) -> None:
        self.library = library
        self.name = name
        self.body = body
        self.description = description
        self.flags = flags


class Library:
    """A library that is loaded."""

    __slots__ = ("code", "functions", "name")

    def __init__(self, name: bytes, code: bytes) -> None:
        self.name = name
        self.code = code
        self.functions: dict[bytes, Function] = {}

    def register(
        self, name: bytes, body: Any, description: bytes | None, words: list[bytes]
    ) -> None:
        """Take in a function, while the library is loaded.

        Raises:
            CommandError: Its name is none or taken, or a flag is unknown.
        """
        if not _NAME.match(name):
            raise CommandError(_BAD_NAME)
        if name in self.functions:
            raise CommandError(b"ERR Function already exists in the library")
        # A function may do only what it says it does.
        flags = Flags(is_declared=True)
        for word in words:
            if not flags.add(word):
                raise CommandError(b"ERR unknown flag given")
        self.functions[name] = Function(self, name, body, description, flags)


class Libraries:
    """All libraries of one job.

    Attributes:
        by_name: The libraries.
        functions: Those of all of them, by name in lower case.
        version: Goes up with each change.
    """

    __slots__ = ("_scripts", "by_name", "functions", "version")

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self.by_name: dict[bytes, Library] = {}
        self.functions: dict[bytes, Function] = {}
        self.version = 0

    def load(self, code: bytes, *, replaces: bool) -> bytes:
        """Load a library; its name.

        Raises:
            CommandError: It is none, it fails, or something of its name is there.
        """
        library = Library(*_parse_metadata(code))
        old = self.by_name.get(library.name)
        if old is not None and not replaces:
            raise CommandError(b"ERR Library '%b' already exists" % library.name)
        self._execute(library)
        self._check_names(library, old)
        self._add(library, old)
        return library.name

    def _execute(self, library: Library) -> None:
        """Have a library's code register its functions."""
        scripts = self._scripts
        # Made before the time counts, if it is the first one.
        interpreter = scripts.interpreter()
        calls = scripts.calls
        calls.registry = library.register
        calls.load_until_ns = scripts.node.stopwatch.now_ns() + limits.LIBRARY_LOAD_MS * 1_000_000
        try:
            interpreter.load_library(_without_first_line(library.code))
        except ScriptError as error:
            raise CommandError(error.text) from None
        finally:
            calls.registry = None
            calls.load_until_ns = 0
            calls.raise_defect()
        if not library.functions:
            raise CommandError(b"ERR No functions registered")

    def _check_names(self, library: Library, old: Library | None) -> None:
        for name in library.functions:
            taken = self.functions.get(name.lower())
            if taken is not None and taken.library is not old:
                raise CommandError(b"ERR Function %b already exists" % name)

    def _add(self, library: Library, old: Library | None) -> None:
        if old is not None:
            self._remove(old)
        self.by_name[library.name] = library
        self.functions |= {name.lower(): one for name, one in library.functions.items()}
        self.version += 1

    def _remove(self, library: Library) -> None:
        del self.by_name[library.name]
        for name in library.functions:
            del self.functions[name.lower()]
        self.version += 1

    def delete(self, name: bytes) -> None:
        """Forget a library.

        Raises:
            CommandError: There is none of this name.
        """
        library = self.by_name.get(name)
        if library is None:
            raise CommandError(NO_LIBRARY)
        self._remove(library)

    def restore(self, codes: list[bytes], *, flushes: bool, replaces: bool) -> None:
        """Load several libraries, or none of them.

        Raises:
            CommandError: As `load`.
        """
        after = Libraries(self._scripts)
        if not flushes:
            after.by_name = dict(self.by_name)
            after.functions = dict(self.functions)
        for code in codes:
            name, _ = _parse_metadata(code)
            if name in after.by_name and not replaces:
                # In other words than `load` has for it, as Redis.
                raise CommandError(b"ERR Library %b already exists" % name)
            after.load(code, replaces=replaces)
        self.by_name = after.by_name
        self.functions = after.functions
        self.version += 1

    def clear(self) -> None:
        """Forget all libraries."""
        self.by_name.clear()
        self.functions.clear()
        self.version += 1

    def matching(self, pattern: bytes | None) -> list[Library]:
        """The libraries whose names fit a pattern."""
        if pattern is None:
            return list(self.by_name.values())
        # In any case of letters, as Redis.
        glob = Glob(pattern.lower())
        return [one for one in self.by_name.values() if glob.matches(one.name.lower())]


def _parse_metadata(code: bytes) -> tuple[bytes, bytes]:
    """A library's name, and its code.

    Raises:
        CommandError: The first line does not tell.
    """
    if not code.startswith(b"#!"):
        raise CommandError(b"ERR Missing library metadata")
    line, newline, _ = code.partition(b"\n")
    if not newline:
        raise CommandError(b"ERR Invalid library metadata")
    words = split_words(line)
    if not words:
        raise CommandError(b"ERR Invalid library metadata")
    engine = words[0][2:]
    name: bytes | None = None
    for word in words[1:]:
        if not word.lower().startswith(b"name="):
            raise CommandError(b"ERR Invalid metadata value given: " + word)
        if name is not None:
            raise CommandError(
                b"ERR Invalid metadata value, name argument was given multiple times"
            )
        name = word[len(b"name=") :]
    if name is None:
        raise CommandError(b"ERR Library name was not given")
    if not _NAME.match(name):
        raise CommandError(_BAD_NAME)
    if engine.upper() != ENGINE:
        raise CommandError(b"ERR Engine '%b' not found" % engine)
    return name, code


def _without_first_line(code: bytes) -> bytes:
    return code[code.index(b"\n") :]
