"""Functions: FCALL, FUNCTION."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import Handler, KeySpec, Merge, Route, command, not_callable
from pocketkv.engine.errors import CommandError, wrong_subcommand
from pocketkv.engine.functions import ENGINE, NO_FUNCTION, Libraries, Library
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.scripts import check_key_count, script_keys, subcommand_of
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.rdb.dumps import sealed
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.loads import FOOTER_BYTES, is_intact
from pocketkv.engine.rdb.reader import Reader
from pocketkv.engine.rdb.writer import Writer
from pocketkv.engine.scripts import scripts_of
from pocketkv.resp.replies import OK, Reply, SetReply, Simple

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_BAD_KEY_COUNT: Final = b"ERR Bad number of keys provided"
_BAD_FLUSH: Final = b"ERR FUNCTION FLUSH only supports SYNC|ASYNC option"
_NO_PATTERN: Final = b"ERR library name argument was not given"
_BAD_POLICY: Final = (
    b"ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE."
)
_NOT_INTACT: Final = b"ERR DUMP payload version or checksum are wrong"
_NO_FUNCTIONS: Final = b"ERR given type is not a function"
_NOT_LOADED: Final = b"ERR failed loading the given functions payload"
# What stands before each library in a dump.
_FUNCTION_KIND: Final = 245
_EVAL_FLAGS: Final = "noscript stale skip_monitor no_mandatory_keys"
_TO_ALL: Final = "request_policy:all_shards response_policy:all_succeeded"


def libraries_of(session: Session) -> Libraries:
    """The libraries of a client's job."""
    scripts = scripts_of(session)
    if scripts.libraries is None:
        scripts.libraries = Libraries(scripts)
    return scripts.libraries


def _fcall(name: str, summary: str, *, flags: str, access: str) -> Callable[[Handler], Handler]:
    return command(
        name,
        arity=-3,
        flags=flags,
        categories="scripting",
        group="scripting",
        since="7.0.0",
        complexity="Depends on the function that is executed.",
        summary=summary,
        usage="function numkeys [key [key ...]] [arg [arg ...]]",
        keys=KeySpec(find=script_keys),
        key_flags=f"{access} @2 keynum 0 1 1",
    )


def _call(session: Session, request: list[bytes], *, reads_only: bool) -> Reply:
    function = libraries_of(session).functions.get(request[1].lower())
    if function is None:
        raise CommandError(NO_FUNCTION)
    check_key_count(request, _BAD_KEY_COUNT)
    return scripts_of(session).fcall(
        session, request, function.name, function.body, function.flags, reads_only=reads_only
    )


@_fcall(
    "FCALL",
    "Executes a function of a library.",
    flags=_EVAL_FLAGS,
    access="RW access update",
)
def fcall(session: Session, request: list[bytes]) -> Reply:
    """What the function returns."""
    return _call(session, request, reads_only=False)


@_fcall(
    "FCALL_RO",
    "Executes a function that changes nothing.",
    flags="readonly " + _EVAL_FLAGS,
    access="RO access",
)
def fcall_ro(session: Session, request: list[bytes]) -> Reply:
    """As FCALL, of functions that say so."""
    return _call(session, request, reads_only=True)


# --- FUNCTION ----------------------------------------------------------------------------------

command(
    "FUNCTION",
    arity=-2,
    flags="",
    group="scripting",
    since="7.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about functions.",
)(not_callable)


_function = partial(subcommand_of, "FUNCTION", since="7.0.0")


@_function(
    "LOAD",
    -3,
    "Loads a library.",
    "[REPLACE] function-code",
    flags="write denyoom noscript",
    complexity="O(1) (considering compilation time is redundant)",
    route=Route.ALL,
    tips=_TO_ALL,
)
def function_load(session: Session, request: list[bytes]) -> Reply:
    """Its name."""
    for option in request[2:-1]:
        if option.upper() != b"REPLACE":
            raise CommandError(b"ERR Unknown option given: " + option)
    return libraries_of(session).load(request[-1], replaces=len(request) > 3)


@_function(
    "DELETE",
    3,
    "Forgets a library.",
    "library-name",
    flags="write noscript",
    route=Route.ALL,
    merge=Merge.OK,
    tips=_TO_ALL,
)
def function_delete(session: Session, request: list[bytes]) -> Reply:
    """With all of its functions."""
    libraries_of(session).delete(request[2])
    return OK


@_function(
    "FLUSH",
    -2,
    "Forgets all libraries.",
    "[ASYNC | SYNC]",
    flags="write noscript",
    complexity="O(N) where N is the number of functions deleted",
    route=Route.ALL,
    merge=Merge.OK,
    tips=_TO_ALL,
)
def function_flush(session: Session, request: list[bytes]) -> Reply:
    """Scripts stay."""
    if len(request) > 3:
        raise wrong_subcommand("function", request[1])
    if len(request) == 3 and request[2].upper() not in {b"ASYNC", b"SYNC"}:
        raise CommandError(_BAD_FLUSH)
    libraries_of(session).clear()
    return OK


