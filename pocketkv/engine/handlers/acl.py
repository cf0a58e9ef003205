"""ACL: the users of the client's job, what they may do, and what they were refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pocketkv.engine.acl import acl_of, put_user, remove_user
from pocketkv.engine.arguments import c_string, parse_int
from pocketkv.engine.command_table import categories, lookup, with_subcommands
from pocketkv.engine.commands import Handler, command, find_command, not_callable
from pocketkv.engine.errors import CommandError, no_permission, wrong_subcommand
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.job_terms import keep_terms
from pocketkv.engine.users import DEFAULT_USER, Denied, RuleError, Selector, User, merged_rules
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.resp.replies import OK, Reply, SetReply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_ADMIN: Final = "admin noscript loading stale"
_NO_FILE: Final = (
    b"ERR This Redis instance is not configured to use an ACL file. You may want to specify users "
    b"via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis "
    b"configuration file set) in order to store users in the Redis configuration."
)
_BAD_BITS: Final = (
    b"ERR ACL GENPASS argument must be the number of bits for the output password, a positive "
    b"number up to 4096"
)
_DEFAULT_STAYS: Final = b"ERR The 'default' user cannot be removed"
_TOKEN_STAYS: Final = (
    b"ERR the user 'default' of a job has the job's token and may do everything: make other users"
)
_BAD_NAME: Final = b"ERR Usernames can't contain spaces or null characters"
_BITS_MAX: Final = 4096
_LOG_COUNT: Final = 10

command(
    "ACL",
    arity=-2,
    flags="",
    group="server",
    since="6.0.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about users.",
)(not_callable)


def _acl(
    name: str,
    arity: int,
    summary: str,
    usage: str = "",
    *,
    since: str = "6.0.0",
    flags: str = "noscript loading stale",
    complexity: str = "O(1)",
) -> Callable[[Handler], Handler]:
    """Declare a subcommand; these are what most of them have in common."""
    return command(
        f"ACL|{name}",
        arity=arity,
        flags=flags,
        group="server",
        since=since,
        complexity=complexity,
        summary=summary,
        usage=usage,
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


# --- who there is ------------------------------------------------------------------------------


@_acl("WHOAMI", 2, "The user of this connection.")
def acl_whoami(session: Session, request: list[bytes]) -> Reply:
    """``default`` is who has the job's token."""
    return _bytes(session.user_name)


_PER_USER: Final = "O(N) where N is the number of users"


@_acl("USERS", 2, "The names of the job's users.", flags=_ADMIN, complexity=_PER_USER)
def acl_users(session: Session, request: list[bytes]) -> Reply:
    """In the order of their names."""
    return [_bytes(name) for name in sorted(acl_of(session).users)]


@_acl("LIST", 2, "The job's users, with all that they may do.", flags=_ADMIN, complexity=_PER_USER)
def acl_list(session: Session, request: list[bytes]) -> Reply:
    """A line for each, as ACL SETUSER takes it."""
    return [user.text() for _, user in sorted(acl_of(session).users.items())]


@_acl("GETUSER", 3, "What a user may do.", "username", flags=_ADMIN, complexity=_PER_USER)
def acl_getuser(session: Session, request: list[bytes]) -> Reply:
    """A map, or null."""
    user = acl_of(session).users.get(_text(request[2]))
    if user is None:
        return None
    return {
        b"flags": SetReply(user.flags()),
        b"passwords": [password.encode() for password in user.passwords],
        **_described(user.selectors[0]),
        b"selectors": [_described(selector) for selector in user.selectors[1:]],
    }


def _described(selector: Selector) -> dict[bytes, Reply]:
    return {
        b"commands": selector.commands_text(),
        b"keys": selector.keys_text(),
        b"channels": selector.channels_text(),
    }


# --- changing it -------------------------------------------------------------------------------


@_acl(
    "SETUSER",
    -3,
    "Makes a user of the job, or changes what one may do.",
    "username [rule [rule ...]]",
    flags=_ADMIN,
    complexity="O(N) where N is the number of rules",
)
def acl_setuser(session: Session, request: list[bytes]) -> Reply:
    """All rules, or none if one is wrong."""
    name = _text(request[2])
    if any(c in request[2] for c in b" \0\t\n\r") or not name:
        raise CommandError(_BAD_NAME)
    if name == DEFAULT_USER:
        _check_default(session)
    try:
        rules = merged_rules(request[3:])
    except RuleError as error:
        raise CommandError(
            b"ERR Unmatched parenthesis in acl selector starting at '%b'." % c_string(error.reason)
        ) from None
    acl = acl_of(session)
    known = acl.users.get(name)
    changed = User(name) if known is None else known.copy()
    fresh = session.node.settings.acl_pubsub_default
    if known is None:
        changed.apply(fresh)
    for rule in rules:
        try:
            changed.apply(rule)
        except RuleError as error:
            raise CommandError(
                b"ERR Error in ACL SETUSER modifier '%b': %b" % (c_string(rule), error.reason)
            ) from None
    if session.node.term_keeper is not None:
        return keep_terms(session, [b"MEMBER.SETUSER", request[2], fresh, *rules], OK)
    put_user(session.node, session.job_id, acl, changed)
    return OK


