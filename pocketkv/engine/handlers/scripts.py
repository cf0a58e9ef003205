"""Scripts: EVAL and its like, SCRIPT."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.commands import Handler, KeySpec, Merge, Route, command, not_callable
from pocketkv.engine.errors import NOT_INTEGER, CommandError
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.scripts import NO_SCRIPT, Script, Scripts, scripts_of
from pocketkv.resp.replies import OK, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_TOO_MANY_KEYS: Final = b"ERR Number of keys can't be greater than number of args"
_NEGATIVE_KEYS: Final = b"ERR Number of keys can't be negative"
_BAD_FLUSH: Final = b"ERR SCRIPT FLUSH only support SYNC|ASYNC option"
_BAD_DEBUG: Final = b"ERR Use SCRIPT DEBUG YES/SYNC/NO"
_NO_DEBUGGER: Final = b"ERR this server has no debugger of scripts"
_SHA_LENGTH: Final = 40
_EVAL_FLAGS: Final = "noscript stale skip_monitor no_mandatory_keys"


def script_keys(request: list[bytes]) -> list[int]:
    """The positions of a script's keys, which follow their number; none if that is wrong."""
    count = canonical_integer(request[2])
    if count is None or not 0 <= count <= len(request) - 3:
        return []
    return list(range(3, 3 + count))


def check_key_count(request: list[bytes], not_integer: bytes = NOT_INTEGER) -> None:
    """Refuse a wrong number of keys.

    Raises:
        CommandError: It is none, negative, or more than there are arguments.
    """
    count = canonical_integer(request[2])
    if count is None:
        raise CommandError(not_integer)
    if count > len(request) - 3:
        raise CommandError(_TOO_MANY_KEYS)
    if count < 0:
        raise CommandError(_NEGATIVE_KEYS)


def _eval(
    name: str, usage: str, summary: str, *, since: str, flags: str = _EVAL_FLAGS
) -> Callable[[Handler], Handler]:
    """Declare a command that executes a script."""
    access = "RO access" if "readonly" in flags else "RW access update"
    return command(
        name,
        arity=-3,
        flags=flags,
        categories="scripting",
        group="scripting",
        since=since,
        complexity="Depends on the script that is executed.",
        summary=summary,
        usage=f"{usage} numkeys [key [key ...]] [arg [arg ...]]",
        keys=KeySpec(find=script_keys),
        key_flags=f"{access} @2 keynum 0 1 1",
    )


@_eval("EVAL", "script", "Executes a script in Lua.", since="2.6.0")
def eval_(session: Session, request: list[bytes]) -> Reply:
    """What the script returns."""
    check_key_count(request)
    scripts = scripts_of(session)
    script = scripts.load(request[1])
    return scripts.eval(session, request, script, False)


@_eval(
    "EVAL_RO",
    "script",
    "Executes a script in Lua that changes nothing.",
    since="7.0.0",
    flags="readonly " + _EVAL_FLAGS,
)
def eval_ro(session: Session, request: list[bytes]) -> Reply:
    """As EVAL, but writes are refused."""
    check_key_count(request)
    scripts = scripts_of(session)
    script = scripts.load(request[1])
    return scripts.eval(session, request, script, True)


@_eval("EVALSHA", "sha1", "Executes a script that is loaded, by its SHA1.", since="2.6.0")
def evalsha(session: Session, request: list[bytes]) -> Reply:
    """As EVAL, or NOSCRIPT."""
    scripts = scripts_of(session)
    script = _find(scripts, request)
    return scripts.eval(session, request, script, False)


@_eval(
    "EVALSHA_RO",
    "sha1",
    "Executes a script that is loaded and changes nothing, by its SHA1.",
    since="7.0.0",
    flags="readonly " + _EVAL_FLAGS,
)
def evalsha_ro(session: Session, request: list[bytes]) -> Reply:
    """As EVALSHA, but writes are refused."""
    scripts = scripts_of(session)
    script = _find(scripts, request)
    return scripts.eval(session, request, script, True)


