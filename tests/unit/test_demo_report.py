"""What the demo says at its end, and that it notices what is left behind."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from pocketkv import client
from pocketkv.catalog import load_catalog
from pocketkv.demo import report, servers
from pocketkv.demo.screen import Screen, amount, rate
from pocketkv.demo.servers import Holding, LeftBehindError
from pocketkv.demo.stages import Stage
from tests.unit.scripted import Answer, ScriptedServer, answers

JOB = "demo-0123456789abcdef"
OWNERS = ("a" * 40, "b" * 40)


def info(**changes: Any) -> dict[str, Any]:
    """What ``JOB.INFO`` answers, as far as the demo reads it."""
    one = {"tier": "dram", "slots": 8192, "used_bytes": 10, "keys": 1}
    return {
        "tiers": ["dram"],
        "demand": {"capacity_bytes": 2**30, "throughput_bytes_s": 600_000_000},
        "cost_usd_per_hour": 0.774,
        "placement": [[0, 8191, "127.0.0.1", 7001, OWNERS[0]], [8192, 16383, "h", 2, OWNERS[1]]],
        "servers": [{"id": name, **one} for name in OWNERS],
    } | changes


def test_amounts_are_for_people() -> None:
    assert [amount(n) for n in (0, 1023, 1024, 1536, 3 * 2**20, 5 * 2**30)] == (
        ["0b", "1023b", "1.0kb", "1.5kb", "3.0mb", "5.0gb"]
    )
    assert rate(2**20, 2.0) == "512.0kb/s"
    assert rate(1, 0.0).endswith("/s")


@pytest.mark.parametrize("width", [None, 80])
def test_tables_are_whole(width: int | None) -> None:
    """In a file they have the room that they need; on a terminal of 80 columns they fit."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=width is not None, markup=False)
    screen = Screen(console)
    stage = Stage("reduce", 16, 123.4, 2**29, 1234, 2**29, 1234, 2**29)
    report.show_stages(screen, [stage, Stage("check", 1, 1.0, 0, 0, 0)])
    report.show_servers(screen, [Holding("a" * 8, "dram", 0.5, 2**30, 12345)])
    shown = output.getvalue()
    assert shown.count("1234 keys 512.0mb") == 2
    assert "16 x reduce" in shown
    assert "50 %" in shown
    assert "…" not in shown


def test_the_cost_is_what_the_catalog_says() -> None:
    lines = "\n".join(report.cost_lines(load_catalog(), info(), 36.0))
    # A hundredth of 0.774; 600 MB/s need two servers of 390 MB/s, at 0.504 each.
    assert "the catalog's machines: 0.007740 USD" in lines
    assert "36.0 s of 0.77 USD an hour" in lines
    assert "1.0gb and 572.2mb/s on dram" in lines
    assert "2 x r6i.2xlarge, for an hour: 1.01 USD" in lines
    assert "prices of 2026-01-19" in lines


def test_no_machine_is_compared_with_a_mixture() -> None:
    lines = report.cost_lines(load_catalog(), info(tiers=["dram", "nvme"]), 36.0)
    assert "dram and nvme" in lines[-1]


def test_holdings_are_by_server() -> None:
    assert servers.holdings(info()) == [
        Holding("aaaaaaaa", "dram", 0.5, 10, 1),
        Holding("bbbbbbbb", "dram", 0.5, 10, 1),
    ]
    assert servers.addresses(info()) == [("127.0.0.1", 7001), ("h", 2)]


# --- what is left behind -------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], ScriptedServer]]:
    monkeypatch.setattr(servers, "COUNTED_TIMEOUT_S", 0.2)
    monkeypatch.setattr(servers, "FREED_TIMEOUT_S", 0.2)
    monkeypatch.setattr(servers, "POLL_S", 0.01)
    started: list[ScriptedServer] = []

    def start(answer: Answer) -> ScriptedServer:
        started.append(ScriptedServer(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


Scripted = Callable[[Answer], ScriptedServer]


def listed(*used_bytes: int) -> bytes:
    """The answer to ``SERVER.LIST``, as far as the demo reads it."""
    rows = [
        b"%%2\r\n+id\r\n$2\r\ns%d\r\n+used_bytes\r\n:%d\r\n" % (number, used)
        for number, used in enumerate(used_bytes)
    ]
    return b"*%d\r\n" % len(rows) + b"".join(rows)


def test_empty_servers_are_empty(scripted: Scripted) -> None:
    server = scripted(answers(listed(5, 0), listed(0, 0)))
    assert servers.check_empty(f"redis://{server.place}", None) == 2


def test_what_is_left_on_a_server_is_found(scripted: Scripted) -> None:
    server = scripted(answers(listed(0, 7)))
    with pytest.raises(LeftBehindError, match="still hold something: s1 7 bytes"):
        servers.check_empty(f"redis://{server.place}", "password")
    greetings = [request for request in server.requests if request[0] == b"HELLO"]
    assert greetings[0][2:5] == [b"AUTH", b"admin", b"password"]


def test_a_server_that_lets_the_job_in_is_found(scripted: Scripted) -> None:
    server = scripted(answers(b":0\r\n"))
    job = client.Job(f"redis://{JOB}:token@{server.place}")
    host, _, port = server.place.partition(":")
    with pytest.raises(LeftBehindError, match=f"{server.place} still knows the job"):
        servers.check_refused(job, [(host, int(port))])
    closed = scripted(answers(b"-WRONGPASS invalid username-password pair\r\n"))
    servers.check_refused(job, [(host, int(closed.place.partition(":")[2]))])
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        servers.check_refused(job, [gone.getsockname()])


def test_lost_keys_are_told_if_anybody_knows(scripted: Scripted) -> None:
    server = scripted(answers(b"%1\r\n+lost_keys\r\n:3\r\n", b"-ERR no such job\r\n"))
    job = client.Job(f"redis://{JOB}:token@{server.place}")
    assert [servers.lost_keys(job), servers.lost_keys(job)] == [3, 0]


def test_reports_that_never_agree_are_found(scripted: Scripted) -> None:
    server = scripted(
        answers(
            b"%1\r\n+servers\r\n*1\r\n%5\r\n+id\r\n+a\r\n+tier\r\n+dram\r\n+slots\r\n:1\r\n"
            b"+used_bytes\r\n:0\r\n+keys\r\n:3\r\n"
        )
    )
    job = client.Job(f"redis://{JOB}:token@{server.place}")
    assert servers.counted_holdings(job, 3) == [Holding("a", "dram", 1.0, 0, 3)]
    with pytest.raises(LeftBehindError, match="report 3 keys where there are 4"):
        servers.counted_holdings(job, 4)
