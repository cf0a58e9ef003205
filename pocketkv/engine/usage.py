"""Reads a record's `usage` line and makes of it the argument maps that COMMAND DOCS answers.

The lines are written as in Redis's documentation:

    word                an argument; its type follows from its name (see `_TYPES`)
    WORD                a word to be typed as it is, or the token before the argument after it
    [...]               may be left out
    <a | b>, [a | b]    one of several
    a [a ...]           may be repeated, with its token (``[PREFIX p [PREFIX p ...]]``) or without
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from pocketkv.resp.replies import Reply, SetReply, Simple

_WORD: Final = re.compile(r"[\[\]<>|]|\.\.\.|[^\s\[\]<>|]+")
_TOKEN: Final = re.compile(r"[A-Z*=~$+\-][A-Z0-9*=~$+\-]*\Z")
_OPENING: Final = {"[": "]", "<": ">"}
_NOT_AN_ARGUMENT: Final = frozenset(("", "[", "]", "<", ">", "|", "..."))

_KEYS: Final = frozenset(("key", "source", "destination", "newkey", "key1", "key2"))
_INTEGERS: Final = frozenset(
    "client-id count cursor db decrement destination-db end increment index lambdas limit"
    " milliseconds min-match-len numkeys numreplicas offset protover seconds servers slot start"
    " stop timeout version".split()
)
_UNIX_TIMES: Final = frozenset(
    ("unix-time-seconds", "unix-time-milliseconds", "timestamp", "timestamp-milliseconds")
)
_DOUBLES: Final = frozenset(("score", "min", "max", "weight"))


class UsageError(ValueError):
    """A usage line is not written as it should be: a defect of its record."""


@dataclass
class Argument:
    """An argument as COMMAND DOCS shows it.

    Attributes:
        kind: ``key``, ``string``, ``integer``, ``double``, ``pattern``, ``unix-time``,
            ``pure-token``, ``oneof`` or ``block``.
        token: The word that stands before it.
        repeats_token: Whether the token stands before each repetition.
        parts: Of ``oneof`` and ``block``.
    """

    name: str
    kind: str
    token: str = ""
    is_optional: bool = False
    is_multiple: bool = False
    repeats_token: bool = False
    parts: list[Argument] = field(default_factory=list)


def parse_usage(usage: str) -> list[Argument]:
    """The arguments of a usage line.

    Raises:
        UsageError: Brackets do not match, or something is missing between them.
    """
    words = _WORD.findall(usage)
    parser = _Parser(words)
    arguments = parser.sequence("")
    if parser.position < len(words):
        raise UsageError(f"{usage!r}: {words[parser.position]!r} is out of place")
    return arguments


class _Parser:
    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.position = 0

    def _peek(self) -> str:
        return self.words[self.position] if self.position < len(self.words) else ""

    def sequence(self, closing: str) -> list[Argument]:
        """Arguments up to `closing` or a bar, neither of which is taken."""
        arguments: list[Argument] = []
        while self._peek() not in {"", "|", closing}:
            if self._peek() == "..." or self._is_repetition():
                self._take_repetition(arguments)
                continue
            arguments.append(self._argument())
        return arguments

    def _argument(self) -> Argument:
        word = self._peek()
        self.position += 1
        if word in _OPENING:
            return self._group(word)
        if word in {"]", ">"}:
            raise UsageError(f"{word!r} closes nothing")
        if not _TOKEN.match(word):
            return Argument(word, _kind(word))
        following = self._peek()
        if following == "<":
            self.position += 1
            argument = self._group(following)
            if not argument.token and argument.kind != "block":
                argument.token = word
                return argument
            return Argument(word.lower(), "block", parts=[_pure(word), argument])
        if following not in _NOT_AN_ARGUMENT and not _TOKEN.match(following):
            self.position += 1
            return Argument(following, _kind(following), token=word)
        return _pure(word)

    def _group(self, opening: str) -> Argument:
        """What stands between brackets, the first of which was taken."""
        closing = _OPENING[opening]
        alternatives = [self.sequence(closing)]
        while self._peek() == "|":
            self.position += 1
            alternatives.append(self.sequence(closing))
        if self._peek() != closing:
            raise UsageError(f"{opening!r} is not closed")
        self.position += 1
        if not all(alternatives):
            raise UsageError(f"nothing in {opening!r}")
        parts = [_block(sequence) for sequence in alternatives]
        argument = parts[0] if len(parts) == 1 else Argument(_joined(parts), "oneof", parts=parts)
        argument.is_optional = argument.is_optional or opening == "["
        return argument

    def _is_repetition(self) -> bool:
        """Whether a bracket begins that only repeats what came before: ``[key ...]``."""
        if self._peek() != "[":
            return False
        depth = 0
        for i in range(self.position, len(self.words)):
            depth += {"[": 1, "<": 1, "]": -1, ">": -1}.get(self.words[i], 0)
            if depth == 0:
                inner = self.words[self.position + 1 : i]
                return inner[-1:] == ["..."] and self._repeats(inner[:-1])
        return False

    def _repeats(self, inner: list[str]) -> bool:
        return inner == self.words[self.position - len(inner) : self.position]

    def _take_repetition(self, arguments: list[Argument]) -> None:
        """Mark the arguments that are repeated, as a block if they are several."""
        if not arguments:
            raise UsageError("'...' repeats nothing")
        if self._peek() == "...":
            self.position += 1
            arguments[-1].is_multiple = True
            return
        end = self.words.index("...", self.position)
        inner = _Parser(self.words[self.position + 1 : end])
        repeated = len(inner.sequence(""))
        self.position = end + 2
        if repeated > 1:
            arguments[-repeated:] = [_block(arguments[-repeated:])]
        argument = arguments[-1]
        argument.is_multiple = True
        argument.repeats_token = repeated == 1 and inner.words[0] == argument.token


def _pure(word: str) -> Argument:
    return Argument(word.lower(), "pure-token", token=word)


def _block(sequence: list[Argument]) -> Argument:
    first = sequence[0]
    if len(sequence) == 1:
        return first
    block = Argument(_joined(sequence), "block", parts=sequence)
    if first.kind != "pure-token" and not any(argument.token for argument in sequence[1:]):
        # ``LIMIT offset count``: the token is that of both.
        block.token, first.token = first.token, ""
    return block


def _joined(parts: list[Argument]) -> str:
    return "-".join(part.name for part in parts)[:64]


def _kind(name: str) -> str:
    if name in _KEYS:
        return "key"
    if name in _INTEGERS:
        return "integer"
    if name in _UNIX_TIMES:
        return "unix-time"
    if name in _DOUBLES:
        return "double"
    return "pattern" if name == "pattern" else "string"


def argument_replies(arguments: list[Argument], keys_at: list[int]) -> list[Reply]:
    """Arguments as COMMAND DOCS answers them.

    `keys_at` has the number of the key spec of each key argument that comes, and is used up.
    """
    return [_argument_reply(argument, keys_at) for argument in arguments]


def _argument_reply(argument: Argument, keys_at: list[int]) -> Reply:
    reply: dict[bytes, Reply] = {
        b"name": argument.name.encode(),
        b"type": argument.kind.encode(),
    }
    if argument.kind == "key" and keys_at:
        reply[b"key_spec_index"] = keys_at.pop(0)
    if argument.token:
        reply[b"token"] = argument.token.encode()
    flags = [
        Simple(flag)
        for flag, is_set in (
            (b"optional", argument.is_optional),
            (b"multiple", argument.is_multiple),
            (b"multiple_token", argument.repeats_token),
        )
        if is_set
    ]
    if flags:
        reply[b"flags"] = SetReply(flags)
    if argument.parts:
        reply[b"arguments"] = argument_replies(argument.parts, keys_at)
    return reply