def _find(scripts: Scripts, request: list[bytes]) -> Script:
    """The script that EVALSHA means; what is wrong is told in Redis's order."""
    if len(request[1]) != _SHA_LENGTH:
        raise CommandError(NO_SCRIPT)
    check_key_count(request)
    return scripts.find(request[1])


# --- SCRIPT ------------------------------------------------------------------------------------

command(
    "SCRIPT",
    arity=-2,
    flags="",
    group="scripting",
    since="2.6.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about scripts.",
)(not_callable)


def subcommand_of(
    container: str,
    name: str,
    arity: int,
    summary: str,
    usage: str = "",
    *,
    since: str,
    flags: str = "noscript",
    complexity: str = "O(1)",
    route: Route = Route.NODE,
    merge: Merge = Merge.NONE,
    tips: str = "",
) -> Callable[[Handler], Handler]:
    """Declare a subcommand of SCRIPT or FUNCTION."""
    return command(
        f"{container}|{name}",
        arity=arity,
        flags=flags,
        categories="scripting",
        group="scripting",
        since=since,
        complexity=complexity,
        summary=summary,
        usage=usage,
        route=route,
        merge=merge,
        tips=tips,
    )


_script = partial(subcommand_of, "SCRIPT", since="2.6.0")


@_script(
    "LOAD",
    3,
    "Loads a script without executing it.",
    "script",
    flags="noscript stale",
    complexity="O(N) with N being the length in bytes of the script body.",
    route=Route.ALL,
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def script_load(session: Session, request: list[bytes]) -> Reply:
    """Its SHA1, by which EVALSHA finds it."""
    return scripts_of(session).keep(request[2]).sha


@_script(
    "EXISTS",
    -3,
    "Which scripts are loaded.",
    "sha1 [sha1 ...]",
    complexity="O(N) with N being the number of scripts to check.",
    route=Route.ALL,
    tips="request_policy:all_shards response_policy:agg_logical_and",
)
def script_exists(session: Session, request: list[bytes]) -> Reply:
    """1 or 0 for each."""
    scripts: Scripts = scripts_of(session)
    return [int(sha.lower() in scripts.known) for sha in request[2:]]


@_script(
    "FLUSH",
    -2,
    "Forgets all scripts.",
    "[ASYNC | SYNC]",
    complexity="O(N) with N being the number of scripts in cache",
    route=Route.ALL,
    merge=Merge.OK,
    tips="request_policy:all_nodes response_policy:all_succeeded",
)
def script_flush(session: Session, request: list[bytes]) -> Reply:
    """Functions stay."""
    if len(request) > 3 or (len(request) == 3 and request[2].upper() not in {b"ASYNC", b"SYNC"}):
        raise CommandError(_BAD_FLUSH)
    scripts_of(session).flush()
    return OK


@_script(
    "KILL",
    2,
    "Ends the script that is executed, unless it has changed something.",
    flags="noscript allow_busy",
    route=Route.ALL,
    tips="request_policy:all_shards response_policy:one_succeeded",
)
def script_kill(session: Session, request: list[bytes]) -> Reply:
    """NOTBUSY, if there is none."""
    scripts_of(session).kill(is_function=False)
    return OK


@_script(
    "DEBUG",
    3,
    "Begins or ends debugging, which there is none of.",
    "<YES | SYNC | NO>",
    since="3.2.0",
)
def script_debug(session: Session, request: list[bytes]) -> Reply:
    """NO is always in force."""
    mode = request[2].upper()
    if mode in {b"YES", b"SYNC"}:
        raise CommandError(_NO_DEBUGGER)
    if mode != b"NO":
        raise CommandError(_BAD_DEBUG)
    return OK


@_script("HELP", 2, "What subcommands there are.", since="5.0.0", flags="loading stale")
def script_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"script")
