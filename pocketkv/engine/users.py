"""Users of a job and what each may do, in the words of ACL SETUSER.

A user has selectors: sets of commands, with the keys and channels that they may concern. A command
is allowed if any of them allows all of it. What a selector was told is kept as rules, in order, to
be shown; which commands that makes is a set of names, so that a command costs one look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import Glob
from pocketkv.engine.command_table import categories, lookup, with_subcommands
from pocketkv.engine.commands import Command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.key_specs import flags_in, key_specs

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

DEFAULT_USER: Final = "default"
_READ: Final = 1
_WRITE: Final = 2
_UNKNOWN: Final = b"Unknown command or category name in ACL"
_SYNTAX: Final = b"Syntax error"
_KEY_AFTER_ALL: Final = (
    b"Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have "
    b"any effect. Try 'resetkeys' to start with an empty list of patterns"
)
_CHANNEL_AFTER_ALL: Final = (
    b"Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not "
    b"have any effect. Try 'resetchannels' to start with an empty list of channels"
)
_NO_SUCH_PASSWORD: Final = b"The password you are trying to remove from the user does not exist"
_BAD_HASH: Final = (
    b"The password hash must be exactly 64 characters and contain only lowercase hexadecimal "
    b"characters"
)
_FIRST_ARGUMENT: Final = b"Allowing first-arg of a subcommand is not supported"
_HASH_LENGTH: Final = 64
# Where the channels of a command stand: from this argument on, to the last (-1) or only that one;
# and whether they are patterns.
_CHANNELS: Final = {
    "publish": (False, False),
    "spublish": (False, False),
    "subscribe": (True, False),
    "ssubscribe": (True, False),
    "psubscribe": (True, True),
}


class RuleError(ValueError):
    """A rule that there is not; the message is Redis's reason."""

    def __init__(self, reason: bytes) -> None:
        super().__init__(reason)
        self.reason = reason


class Denied(IntEnum):
    """Why a command is refused; of several reasons the highest is told."""

    NO = 0
    COMMAND = 1
    KEY = 2
    CHANNEL = 4


def key_needs(command: Command, request: list[bytes]) -> list[tuple[int, int]]:
    """The keys of a request by position, each with what is done to it."""
    needs: list[tuple[int, int]] = []
    seen = set()
    all_keys = command.keys.positions(request)
    for spec in key_specs(command):
        if "not_key" in spec.flags:
            return []
        for position in spec.positions(request):
            if position not in all_keys:
                # Where a key may be, and this time is none (MIGRATE).
                continue
            seen.add(position)
            needs.append((position, _need(flags_in(command, request, spec.flags))))
    need = _READ | (_WRITE if command.is_write else 0)
    others = [p for p in all_keys if p not in seen]
    return [*needs, *((position, need) for position in others)]


def _need(flags: tuple[str, ...]) -> int:
    need = _READ if "access" in flags else 0
    is_written = any(flag in flags for flag in ("insert", "delete", "update"))
    return need | _WRITE if is_written else need


