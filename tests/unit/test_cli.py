"""The command line itself: what goes wrong before, and after, a subcommand does its work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pocketkv import cli


def test_a_wrong_option_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["storage", "--memory", "-1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pocketkv storage: --memory")
    assert error.count("\n") == 1


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pocketkv import admin, cli\n"
        "admin.request_of = lambda namespace: ['PING']\n"
        "class Client:\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "    def execute_command(self, *_): return ['line %d' % i for i in range(100000)]\n"
        "import redis\n"
        "redis.Redis.from_url = staticmethod(lambda *_, **__: Client())\n"
        "sys.exit(cli.main(['job', 'list']))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == cli.PIPE_CLOSED
