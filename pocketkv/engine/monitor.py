"""MONITOR: clients that are shown every command of their job, or of all jobs if they administer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.stats import shown
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import Encoded, Push, Simple

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command
    from pocketkv.engine.session import Session

# Spellings of single bytes in quotes, as C has them.
_ESCAPES: Final = {
    ord("\\"): b"\\\\",
    ord('"'): b'\\"',
    ord("\n"): b"\\n",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord("\a"): b"\\a",
    ord("\b"): b"\\b",
}
_SPELLINGS: Final = [
    _ESCAPES.get(byte, b"%c" % byte if 32 <= byte < 127 else b"\\x%02x" % byte)
    for byte in range(256)
]


def quoted(text: bytes) -> bytes:
    """`text` as Redis shows bytes: in quotes, what cannot be printed by number."""
    return b'"' + b"".join([_SPELLINGS[byte] for byte in bytes(text)]) + b'"'


def show_end(session: Session, command: Command, request: list[bytes]) -> None:
    """Show a command that is shown after what it executes: EXEC."""
    if session.node.monitors and not session.proxied:
        _send(session, command, request, b"")


def show(session: Session, command: Command, request: list[bytes], source: bytes = b"") -> None:
    """Show a command that is about to be executed to whoever may see it.

    Args:
        session: Whose command it is.
        command: Its record; what administers is not shown.
        request: Its arguments.
        source: What is shown in place of the client's address: ``lua``, for a script.
    """
    if "admin" in command.flags or command.name == "exec":
        return
    # What clients of a router ask, the router shows; it does not know what their scripts call.
    if not session.proxied or source:
        _send(session, command, request, source)


def _send(session: Session, command: Command, request: list[bytes], source: bytes) -> None:
    job_id = session.job_id
    line: Encoded | None = None
    for monitor in session.node.monitors:
        if monitor.job_id != job_id and not monitor.admin:
            continue
        if monitor.proxied != session.proxied:
            continue
        if monitor is session and command.name == "reset":
            # It is shown nothing any more when this is done.
            continue
        if line is None:
            line = _line(session, shown(command, request), source)
            if session.proxied:
                # A router tells a line from a reply.
                line = Encoded(encode_reply(Push([b"monitor", line.raw[1:-2]]), 3))
        monitor.transport.push(line)


def _line(session: Session, request: list[bytes], source: bytes) -> Encoded:
    now_ms = session.node.clock.now_ms
    words = b" ".join([quoted(argument) for argument in request])
    source = source or session.address.encode()
    text = b"%d.%06d [%d %b] %b" % (
        now_ms // 1000,
        now_ms % 1000 * 1000,
        session.db.index,
        source,
        words,
    )
    return Encoded(encode_reply(Simple(text), 2))


def start(session: Session) -> bool:
    """Show a client what is asked from now on; false if it is shown already."""
    if session.monitoring:
        return False
    session.monitoring = True
    session.node.monitors.append(session)
    return True