class Selector:
    """Commands, keys and channels that go together."""

    def __init__(self) -> None:
        self.rules: list[str] = ["-@all"]
        self.commands: set[str] = set()
        self.first_arguments: dict[str, set[bytes]] = {}
        self.all_keys = False
        # By pattern: what may be done to its keys.
        self.keys: dict[bytes, int] = {}
        self.all_channels = False
        self.channels: dict[bytes, None] = {}
        self._globs: dict[bytes, Glob] = {}

    def copy(self) -> Selector:
        """Another one that allows the same."""
        other = Selector()
        other.rules = list(self.rules)
        other.commands = set(self.commands)
        other.first_arguments = {n: set(words) for n, words in self.first_arguments.items()}
        other.all_keys, other.keys = self.all_keys, dict(self.keys)
        other.all_channels, other.channels = self.all_channels, dict(self.channels)
        return other

    # --- rules ---------------------------------------------------------------------------------

    def apply(self, rule: bytes) -> None:
        """Follow one rule.

        Raises:
            RuleError: There is no such rule.
        """
        lowered = rule.lower()
        if lowered in (b"~*", b"allkeys"):
            self.all_keys, self.keys = True, {}
        elif lowered == b"resetkeys":
            self.all_keys, self.keys = False, {}
        elif lowered in (b"&*", b"allchannels"):
            self.all_channels, self.channels = True, {}
        elif lowered == b"resetchannels":
            self.all_channels, self.channels = False, {}
        elif rule[:1] in (b"~", b"%"):
            self._add_keys(rule)
        elif rule[:1] == b"&":
            self._add_channels(rule[1:])
        elif lowered in (b"allcommands", b"nocommands"):
            self._change_category("+" if lowered == b"allcommands" else "-", "all")
        elif rule[:1] in (b"+", b"-"):
            self._change_commands(rule[:1].decode(), lowered[1:].decode("latin-1"), rule)
        else:
            raise RuleError(_SYNTAX)

    def _add_keys(self, rule: bytes) -> None:
        if self.all_keys:
            raise RuleError(_KEY_AFTER_ALL)
        need = _READ | _WRITE
        pattern = rule[1:]
        if rule[:1] == b"%":
            letters, tilde, pattern = pattern.partition(b"~")
            if not tilde or sorted(letters.upper()) not in ([82], [87], [82, 87]):
                raise RuleError(_SYNTAX)
            need = (_READ if b"R" in letters.upper() else 0) | (
                _WRITE if b"W" in letters.upper() else 0
            )
        if _has_spaces(pattern):
            raise RuleError(_SYNTAX)
        self.keys[pattern] = self.keys.get(pattern, 0) | need

    def _add_channels(self, pattern: bytes) -> None:
        if self.all_channels:
            raise RuleError(_CHANNEL_AFTER_ALL)
        if _has_spaces(pattern):
            raise RuleError(_SYNTAX)
        self.channels[pattern] = None

    def _change_commands(self, sign: str, name: str, rule: bytes) -> None:
        if name.startswith("@"):
            self._change_category(sign, name[1:])
            return
        container, bar, word = name.rpartition("|")
        if bar and sign == "+":
            self._add_after_bar(container, word, name, rule)
            return
        record = lookup(name.encode("latin-1"))
        if record is None:
            raise RuleError(_UNKNOWN)
        before = set(self.commands)
        self._change(sign, [record, *record.subcommands.values()])
        if self.commands != before:
            self._note(sign + name, record.name)

    def _add_after_bar(self, container: str, word: str, name: str, rule: bytes) -> None:
        """Allow a subcommand, or a command with just this first argument."""
        parent = lookup(container.encode("latin-1"))
        if parent is None:
            raise RuleError(_UNKNOWN)
        if "|" in parent.name:
            raise RuleError(_FIRST_ARGUMENT)
        if not word:
            raise RuleError(_SYNTAX)
        record = lookup(name.encode("latin-1"))
        if parent.subcommands and parent.name != "debug" and record is None:
            raise RuleError(_UNKNOWN)
        if record is not None:
            before = set(self.commands)
            self._change("+", [record])
            if self.commands == before:
                return
        else:
            # DEBUG is no container in Redis, so its subcommands are any first argument.
            argument = rule.rpartition(b"|")[2].lower()
            self.first_arguments.setdefault(parent.name, set()).add(argument)
        self._note("+" + name, name)

    def _change_category(self, sign: str, category: str) -> None:
        if category == "all":
            self.commands = {r.name for r in with_subcommands()} if sign == "+" else set()
            self.first_arguments = {}
            self.rules = [f"{sign}@all"]
            return
        members = [r for r in with_subcommands() if category in categories(r)]
        if not members:
            raise RuleError(_UNKNOWN)
        before = set(self.commands)
        self._change(sign, members)
        if self.commands != before:
            self._note(f"{sign}@{category}", f"@{category}")

    def _change(self, sign: str, records: Iterable[Command]) -> None:
        for record in records:
            if sign == "+":
                self.commands.add(record.name)
            else:
                self.commands.discard(record.name)
            self.first_arguments.pop(record.name, None)

    def _note(self, rule: str, name: str) -> None:
        """Have a rule shown, in place of those on the same that it undoes or repeats."""
        kept = [rule for rule in self.rules if not _is_on(rule[1:], name)]
        self.rules = [*kept, rule]

    # --- what it allows ------------------------------------------------------------------------

    def check(self, command: Command, request: list[bytes]) -> tuple[Denied, int]:
        """Whether a request is allowed, and which argument is why not."""
        if command.name not in self.commands and not command.no_auth:
            allowed = self.first_arguments.get(command.name)
            if allowed is None or len(request) < 2 or request[1].lower() not in allowed:
                return Denied.COMMAND, 0
        if not self.all_keys:
            for position, need in key_needs(command, request):
                if not self._allows_key(request[position], need):
                    return Denied.KEY, position
        if not self.all_channels and command.name in _CHANNELS:
            several, patterns = _CHANNELS[command.name]
            for position in range(1, len(request) if several else 2):
                if not self.allows_channel(request[position], is_pattern=patterns):
                    return Denied.CHANNEL, position
        return Denied.NO, 0

    def _allows_key(self, key: bytes, need: int) -> bool:
        return any(
            allowed & need == need and self._glob(pattern).matches(key)
            for pattern, allowed in self.keys.items()
        )

    def allows_channel(self, channel: bytes, *, is_pattern: bool) -> bool:
        """Whether a channel, or all that a pattern may stand for, are allowed."""
        if self.all_channels:
            return True
        if is_pattern:
            return channel in self.channels
        return any(self._glob(pattern).matches(channel) for pattern in self.channels)

    def _glob(self, pattern: bytes) -> Glob:
        glob = self._globs.get(pattern)
        if glob is None:
            glob = self._globs[pattern] = Glob(pattern)
        return glob

    @property
    def reads_all_keys(self) -> bool:
        """Whether there is no key that it may not read."""
        return self.all_keys or self.keys.get(b"*", 0) & _READ != 0

    @property
    def allows_everything(self) -> bool:
        """Whether there is nothing to be checked."""
        return self.rules == ["+@all"] and self.all_keys and self.all_channels

    # --- as it is shown ------------------------------------------------------------------------

    def commands_text(self) -> bytes:
        """Its rules about commands."""
        return " ".join(self.rules).encode("latin-1")

    def keys_text(self) -> bytes:
        """Its rules about keys."""
        if self.all_keys:
            return b"~*"
        heads = {_READ: b"%R~", _WRITE: b"%W~", _READ | _WRITE: b"~"}
        return b" ".join(heads[need] + pattern for pattern, need in self.keys.items())

    def channels_text(self) -> bytes:
        """Its rules about channels."""
        return b"&*" if self.all_channels else b" ".join(b"&" + c for c in self.channels)

    def text(self) -> bytes:
        """All of them, as ACL LIST shows them."""
        channels = self.channels_text()
        if not self.all_channels:
            channels = b"resetchannels " + channels if channels else b"resetchannels"
        parts = [self.keys_text(), channels, self.commands_text()]
        return b" ".join(part for part in parts if part)


