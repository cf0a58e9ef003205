"""What a script says of itself in its first line: ``#!lua flags=no-writes,allow-oom``."""

from __future__ import annotations

from dataclasses import dataclass

from pocketkv.engine.errors import CommandError
from pocketkv.resp.parser import split_words

_NAMES = {
    b"no-writes": "no_writes",
    b"allow-oom": "allow_oom",
    b"allow-stale": "allow_stale",
    b"no-cluster": "no_cluster",
    b"allow-cross-slot-keys": "allow_cross_slot_keys",
}


@dataclass(slots=True)
class Flags:
    """The flags of a script or a function.

    Attributes:
        is_declared: Whether it says what it does; one without a first line may do anything.
    """

    is_declared: bool = False
    no_writes: bool = False
    allow_oom: bool = False
    allow_stale: bool = False
    no_cluster: bool = False
    allow_cross_slot_keys: bool = False

    def add(self, name: bytes) -> bool:
        """Set one; false if there is no such flag."""
        attribute = _NAMES.get(name)
        if attribute is None:
            return False
        setattr(self, attribute, True)
        return True

    def names(self) -> list[bytes]:
        """Those that are set, as FUNCTION LIST shows them."""
        return [name for name, attribute in _NAMES.items() if getattr(self, attribute)]


def parse_shebang(code: bytes) -> tuple[Flags, bytes]:
    """A script's flags, and what is compiled of it; lines keep their numbers.

    Raises:
        CommandError: The first line is one for scripts, and wrong.
    """
    if not code.startswith(b"#!"):
        return Flags(), code
    line, newline, rest = code.partition(b"\n")
    if not newline:
        raise CommandError(b"ERR Invalid script shebang")
    words = split_words(line) or [line]
    if words[0] != b"#!lua":
        raise CommandError(b"ERR Unexpected engine in script shebang: " + words[0])
    flags = Flags(is_declared=True)
    for word in words[1:]:
        if not word.startswith(b"flags="):
            raise CommandError(b"ERR Unknown lua shebang option: " + word)
        for name in filter(None, word[len(b"flags=") :].split(b",")):
            if not flags.add(name):
                raise CommandError(b"ERR Unexpected flag in script shebang: " + name)
    return flags, b"\n" + rest