@_function(
    "LIST",
    -2,
    "The libraries and their functions.",
    "[LIBRARYNAME library-name-pattern] [WITHCODE]",
    complexity="O(N) where N is the number of functions",
    tips="nondeterministic_output_order",
)
def function_list(session: Session, request: list[bytes]) -> Reply:
    """A map for each."""
    pattern: bytes | None = None
    with_code = False
    i = 2
    while i < len(request):
        option = request[i].upper()
        if option == b"WITHCODE" and not with_code:
            with_code = True
        elif option == b"LIBRARYNAME" and pattern is None:
            i += 1
            if i == len(request):
                raise CommandError(_NO_PATTERN)
            pattern = request[i]
        else:
            raise CommandError(b"ERR Unknown argument " + request[i])
        i += 1
    found = libraries_of(session).matching(pattern)
    return [_describe(library, with_code=with_code) for library in found]


def _describe(library: Library, *, with_code: bool) -> Reply:
    functions: list[Reply] = [
        {
            b"name": function.name,
            b"description": function.description,
            b"flags": SetReply([Simple(name) for name in function.flags.names()]),
        }
        for function in library.functions.values()
    ]
    described: dict[bytes, Reply] = {
        b"library_name": library.name,
        b"engine": ENGINE,
        b"functions": functions,
    }
    if with_code:
        described[b"library_code"] = library.code
    return described


@_function(
    "DUMP",
    2,
    "All libraries in Redis's form of stored data.",
    complexity="O(N) where N is the number of functions",
)
def function_dump(session: Session, request: list[bytes]) -> Reply:
    """What FUNCTION RESTORE takes, here or at a Redis server."""
    writer = Writer()
    for library in libraries_of(session).by_name.values():
        writer.byte(_FUNCTION_KIND)
        writer.string(library.code)
    return sealed(writer)


@_function(
    "RESTORE",
    -3,
    "Loads the libraries that FUNCTION DUMP gave.",
    "serialized-value [FLUSH | APPEND | REPLACE]",
    flags="write denyoom noscript",
    complexity="O(N) where N is the number of functions on the payload",
    route=Route.ALL,
    merge=Merge.OK,
    tips=_TO_ALL,
)
def function_restore(session: Session, request: list[bytes]) -> Reply:
    """All of them, or an error and none."""
    policy = request[3].upper() if len(request) > 3 else b"APPEND"
    if len(request) > 4:
        raise wrong_subcommand("function", request[1])
    if policy not in {b"FLUSH", b"APPEND", b"REPLACE"}:
        raise CommandError(_BAD_POLICY)
    codes = _dumped(session, request[2])
    libraries_of(session).restore(codes, flushes=policy == b"FLUSH", replaces=policy == b"REPLACE")
    return OK


def _dumped(session: Session, payload: bytes) -> list[bytes]:
    """The code of each library of a dump."""
    if not is_intact(payload):
        raise CommandError(_NOT_INTACT)
    reader = Reader(payload[:-FOOTER_BYTES], lambda size: require_memory(session, size))
    codes = []
    try:
        while reader.left:
            if reader.byte() != _FUNCTION_KIND:
                raise CommandError(_NO_FUNCTIONS)
            codes.append(reader.string())
    except RdbError:
        raise CommandError(_NOT_LOADED) from None
    return codes


@_function(
    "STATS",
    2,
    "The function that is executed, and how many there are.",
    flags="noscript allow_busy",
    tips="nondeterministic_output request_policy:all_shards response_policy:special",
)
def function_stats(session: Session, request: list[bytes]) -> Reply:
    """A map."""
    scripts = scripts_of(session)
    run = scripts.run
    running: Reply = None
    if run is not None:
        running = {
            b"name": run.name,
            b"command": list(run.request),
            b"duration_ms": run.long_run.duration_ms,
        }
    libraries = scripts.libraries
    counts: Reply = {
        b"libraries_count": 0 if libraries is None else len(libraries.by_name),
        b"functions_count": 0 if libraries is None else len(libraries.functions),
    }
    return {b"running_script": running, b"engines": {ENGINE: counts}}


@_function(
    "KILL",
    2,
    "Ends the function that is executed, unless it has changed something.",
    flags="noscript allow_busy",
    route=Route.ALL,
    tips="request_policy:all_shards response_policy:one_succeeded",
)
def function_kill(session: Session, request: list[bytes]) -> Reply:
    """NOTBUSY, if there is none."""
    scripts_of(session).kill(is_function=True)
    return OK


@_function("HELP", 2, "What subcommands there are.", flags="loading stale")
def function_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"function")