def _is_on(rule: str, name: str) -> bool:
    """Whether a rule without its sign is about a command or category, or a part of it."""
    return rule == name or (name[:1] != "@" and rule.split("|", maxsplit=1)[0] == name)


def _has_spaces(text: bytes) -> bool:
    return any(byte in b" \t\n\r\v\f\0" for byte in text)


class User:
    """One user of a job.

    Attributes:
        selectors: The first is its own; others are in parentheses.
        passwords: SHA-256 of each, in hexadecimal.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = False
        self.no_password = False
        # What is shown of how payloads of RESTORE are checked, which they always are.
        self.sanitize = ""
        self.passwords: dict[str, None] = {}
        self.selectors = [Selector()]

    def take_over(self, other: User) -> None:
        """Be as another one, but for the name: sessions hold this object."""
        self.enabled, self.no_password = other.enabled, other.no_password
        self.sanitize, self.passwords = other.sanitize, other.passwords
        self.selectors = other.selectors

    def copy(self) -> User:
        """Another one that may do the same."""
        other = User(self.name)
        other.enabled, other.no_password = self.enabled, self.no_password
        other.sanitize, other.passwords = self.sanitize, dict(self.passwords)
        other.selectors = [selector.copy() for selector in self.selectors]
        return other

    def apply(self, rule: bytes) -> None:
        """Follow one rule of ACL SETUSER.

        Raises:
            RuleError: There is no such rule.
        """
        lowered = rule.lower()
        if lowered in (b"on", b"off"):
            self.enabled = lowered == b"on"
        elif lowered in (b"skip-sanitize-payload", b"sanitize-payload"):
            self.sanitize = lowered.decode()
        elif lowered == b"nopass":
            self.no_password, self.passwords = True, {}
        elif lowered == b"resetpass":
            self.no_password, self.passwords = False, {}
        elif rule[:1] in (b">", b"#", b"<", b"!"):
            self._change_password(rule[:1], rule[1:])
        elif rule[:1] == b"(" and rule[-1:] == b")":
            selector = Selector()
            for word in rule[1:-1].split():
                selector.apply(word)
            self.selectors.append(selector)
        elif lowered == b"clearselectors":
            del self.selectors[1:]
        elif lowered == b"reset":
            self.enabled = self.no_password = False
            self.sanitize, self.passwords = "sanitize-payload", {}
            self.selectors = [Selector()]
        else:
            self.selectors[0].apply(rule)

    def _change_password(self, kind: bytes, text: bytes) -> None:
        if kind in b"><":
            text = hashlib.sha256(text).hexdigest().encode()
        elif len(text) != _HASH_LENGTH or any(c not in b"0123456789abcdef" for c in text):
            raise RuleError(_BAD_HASH)
        hashed = text.decode()
        if kind in b">#":
            self.passwords[hashed] = None
            self.no_password = False
        elif self.passwords.pop(hashed, hashed) is not None:
            raise RuleError(_NO_SUCH_PASSWORD)

    def accepts(self, password: bytes) -> bool:
        """Whether it may log in with a password."""
        if not self.enabled:
            return False
        return self.no_password or hashlib.sha256(password).hexdigest() in self.passwords

    @property
    def may_everything(self) -> bool:
        """Whether there is nothing to be checked."""
        return any(selector.allows_everything for selector in self.selectors)

    def denial(self, command: Command, request: list[bytes]) -> tuple[Denied, bytes]:
        """Why a request is refused, if it is, and what of it: the command, key or channel."""
        reason, place = Denied.COMMAND, 0
        for selector in self.selectors:
            denied, position = selector.check(command, request)
            if denied is Denied.NO:
                return denied, b""
            if (denied, position) > (reason, place):
                reason, place = denied, position
        return reason, command.name.encode() if reason is Denied.COMMAND else request[place]

    def check(self, session: Session, command: Command, request: list[bytes]) -> None:
        """Refuse what it may not do, and note it in the job's log.

        Raises:
            CommandError: NOPERM.
        """
        reason, what = self.denial(command, request)
        if reason is Denied.NO:
            self.check_patterns(command, request)
            return
        self.note(session, reason, what)
        if session.in_script:
            raise CommandError(_IN_SCRIPT[reason])
        if reason is Denied.COMMAND:
            raise CommandError(
                b"NOPERM this user has no permissions to run the '%b' command" % what
            )
        kind = b"keys" if reason is Denied.KEY else b"channels"
        raise CommandError(
            b"NOPERM this user has no permissions to access one of the %b used as arguments" % kind
        )

    def note(self, session: Session, reason: Denied, what: bytes) -> None:
        """Have the job's log tell of a refusal."""
        if session.space.acl is not None:
            session.space.acl.note(session, _REASONS[reason], what, self.name)

    def check_patterns(self, command: Command, request: list[bytes]) -> None:
        """Refuse that SORT reads keys which nobody can name before, unless all may be read.

        Raises:
            CommandError: It is refused.
        """
        if command.name not in _SORTS:
            return
        option = _option_with_pattern(request)
        if option is not None and not any(
            selector.reads_all_keys and selector.check(command, request)[0] is Denied.NO
            for selector in self.selectors
        ):
            raise CommandError(
                b"ERR %b option of SORT denied due to insufficient ACL permissions." % option
            )

    def allows_channel(self, channel: bytes, *, is_pattern: bool) -> bool:
        """Whether any of its selectors allows a channel."""
        return any(s.allows_channel(channel, is_pattern=is_pattern) for s in self.selectors)

    def flags(self) -> list[bytes]:
        """What ACL GETUSER shows as its flags."""
        flags = [b"on" if self.enabled else b"off"]
        flags += [b"nopass"] if self.no_password else []
        return flags + ([self.sanitize.encode()] if self.sanitize else [])

    def text(self) -> bytes:
        """Its line in ACL LIST."""
        return b"user %b %b" % (self.name.encode("utf-8", "surrogateescape"), self.rules_text())

    def rules_text(self) -> bytes:
        """What makes another user that may do the same."""
        parts = self.flags()
        parts += [b"#" + password.encode() for password in self.passwords]
        parts.append(self.selectors[0].text())
        parts += [b"(" + selector.text() + b")" for selector in self.selectors[1:]]
        return b" ".join(parts)