def _check_default(session: Session) -> None:
    """Refuse to change the user that needs no name, where others rely on it."""
    node = session.node
    if node.alone:
        return
    if session.job_id != DEFAULT_JOB_ID:
        raise CommandError(_TOKEN_STAYS)
    if not session.may_administer:
        raise no_permission("acl|setuser")


@_acl(
    "DELUSER",
    -3,
    "Removes users of the job, and closes their connections.",
    "username [username ...]",
    flags=_ADMIN,
    complexity="O(N) where N is the number of connections",
)
def acl_deluser(session: Session, request: list[bytes]) -> Reply:
    """How many there were."""
    acl = acl_of(session)
    names = dict.fromkeys(_text(name) for name in request[2:])
    if DEFAULT_USER in names:
        raise CommandError(_DEFAULT_STAYS)
    if session.node.term_keeper is not None:
        there = [_bytes(name) for name in names if name in acl.users]
        return keep_terms(session, [b"MEMBER.DELUSER", *there], len(there)) if there else 0
    node, job_id = session.node, session.job_id
    return sum(remove_user(node, job_id, acl, name, session) for name in names)


@_acl("LOAD", 2, "Reads users from a file; there is none.", flags=_ADMIN)
def acl_load(session: Session, request: list[bytes]) -> Reply:
    """Users are kept with the job, or on a server alone for as long as it runs."""
    raise CommandError(_NO_FILE)


@_acl("SAVE", 2, "Writes users to a file; there is none.", flags=_ADMIN)
def acl_save(session: Session, request: list[bytes]) -> Reply:
    """Users are kept with the job, or on a server alone for as long as it runs."""
    raise CommandError(_NO_FILE)


# --- asking ------------------------------------------------------------------------------------


@_acl("CAT", -2, "The categories of commands, or the commands of one.", "[category]")
def acl_cat(session: Session, request: list[bytes]) -> Reply:
    """Names, in no order."""
    if len(request) > 3:
        raise wrong_subcommand("acl", request[1])
    if len(request) == 2:
        return [name.encode() for name in _CATEGORIES]
    wanted = _text(request[2]).lower()
    if wanted not in _CATEGORIES:
        raise CommandError(b"ERR Unknown category '%b'" % c_string(request[2]))
    return [r.name.encode() for r in with_subcommands() if wanted in categories(r)]


_CATEGORIES: Final = (
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
)


@_acl("GENPASS", -2, "A password that nobody guesses.", "[bits]")
def acl_genpass(session: Session, request: list[bytes]) -> Reply:
    """Hexadecimal digits, of 256 bits unless told otherwise."""
    if len(request) > 3:
        raise wrong_subcommand("acl", request[1])
    bits = 256
    if len(request) == 3:
        bits = parse_int(request[2])
        if not 1 <= bits <= _BITS_MAX:
            raise CommandError(_BAD_BITS)
    digits = (bits + 3) // 4
    return session.node.entropy((digits + 1) // 2).hex()[:digits].encode()


@_acl(
    "DRYRUN",
    -4,
    "Whether a user may do something, without doing it.",
    "username command [arg [arg ...]]",
    since="7.0.0",
    flags=_ADMIN,
)
def acl_dryrun(session: Session, request: list[bytes]) -> Reply:
    """OK, or why not."""
    user = acl_of(session).users.get(_text(request[2]))
    if user is None:
        raise CommandError(b"ERR User '%b' not found" % c_string(request[2]))
    inner = request[3:]
    if lookup(inner[0]) is None:
        raise CommandError(b"ERR Command '%b' not found" % c_string(inner[0]))
    record = find_command(inner)
    reason, what = user.denial(record, inner)
    if reason is Denied.NO:
        return OK
    if reason is Denied.COMMAND:
        return b"This user has no permissions to run the '%b' command" % what
    kind = b"key" if reason is Denied.KEY else b"channel"
    return b"This user has no permissions to access the '%b' %b" % (what, kind)


@_acl("LOG", -2, "What users were refused, or forgets it.", "[count | RESET]", flags=_ADMIN)
def acl_log(session: Session, request: list[bytes]) -> Reply:
    """A map for each, the newest first."""
    if len(request) > 3:
        raise wrong_subcommand("acl", request[1])
    acl = acl_of(session)
    count = _LOG_COUNT
    if len(request) == 3:
        if request[2].upper() == b"RESET":
            acl.refusals.clear()
            return OK
        count = max(0, parse_int(request[2]))
    now_ms = session.node.clock.now_ms
    return [entry.shown(now_ms) for entry in list(acl.refusals)[:count]]


@_acl("HELP", 2, "What subcommands there are.", flags="loading stale")
def acl_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"acl")
