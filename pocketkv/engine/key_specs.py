"""Where a command's keys are and what happens to them, as COMMAND tells it (Redis's key specs).

A record's `key_flags` has one spec per group of keys that are treated alike, separated by ``;``.
A spec is its flags and, unless the record's `keys` says it all, where the keys begin and end:

    RW access delete @1; RW insert @2          one key at argument 1, one at argument 2
    OW update @1; RO access @2 -1 1            one, and all from argument 2 to the last, step 1
    RO access @1 keynum 0 1 1                  their number is argument 1, they follow it
    RO access @STREAMS:1 -1 1 2                after a word, looked for from argument 1 on; the
                                               first half (1/2) of what is left
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.commands import Command
from pocketkv.resp.replies import Reply, SetReply, Simple


@dataclass(frozen=True)
class Spec:
    """One group of keys.

    Attributes:
        flags: Redis's words for what happens to the keys.
        begin: Argument at which it begins; with a keyword, from which on it is looked for
            (negative: from that argument of the end backwards). 0: not at any fixed place.
        keyword: What stands before the first key, if it is looked for.
        last, step, limit: Last key, relative to the first one, or from the end if negative;
            distance of keys; part of the arguments that are keys (2: half of them).
        keynum: Position of the number of keys, and of the first key, relative to `begin`.
    """

    flags: tuple[str, ...]
    begin: int = 0
    keyword: str = ""
    last: int = 0
    step: int = 1
    limit: int = 0
    keynum: tuple[int, int] | None = None

    def positions(self, request: list[bytes]) -> list[int]:
        """The positions of these keys in a request; none if it does not have them."""
        first = self._first(request)
        if first <= 0:
            return []
        count = len(request)
        if self.keynum is not None:
            counter, offset = self.keynum
            if first + counter >= count:
                return []
            first += offset
            last = (
                first
                + ((canonical_integer(request[first - offset + counter]) or 0) - 1) * self.step
            )
        elif self.last >= 0:
            last = first + self.last
        elif self.limit <= 1:
            last = count + self.last
        else:
            last = first + (count - first) // self.limit + self.last
        return list(range(first, min(last, count - 1) + 1, self.step))

    def _first(self, request: list[bytes]) -> int:
        if not self.keyword:
            return self.begin
        wanted = self.keyword.encode()
        places = (
            range(self.begin, len(request))
            if self.begin > 0
            else range(len(request) + self.begin, 0, -1)
        )
        for position in places:
            if request[position].upper() == wanted:
                return position + 1
        return 0

    def reply(self) -> Reply:
        """The map that COMMAND INFO shows."""
        begin: dict[bytes, Reply]
        find: dict[bytes, Reply]
        if self.keyword:
            begin = {b"keyword": self.keyword.encode(), b"startfrom": self.begin}
            begin = {b"type": b"keyword", b"spec": begin}
        elif self.begin:
            begin = {b"type": b"index", b"spec": {b"index": self.begin}}
        else:
            begin = {b"type": b"unknown", b"spec": {}}
        if self.keynum is not None:
            counter, offset = self.keynum
            find = {b"keynumidx": counter, b"firstkey": offset, b"keystep": self.step}
            find = {b"type": b"keynum", b"spec": find}
        elif self.begin:
            find = {b"lastkey": self.last, b"keystep": self.step, b"limit": self.limit}
            find = {b"type": b"range", b"spec": find}
        else:
            find = {b"type": b"unknown", b"spec": {}}
        flags = SetReply([Simple(flag.encode()) for flag in self.flags])
        return {b"flags": flags, b"begin_search": begin, b"find_keys": find}


_KNOWN: Final[dict[str, list[Spec]]] = {}


def key_specs(command: Command) -> list[Spec]:
    """The specs of a command's keys; none if it has no keys."""
    specs = _KNOWN.get(command.name)
    if specs is None:
        specs = _KNOWN[command.name] = _parse_specs(command)
    return specs


def flags_in(command: Command, request: list[bytes], flags: tuple[str, ...]) -> tuple[str, ...]:
    """A spec's flags, where they depend on options, for what this request does to its keys."""
    if "variable_flags" not in flags:
        return flags
    if command.name == "set":
        words = {argument.upper() for argument in request[3:]}
        return ("RW", "access", "update") if b"GET" in words else ("OW", "update")
    if command.name == "bitfield":
        words = {argument.upper() for argument in request[2:]}
        is_written = words & {b"SET", b"INCRBY"}
        return ("RW", "access", "update") if is_written else ("RO", "access")
    return tuple(flag for flag in flags if flag != "variable_flags")


def has_keys(command: Command) -> bool:
    """Whether any of its arguments is a key; sharded channels only are where a key would be."""
    return any("not_key" not in spec.flags for spec in key_specs(command))


def _parse_specs(command: Command) -> list[Spec]:
    keys = command.keys
    if keys.first == 0 and keys.find is None:
        return []
    specs = []
    for text in command.key_flags.split(";"):
        words, _, place = text.partition("@")
        flags = tuple(words.split())
        if place:
            specs.append(_parse_place(flags, place.split()))
        elif keys.first:
            last = keys.last - keys.first if keys.last >= 0 else keys.last
            specs.append(Spec(flags, keys.first, last=last, step=keys.step))
        else:
            specs.append(Spec(flags))
    return specs


def _parse_place(flags: tuple[str, ...], words: list[str]) -> Spec:
    keyword, _, begin = words[0].rpartition(":")
    if words[1:2] == ["keynum"]:
        counter, offset, step = map(int, words[2:])
        return Spec(flags, int(begin), keyword, step=step, keynum=(counter, offset))
    last, step, limit = [*map(int, words[1:]), *(0, 1, 0)[len(words) - 1 :]]
    return Spec(flags, int(begin), keyword, last, step, limit)