def _option_with_pattern(request: list[bytes]) -> bytes | None:
    """The first option of a SORT that has it read other keys than the one that it names."""
    i = 2
    while i + 1 < len(request):
        option = request[i].upper()
        if option == b"GET" or (option == b"BY" and b"*" in request[i + 1]):
            return option
        i += {b"BY": 2, b"STORE": 2, b"LIMIT": 3}.get(option, 1)
    return None


def merged_rules(rules: Iterable[bytes]) -> list[bytes]:
    """The rules of a request, where a selector in parentheses is one, whatever blanks it has.

    Raises:
        RuleError: One is not closed; the reason is how it begins.
    """
    merged: list[bytes] = []
    opened: list[bytes] = []
    for rule in rules:
        if opened or (rule.startswith(b"(") and not rule.endswith(b")")):
            opened.append(rule)
            if rule.endswith(b")"):
                merged.append(b" ".join(opened))
                opened = []
        else:
            merged.append(rule)
    if opened:
        raise RuleError(opened[0])
    return merged


def user_of(name: str, rules: str) -> User:
    """The user of what `User.rules_text` told.

    Raises:
        RuleError: It is something else.
    """
    user = User(name)
    for rule in merged_rules(rules.encode("utf-8", "surrogateescape").split(b" ")):
        user.apply(rule)
    return user


