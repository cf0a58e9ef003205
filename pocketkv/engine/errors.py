"""Errors that commands answer with: one exception, and Redis's texts as constants.

A text begins with its code (``ERR``, ``WRONGTYPE`` ...), since clients match on it.
"""

from __future__ import annotations

import errno
from typing import Final

from pocketkv.resp.replies import ErrorReply


class CommandError(Exception):
    """The command is refused; `text` is the whole error line without its leading ``-``."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


# The medium is full, or this user's share of it.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

WRONG_TYPE: Final = b"WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX: Final = b"ERR syntax error"
NOT_INTEGER: Final = b"ERR value is not an integer or out of range"
NOT_FLOAT: Final = b"ERR value is not a valid float"
NO_SUCH_KEY: Final = b"ERR no such key"
OVERFLOW: Final = b"ERR increment or decrement would overflow"
NAN_OR_INFINITY: Final = b"ERR increment would produce NaN or Infinity"
STRING_TOO_LONG: Final = b"ERR string exceeds maximum allowed size (proto-max-bulk-len)"
OFFSET_OUT_OF_RANGE: Final = b"ERR offset is out of range"
INDEX_OUT_OF_RANGE: Final = b"ERR index out of range"
DB_OUT_OF_RANGE: Final = b"ERR DB index is out of range"
INVALID_DB: Final = b"ERR invalid DB index"
INVALID_CURSOR: Final = b"ERR invalid cursor"
NOT_POSITIVE: Final = b"ERR value is out of range, must be positive"
OUT_OF_MEMORY: Final = b"OOM command not allowed when used memory > 'maxmemory'."
CAPACITY_USED: Final = b"OOM the capacity that this server was given is used"
# Between a code and what the system says.
NO_WRITES: Final = b"the medium takes no writes: "
NO_AUTH: Final = b"NOAUTH Authentication required."
NO_MAP: Final = b"CLUSTERDOWN The router has no map yet: it has not reached the controller"
WRONG_PASS: Final = b"WRONGPASS invalid username-password pair or user is disabled."
CROSS_SLOT: Final = b"CROSSSLOT Keys in request don't hash to the same slot"
SLOTS_MOVED: Final = b"TRYAGAIN slots of the job came or went: ask for its map first"
SLOTS_HELD: Final = b"TRYAGAIN slots are about to go to another server"
BUSY: Final = b"BUSY what the slots held before is being removed"
CLUSTER_DOWN: Final = b"CLUSTERDOWN Hash slot not served"
SPEAKS_NO_HTTP: Final = b"ERR this port speaks the Redis protocol, not HTTP: closing the connection"
NO_REPLICAS: Final = b"NOREPLICAS Not enough good replicas to write."
JOB_ENDED: Final = (
    b"ERR this job has ended: what it retained can be read, and deleted by JOB.PURGE, not changed"
)
NO_PROTO: Final = b"NOPROTO unsupported protocol version"


def write_refusal(error: OSError) -> ErrorReply:
    """The answer to a write that the medium did not take, with the system's reason."""
    reason = (error.strerror or str(error)).encode()
    code = b"OOM" if error.errno in _NO_ROOM else b"IOERR"
    return ErrorReply(code + b" " + NO_WRITES + reason)


def discarded_because(text: bytes) -> bytes:
    """The error of an EXEC of which nothing was executed because of an error."""
    reason = text[4:] if text.startswith(b"ERR ") else text
    return b"EXECABORT Transaction discarded because of: " + reason


def wrong_arity(name: str) -> CommandError:
    """The refusal of a wrong number of arguments; `name` as in the record (``client|id``)."""
    return CommandError(b"ERR wrong number of arguments for '%b' command" % name.encode())


def no_permission(name: str) -> CommandError:
    """The refusal of a command that takes an administrator; `name` as in the record."""
    return CommandError(
        b"NOPERM this user has no permissions to run the '%b' command" % name.encode()
    )


def invalid_expire(name: str) -> CommandError:
    """The refusal of an expiry that is zero, negative, or overflows."""
    return CommandError(b"ERR invalid expire time in '%b' command" % name.encode())


def _shown(text: bytes, length_max: int = 128) -> bytes:
    """The beginning of what a client sent, as C shows it: up to its first NUL."""
    return text[:length_max].split(b"\0", 1)[0]


def unknown_command(request: list[bytes]) -> CommandError:
    """Redis's refusal of an unknown command, with the beginning of its arguments."""
    shown = b""
    for argument in request[1:]:
        if len(shown) >= 128:
            break
        shown += b"'%b' " % _shown(argument, 128 - len(shown))
    return CommandError(
        b"ERR unknown command '%b', with args beginning with: %b" % (_shown(request[0]), shown)
    )


def unknown_subcommand(container: str, subcommand: bytes) -> CommandError:
    """Redis's refusal of an unknown subcommand."""
    if container == "debug":
        # No container in Redis: its handler reads the subcommand, and says it in other words.
        return wrong_subcommand(container, subcommand)
    return CommandError(
        b"ERR unknown subcommand '%b'. Try %b HELP."
        % (_shown(subcommand), container.upper().encode())
    )


def wrong_subcommand(container: str, subcommand: bytes) -> CommandError:
    """The refusal by a handler that reads its subcommand itself."""
    return CommandError(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
        % (_shown(subcommand), container.upper().encode())
    )
