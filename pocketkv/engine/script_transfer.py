"""A job's scripts and libraries on their way to a server that gets its first slots of the job.

A router sends what is loaded to every server that has slots of the job. One that gets its first
ones is sent all of it by the server that they come from, before it has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.functions import Libraries

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.scripts import Scripts


def version_of(space: JobSpace) -> tuple[int, int]:
    """What differs whenever something else is loaded."""
    scripts = space.scripts
    if scripts is None:
        return 0, 0
    return scripts.version, 0 if scripts.libraries is None else scripts.libraries.version


def loaded(space: JobSpace) -> list[bytes]:
    """All that is loaded: the number of libraries, their code, and the scripts of SCRIPT LOAD."""
    scripts = space.scripts
    if scripts is None:
        return [b"0"]
    libraries: list[bytes] = []
    if scripts.libraries is not None:
        libraries = [library.code for library in scripts.libraries.by_name.values()]
    kept = [script.code for script in scripts.known.values() if script.is_kept]
    return [b"%d" % len(libraries), *libraries, *kept]


def take(scripts: Scripts, received: list[bytes]) -> None:
    """Have just that loaded, unless the job has slots here already, and so has been told.

    Raises:
        CommandError: It is nothing that `loaded` gave.
    """
    if 1 in scripts.space.given:
        return
    count = parse_int(received[0])
    if not 0 <= count < len(received):
        raise CommandError(SYNTAX)
    scripts.flush()
    if scripts.libraries is None:
        scripts.libraries = Libraries(scripts)
    scripts.libraries.restore(received[1 : 1 + count], flushes=True, replaces=True)
    for code in received[1 + count :]:
        scripts.keep(code)
