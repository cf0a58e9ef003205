"""The log: one line an event, as ``key=value`` text or as JSON, whatever the event holds.

Much of what is logged was said by clients: names, addresses, error texts. Everything that is not
plain ASCII is escaped, so that no client can begin a line of its own, imitate a field, or send
codes to a terminal; and everything is cut to a length, so that none can fill the disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, TextIO

from pocketkv import limits

ROOT: Final = "pocketkv"

# What logging itself puts into every record; all the rest came with `extra`.
_OWN_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)) | {"message": "", "asctime": ""}
)
_FIXED_FIELDS: Final = ("time", "level", "component", "event")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}

Value = str | int | float | bool | None


def configure(component: str, level: str, form: str, stream: TextIO) -> logging.Logger:
    """Send the log of this process to a stream, one line an event.

    Events of other packages are written in the same form, from warnings on. Calling it again
    replaces what was configured before.

    Args:
        component: What this process is, such as ``router``; a field of every line.
        level: The least important level that is written: ``debug``, ``info``, ``warning`` or
            ``error``.
        form: ``text`` or ``json``.
        stream: Usually `sys.stderr`.

    Returns:
        The logger that all of PocketKV logs below.

    Raises:
        ValueError: There is no such level or form.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"no log level is called {level!r}")
    formatters = {"text": TextFormatter, "json": JsonFormatter}
    if form not in formatters:
        raise ValueError(f"no log format is called {form!r}")
    handler = LineHandler(stream)
    handler.setFormatter(formatters[form](component))
    everything = logging.getLogger()
    for old in [h for h in everything.handlers if isinstance(h, LineHandler)]:
        everything.removeHandler(old)
    everything.addHandler(handler)
    everything.setLevel(max(number, logging.WARNING))
    logger = logging.getLogger(ROOT)
    logger.setLevel(number)
    return logger


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines. What the stream does not take is counted, and told with the next event.

    A log that cannot be written (its disk is full, its reader is gone) must not stop a server.

    Attributes:
        failures: Events in a row that the stream did not take.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.failures = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event."""
        if self.failures:
            vars(record)["log_failures"] = self.failures
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a call of ours whose arguments do not fit its text
            self.handleError(record)
            return
        try:
            self.stream.write(line + self.terminator)
            self.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.failures += 1
        else:
            self.failures = 0


class _Formatter(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def _fixed(self, record: logging.LogRecord) -> tuple[str, str, str, str]:
        """Time, level, component and event."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = _cut(record.getMessage(), limits.LOG_VALUE_CHARACTERS_MAX)
        return time.replace("+00:00", "Z"), record.levelname, self._component, event

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, Value]]:
        """What came with the event: `extra`, then the exception and the stack."""
        if record.name != ROOT:
            yield "logger", record.name
        for key, value in vars(record).items():
            if key not in _OWN_ATTRIBUTES:
                name = f"{key}_" if key in _FIXED_FIELDS else key
                yield name, _plain(value)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            yield "exception", _cut(trace, limits.LOG_TRACE_CHARACTERS_MAX)
        if record.stack_info:
            yield "stack", _cut(record.stack_info, limits.LOG_TRACE_CHARACTERS_MAX)


class TextFormatter(_Formatter):
    """``2026-01-31T12:00:00.000Z INFO router ready host=127.0.0.1 port=6379``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        time, level, component, event = self._fixed(record)
        # Words of an event stand as they are, unless they could be taken for a field.
        shown = event if _is_plain(event, also=" ") else _quoted(event)
        words = [time, level, _word(component), shown]
        words += [f"{_word(key)}={_word(_text(value))}" for key, value in self._fields(record)]
        return " ".join(words)


class JsonFormatter(_Formatter):
    """The same fields as one JSON object; numbers and booleans stay what they are."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        fields: dict[str, Value] = dict(zip(_FIXED_FIELDS, self._fixed(record), strict=True))
        fields.update(self._fields(record))
        # Only ASCII comes out, so no character of another script can end a line.
        return json.dumps(fields, ensure_ascii=True)


def _plain(value: object) -> Value:
    """A value of `extra` as one that both forms can show."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON has no NaN and no infinity.
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, bytes | bytearray):
        kept = bytes(value[: limits.LOG_VALUE_CHARACTERS_MAX + 1])
        return _cut(kept.decode("utf-8", "backslashreplace"), limits.LOG_VALUE_CHARACTERS_MAX)
    return _cut(str(value), limits.LOG_VALUE_CHARACTERS_MAX)


def _cut(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[:characters_max] + "..."


def _text(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _word(text: str) -> str:
    return text if text and _is_plain(text) else _quoted(text)


def _is_plain(text: str, also: str = "") -> bool:
    """Whether text cannot be taken for anything but one word (or words, with a blank in `also`)."""
    return all(("!" <= c <= "~" and c not in '"=\\') or c in also for c in text)


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    escape = _ESCAPES.get(character)
    if escape is not None:
        return escape
    if " " <= character <= "~":
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
