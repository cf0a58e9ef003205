"""Options of a process: how a flag or a ``POCKETKV_*`` variable becomes a checked value.

An `Option` is a name, a parser and a help text; `Given` holds the flags and the variables of one
start and reads options from them. Parsers take text and raise `ValueError` with what is wrong;
the option puts its flag or variable before it. Which process has which options is `config`'s.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pocketkv.amounts import format_bytes, parse_bytes

MEMORY_BYTES_MIN: Final = 1024**2
"""Least memory of a storage server: below it, not even one large value would fit."""

PORT_MAX: Final = 65535
"""Last port of TCP."""

CONFIDENTIAL_FILE_BYTES_MAX: Final = 4096
"""What is read of a file with a secret or a password: a wrong path may never end."""

SHOWN_CHARACTERS_MAX: Final = 80
"""What an error message shows of a value, so that it stays one line."""

T = TypeVar("T")
D = TypeVar("D")


class ConfigError(ValueError):
    """An option is wrong: one line that names its flag or variable. The exit status is 2."""


@dataclass(frozen=True)
class Option(Generic[T]):
    """A flag and its variable; `parse` raises ValueError with what is wrong with the value.

    `name` is the flag's, in lower case with hyphens. A switch has no value, but a ``--no-`` form. A
    list may be given several times; its variable, and its text, have commas between the parts.
    """

    name: str
    parse: Callable[[str], T]
    help: str
    metavar: str | None = None
    is_switch: bool = False
    is_list: bool = False
    is_hidden: bool = False

    @property
    def flag(self) -> str:
        """The flag, such as ``--log-level``."""
        return f"--{self.name}"

    @property
    def dest(self) -> str:
        """The name of the flag's value in argparse's namespace, such as ``log_level``."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The variable of the environment, such as ``POCKETKV_LOG_LEVEL``."""
        return f"POCKETKV_{self.dest.upper()}"

    @property
    def either(self) -> str:
        """Both names, for messages that say what is needed."""
        return f"{self.flag} or {self.variable}"

    def add_to(self, parser: argparse.ArgumentParser, default: str) -> None:
        """Add the flag to `parser`, as text that defaults to None; `default` is for its help."""
        # argparse formats help texts with `%`.
        text = f"{self.help} [{self.variable}; default: {default}]".replace("%", "%%")
        text = argparse.SUPPRESS if self.is_hidden else text
        if self.is_switch:
            parser.add_argument(
                self.flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            parser.add_argument(
                self.flag,
                metavar=self.metavar,
                action="append" if self.is_list else "store",
                default=None,
                help=text,
            )


@dataclass(frozen=True)
class Given:
    """The flags and variables of one start; `read_file` reads files with secrets."""

    namespace: argparse.Namespace
    environ: Mapping[str, str]
    read_file: Callable[[Path], bytes] | None = None

    def __call__(self, option: Option[T], default: D) -> T | D:
        """Return the value of `option`, or `default` if it was not given.

        Raises:
            ConfigError: the value is not one.
        """
        value = getattr(self.namespace, option.dest, None)
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = ",".join(value)
        if value is None:
            value = self.environ.get(option.variable) or None
        if value is None:
            return default
        try:
            return option.parse(str(value))
        except ValueError as error:
            raise ConfigError(f"{self.source(option)}: {error}") from error

    def source(self, option: Option[Any]) -> str:
        """Return the flag or the variable, whichever the value came from."""
        is_variable = (
            getattr(self.namespace, option.dest, None) is None
            and self.environ.get(option.variable, "") != ""
        )
        return option.variable if is_variable else option.flag

    def confidential(self, file: Option[Path], variable: str) -> tuple[str, str] | None:
        """Return where a secret text came from, and the text; None if there is none.

        It is that of `variable`, or of the file that `file` names, whose flag wins over both.

        Raises:
            ConfigError: both variables are set, or the file cannot be read.
        """
        text = self.environ.get(variable, "")
        if text and getattr(self.namespace, file.dest, None) is None:
            if self.environ.get(file.variable):
                raise ConfigError(f"{variable} and {file.variable} are both set")
            return variable, text
        path = self(file, None)
        if path is None:
            return None
        source = self.source(file)
        try:
            text = (self.read_file or _read_small_file)(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{source}: {quoted(str(path))} is not text") from error
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise ConfigError(f"{source}: {quoted(str(path))}: {reason}") from error
        return source, text.rstrip("\r\n")


def quoted(text: str) -> str:
    """Return `text` in quotes, on one line, and not long."""
    # Cut before and after, since a character may become ten.
    shown = ascii(text[:SHOWN_CHARACTERS_MAX])
    if len(text) > SHOWN_CHARACTERS_MAX or len(shown) > SHOWN_CHARACTERS_MAX + 2:
        return f"{shown[:SHOWN_CHARACTERS_MAX]}...'"
    return shown


def parse_number(what: str, least: int, most: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`; `what` is for its message."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"{quoted(text)} is not {what} ({least} to {most})")
        return int(text)

    return parse


def parse_choice(names: tuple[str, ...]) -> Callable[[str], str]:
    """Return a parser of one of `names`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"{quoted(text)} is none of {', '.join(names)}")
        return text.lower()

    return parse


def parse_port(text: str) -> int:
    """Return a port to listen on; 0 is any free one."""
    if text.startswith("tcp://"):
        raise ValueError(
            f"{quoted(text)} is not a port; Kubernetes sets such a variable for a Service of the"
            " name: use enableServiceLinks: false"
        )
    return parse_number("a port", 0, PORT_MAX)(text)


def parse_metrics_port(text: str) -> int | None:
    """Return a port to listen on, None for ``off``."""
    return None if text.lower() == "off" else parse_port(text)


def parse_memory(text: str) -> int:
    """Return an amount of bytes of which a storage server can live."""
    amount_bytes = parse_bytes(text)
    if amount_bytes < MEMORY_BYTES_MIN:
        raise ValueError(f"{quoted(text)} is less than {format_bytes(MEMORY_BYTES_MIN)}")
    return amount_bytes


def parse_host(text: str) -> str:
    """Return a host name or an address, of which nothing is looked up."""
    if not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", text):
        raise ValueError(f"{quoted(text)} is not a host name or address")
    return text


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of ``host:port``, an IPv6 address being in brackets."""
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{quoted(text)} needs [ ] around its IPv6 address")
    if not separator or not host:
        raise ValueError(f"{quoted(text)} is not host:port")
    return parse_host(host), parse_number("a port", 1, PORT_MAX)(port)


def parse_identifier(text: str) -> str:
    """Return a name that is safe in metrics, logs and file names."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(f"{quoted(text)} is not 1 to 64 letters, digits and '.', '_', '-'")
    return text


def parse_path(text: str) -> Path:
    """Return a path, of which nothing is looked up."""
    if not text or "\0" in text:
        raise ValueError(f"{quoted(text)} is not a path")
    return Path(text)


def parse_spill(text: str) -> Path | str:
    """Return a path, or an URL of S3, of which nothing is looked up."""
    if "://" not in text:
        return parse_path(text)
    if not _is_s3_url(text):
        raise ValueError(f"{quoted(text)} is neither a path nor s3://bucket/prefix")
    return text


def parse_s3_url(text: str) -> str:
    """Return an URL of S3, of which nothing is looked up."""
    if not _is_s3_url(text):
        raise ValueError(f"{quoted(text)} is not of the form s3://bucket/prefix")
    return text


def _is_s3_url(text: str) -> bool:
    scheme, separator, rest = text.partition("://")
    return scheme == "s3" and bool(separator) and bool(rest.partition("/")[0])


def parse_switch(text: str) -> bool:
    """Return whether a switch is on."""
    if text.lower() in {"1", "yes", "true", "on"}:
        return True
    if text.lower() in {"0", "no", "false", "off"}:
        return False
    raise ValueError(f"{quoted(text)} is not yes or no")


def _read_small_file(path: Path) -> bytes:
    # Bounded, since a wrong path may be a device that never ends.
    with path.open("rb") as file:
        return file.read(CONFIDENTIAL_FILE_BYTES_MAX)