def changed_rules(name: str, known: str | None, rules: Iterable[bytes], fresh: bytes) -> str:
    """What a user may do after ACL SETUSER, as `User.rules_text` tells it.

    Args:
        name: The user's name.
        known: The same before; ``None``: there is no such user yet.
        rules: As `merged_rules` returns them.
        fresh: The rule that a new user begins with.

    Raises:
        RuleError: One of the rules is none.
    """
    if known is not None:
        user = user_of(name, known)
    else:
        user = default_user() if name == DEFAULT_USER else User(name)
        if name != DEFAULT_USER and fresh:
            user.apply(fresh)
    for rule in rules:
        user.apply(rule)
    return user.rules_text().decode("utf-8", "surrogateescape")


def default_user() -> User:
    """The user that needs no name, as a job has it at its beginning."""
    return user_of(DEFAULT_USER, "on nopass ~* &* +@all")


_IN_SCRIPT: Final = {
    Denied.COMMAND: b"ERR The user executing the script can't run this command or subcommand",
    Denied.KEY: b"ERR The user executing the script can't access at least one of the keys "
    b"mentioned in the command arguments",
    Denied.CHANNEL: b"ERR The user executing the script can't publish to the channel mentioned "
    b"in the command",
}
_SORTS: Final = frozenset(("sort", "sort_ro"))
_REASONS: Final = {Denied.COMMAND: b"command", Denied.KEY: b"key", Denied.CHANNEL: b"channel"}
