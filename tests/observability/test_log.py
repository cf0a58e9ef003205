from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.observability import log as logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    everything, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    levels = everything.level, ours.level
    yield
    for handler in [h for h in everything.handlers if isinstance(h, logs.LineHandler)]:
        everything.removeHandler(handler)
    everything.setLevel(levels[0])
    ours.setLevel(levels[1])


def formatted(form: type[logging.Formatter], message: object, /, **extra: object) -> str:
    record = logging.getLogger(logs.ROOT).makeRecord(
        logs.ROOT, logging.WARNING, "f.py", 1, message, (), None, extra=extra
    )
    return form("router").format(record)


def as_text(message: object, **extra: object) -> str:
    return formatted(logs.TextFormatter, message, **extra)


def as_json(message: object, **extra: object) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(formatted(logs.JsonFormatter, message, **extra))
    return fields


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (6379, "6379"),
        (0.25, "0.25"),
        (True, "true"),
        (None, "null"),
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak\r", r'"line\nbreak\r"'),
        ("\x1b[31m", r'"\x1b[31m"'),
        ("\x85\u2028\u202e", r'"\x85\u2028\u202e"'),
        ("caf\xe9 \U0001f600", r'"caf\xe9 \U0001f600"'),
        ("\udcff", r'"\udcff"'),
        (b"key:1", "key:1"),
        (b"\xff\n", r'"\\xff\n"'),
        (float("nan"), "nan"),
        (["a", 1], """"['a', 1]\""""),
    ],
)
def test_a_value_is_quoted_when_it_must_be(value: object, shown: str) -> None:
    assert re.fullmatch(
        TIME + " WARNING router dropped v=" + re.escape(shown), as_text("dropped", v=value)
    )


def test_a_value_in_json_stays_what_it_is() -> None:
    fields = as_json("dropped", fd=3, ok=False, part=0.5, none=None, key=b"\xffx", bad=float("inf"))
    assert re.fullmatch(TIME, fields.pop("time"))
    assert fields == {
        "level": "WARNING",
        "component": "router",
        "event": "dropped",
        "fd": 3,
        "ok": False,
        "part": 0.5,
        "none": None,
        "key": "\\xffx",
        "bad": "inf",
    }


def test_time_is_utc_in_milliseconds() -> None:
    record = logging.LogRecord(logs.ROOT, logging.INFO, "", 0, "x", (), None)
    record.created = 1_767_225_599.9996
    assert logs.TextFormatter("c").format(record) == "2025-12-31T23:59:59.999Z INFO c x"


@given(st.text(), st.text(), st.text())
def test_one_event_is_one_line_of_ascii(event: str, key: str, value: str) -> None:
    extra = {key: value} if key not in logs._OWN_ATTRIBUTES else {}
    for form in (logs.TextFormatter, logs.JsonFormatter):
        line = formatted(form, event, **extra)
        assert line.splitlines() == [line]
        assert all(" " <= c <= "~" for c in line)


@given(st.text(max_size=50), st.binary(max_size=50))
def test_no_value_can_forge_a_field(text: str, raw: bytes) -> None:
    line = as_text("event", first=text, second=raw, last="end")
    fields = re.findall(r' ([a-z]+)=("(?:[^"\\]|\\.)*"|[^" ]+)', line)
    assert [name for name, _ in fields] == ["first", "second", "last"]
    assert line.endswith(" last=end")


def test_an_event_that_looks_like_a_field_is_quoted() -> None:
    assert as_text("user level=ERROR").endswith(' router "user level=ERROR"')


def test_fields_of_the_line_itself_are_not_overwritten() -> None:
    fields = as_json("dropped", component="evil", level="ERROR", time="never", event="other")
    assert (fields["component"], fields["level"], fields["event"]) == (
        "router",
        "WARNING",
        "dropped",
    )
    assert fields["component_"] == "evil"
    assert as_text("x", level="low").endswith(" router x level_=low")


@pytest.mark.parametrize("value", ["x" * 5000, b"x" * 5000, ["x" * 5000]])
def test_long_values_are_cut(value: object) -> None:
    shown = as_json("event", v=value)["v"]
    assert len(shown) == limits.LOG_VALUE_CHARACTERS_MAX + 3
    assert shown.endswith("x...")
    assert len(as_json("x" * 5000)["event"]) == limits.LOG_VALUE_CHARACTERS_MAX + 3


def log_failure(log: logging.Logger, text: str) -> None:
    def fail() -> None:
        raise ValueError(text)

    try:
        fail()
    except ValueError:
        log.exception("it failed")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_part_of_the_line(form: str) -> None:
    stream = io.StringIO()
    log_failure(logs.configure("storage", "info", form, stream), "first\nsecond")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "Traceback (most recent call last):\\n" in lines[0]
    assert r"ValueError: first\nsecond" in lines[0]


def test_a_long_trace_is_cut() -> None:
    stream = io.StringIO()
    log_failure(logs.configure("storage", "info", "json", stream), "x" * 100_000)
    trace = json.loads(stream.getvalue())["exception"]
    assert len(trace) == limits.LOG_TRACE_CHARACTERS_MAX + 3


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", "dwe"), ("info", "we"), ("warning", "we"), ("ERROR", "e")],
)
def test_less_important_events_are_not_written(level: str, events: str) -> None:
    stream = io.StringIO()
    log = logs.configure("c", level, "text", stream)
    log.debug("d")
    log.getChild("part").warning("w")
    log.error("e")
    assert "".join(line.split()[3] for line in stream.getvalue().splitlines()) == events


def test_other_packages_are_heard_from_warnings_on() -> None:
    stream = io.StringIO()
    logs.configure("c", "debug", "text", stream)
    other = logging.getLogger("trio.serve_listeners")
    other.info("chatter")
    other.warning("accept failed")
    assert re.fullmatch(
        TIME + " WARNING c accept failed logger=trio.serve_listeners\n", stream.getvalue()
    )


def test_configuring_again_replaces_the_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("c", "info", "text", first)
    log = logs.configure("c", "info", "json", second)
    log.info("hello")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["event"] == "hello"


@pytest.mark.parametrize(("level", "form"), [("loud", "text"), ("info", "xml"), ("", "text")])
def test_what_does_not_exist_is_refused(level: str, form: str) -> None:
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ValueError, match=r"no log (level|format) is called"):
        logs.configure("c", level, form, io.StringIO())
    assert logging.getLogger().handlers == handlers


class FullDisk(io.StringIO):
    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_stream_that_fails_does_not_stop_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    stream = FullDisk()
    log = logs.configure("c", "info", "text", stream)
    log.info("one")
    log.info("two")
    stream.full = False
    log.info("three")
    log.info("four")
    shown = [line.split(" ", 3)[3] for line in stream.getvalue().splitlines()]
    assert shown == ["three log_failures=2", "four"]
    assert capsys.readouterr().err == ""


def test_a_closed_stream_does_not_stop_the_server() -> None:
    stream = io.StringIO()
    log = logs.configure("c", "info", "text", stream)
    stream.close()
    log.info("one")


def test_a_defect_in_a_logging_call_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    # pytest's own handlers would raise instead of telling.
    logging.getLogger().handlers.clear()
    log = logs.configure("c", "info", "text", io.StringIO())
    log.info("%d", "no number")
    assert "--- Logging error ---" in capsys.readouterr().err
