"""Child processes that are servers of our own: how they are started, watched and ended.

Secrets go through the environment, which only the same user can read, never through arguments.
Every child is in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone,
and inherits the lifeline: a pipe that nobody ever writes, whose writing end only the supervisor
has. When the supervisor is gone, however that came about, the pipe ends, and so do they.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from pocketkv.serving.shell import LIFELINE_VARIABLE

SECRET_VARIABLE: Final = "POCKETKV_SECRET"
ADMIN_PASSWORD_VARIABLE: Final = "POCKETKV_ADMIN_PASSWORD"
# A listening socket that is inherited, so that connections wait while a process is replaced.
LISTENER_VARIABLE: Final = "POCKETKV_LISTEN_FD"
# What the supervisor has the controller run: `LocalPlan` as JSON.
LOCAL_VARIABLE: Final = "POCKETKV_LOCAL"
_OUR_VARIABLES: Final = "POCKETKV_"


def lifeline_fd(environ: Mapping[str, str]) -> int | None:
    """Return the descriptor of the inherited lifeline, None if there is none."""
    text = environ.get(LIFELINE_VARIABLE, "")
    return int(text) if text.isdigit() else None


def child_environment(environ: Mapping[str, str], **variables: str | None) -> dict[str, str]:
    """Return an environment without our variables but those given; one that is None is left out.

    What configures the parent (a port, a file of a secret) must not configure its children.
    """
    ours = {name: text for name, text in variables.items() if text is not None}
    return {n: text for n, text in environ.items() if not n.startswith(_OUR_VARIABLES)} | ours


async def start_child(
    arguments: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int]
) -> trio.Process:
    """Start ``pocketkv`` with arguments, in a process and a session of its own.

    It has the descriptors in `inherited` and its parent's standard error.

    Raises:
        OSError: The system has no room for another process.
    """
    # -P: a module in the folder that we were started in must not take the place of one of ours.
    return await trio.lowlevel.open_process(
        [sys.executable, "-P", "-m", "pocketkv", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=tuple(inherited),
        env=dict(environment),
        start_new_session=True,
    )


def how_it_ended(status: int) -> str:
    """Return a return code in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def is_running(pid: int, argument: str) -> bool:
    """Return whether a process runs that has `argument`: numbers of processes are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return argument.encode() in command.split(b"\0")


def processes() -> Iterator[tuple[int, int, bool]]:
    """Yield of each process its number, its parent's, and whether it has ended unreaped."""
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            text = (path / "stat").read_bytes()
        except OSError:
            continue  # It has ended meanwhile.
        # The name, in parentheses, may hold anything; state and parent come after it.
        state, parent = text.rpartition(b")")[2].split()[:2]
        yield int(path.name), int(parent), state == b"Z"


def descendants_of(pid: int) -> list[int]:
    """Return the numbers of all processes below a process that have not ended."""
    children: dict[int, list[int]] = {}
    for child, parent, has_ended in processes():
        if not has_ended:
            children.setdefault(parent, []).append(child)
    found: list[int] = []
    generation = children.get(pid, [])
    while generation:
        found += generation
        generation = [child for parent in generation for child in children.get(parent, [])]
    return found
