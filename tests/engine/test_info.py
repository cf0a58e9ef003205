"""INFO: sections, the fields that clients read, and nothing of other jobs."""

from __future__ import annotations

import dataclasses
import errno
import re

import pytest
from redis._parsers.helpers import parse_info

from pocketkv import __version__
from pocketkv.engine.extents import Extents
from pocketkv.engine.info import human_bytes, percentile_us, plain_text
from pocketkv.engine.medium import MediumFigures
from pocketkv.engine.stats import CommandStats
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Client, Engine
from tests.engine.media import FakeMedium
from tests.replies import Error

DEFAULT = (
    "Server Clients Memory Persistence Stats Replication CPU Modules Errorstats Cluster Keyspace"
    " Pocketkv Tiers"
).split()


def text_of(client: Client, *sections: str) -> str:
    return str(client("INFO", *sections).decode())


def fields_of(client: Client, *sections: str) -> dict[str, str]:
    lines = text_of(client, *sections).split("\r\n")
    return dict(line.split(":", 1) for line in lines if ":" in line)


def titles(text: str) -> list[str]:
    return re.findall(r"^# (\w+)\r$", text, re.MULTILINE)


def test_the_default_sections_are_in_redis_s_order(client: Client) -> None:
    assert titles(text_of(client)) == DEFAULT
    assert titles(text_of(client, "DEFAULT")) == DEFAULT


@pytest.mark.parametrize("name", ["all", "everything", "EVERYTHING"])
def test_all_sections(client: Client, name: str) -> None:
    assert set(titles(text_of(client, name))) == {*DEFAULT, "Commandstats", "Latencystats"}


def test_sections_are_chosen_by_name(client: Client) -> None:
    assert titles(text_of(client, "stats", "Server", "nosuch")) == ["Server", "Stats"]
    assert text_of(client, "nosuch") == ""
    both = titles(text_of(client, "commandstats", "default"))
    assert [title for title in both if title != "Commandstats"] == DEFAULT
    assert len(both) == len(DEFAULT) + 1


def test_lines_end_as_redis_s(client: Client) -> None:
    text = text_of(client, "everything")
    assert text.replace("\r\n", "").count("\n") == 0
    assert "\r\n\r\n# Clients\r\n" in text
    assert text.endswith("\r\n")


def test_what_clients_read(client: Client) -> None:
    fields = fields_of(client)
    assert (
        fields
        | {
            "redis_version": "7.0.15",
            "redis_mode": "standalone",
            "tcp_port": "7000",
            "loading": "0",
            "role": "master",
            "master_repl_offset": "0",
            "cluster_enabled": "0",
            "connected_clients": "1",
            "maxmemory_policy": "noeviction",
        }
        == fields
    )
    assert re.fullmatch(r"[0-9a-f]{40}", fields["run_id"])


def test_a_member_of_a_cluster_says_so(client: Client) -> None:
    client.engine.node.clustered = True
    fields = fields_of(client)
    assert (fields["redis_mode"], fields["cluster_enabled"]) == ("cluster", "1")


def test_our_own_section(engine: Engine, client: Client) -> None:
    engine.node.medium = "memory"
    engine.space.quota_bytes = 12345
    client("SET", "k", "v")
    fields = fields_of(client, "pocketkv")
    assert (
        fields
        | {
            "pocketkv_version": __version__,
            "pocketkv_role": "storage",
            "pocketkv_tier": "dram",
            "pocketkv_medium": "memory",
            "pocketkv_job": "default",
            "pocketkv_job_epoch": "1",
            "pocketkv_job_quota_bytes": "12345",
            "pocketkv_job_used_bytes": str(engine.space.used_bytes),
            "pocketkv_job_slots": "16384",
            "pocketkv_map_epoch": "1",
        }
        == fields
    )
    assert fields["pocketkv_core"] in {"python", "compiled"}


def test_it_tells_how_the_medium_of_large_strings_is_used() -> None:
    extents = Extents(FakeMedium(1024, page_bytes=4096))
    client = Engine(extents=extents).connect()
    client("SET", "k", bytes(100_000))
    extents.allocate_backed(40_000)
    other = client.engine.connect()
    other.receive(encode_request([b"SET", b"k", bytes(100_000)])[:90_000])
    fields = fields_of(client, "pocketkv")
    assert fields["pocketkv_extents_used_bytes"] == str(50 * 4096)
    assert fields["pocketkv_extents_reserved_bytes"] == "0"
    assert fields["pocketkv_extents_warm_bytes"] == str(10 * 4096)
    assert fields["pocketkv_extents_spent_bytes"] == "0"
    assert 80_000 < int(fields["pocketkv_job_incoming_bytes"]) < 90_000


def medium_figures(**changes: object) -> MediumFigures:
    """Figures that all differ."""
    made: dict[str, object] = {
        field.name: 1000 + number for number, field in enumerate(dataclasses.fields(MediumFigures))
    }
    made |= {"directory": "/data/a=b,c", "capacity_bytes": None, "error": ""}
    return MediumFigures(**(made | changes))  # type: ignore[arg-type]


def test_values_in_memory_have_no_medium_to_tell_of(client: Client) -> None:
    assert fields_of(client, "tiers") == {"tier_medium": "memory"}
    client.engine.node.role = "router"
    assert fields_of(client, "tiers") == {}


def test_the_medium_is_told_of(client: Client) -> None:
    node = client.engine.node
    node.medium = "files"
    node.medium_figures = medium_figures
    node.write_failed(OSError(errno.EIO, "Input/output error"))
    fields = fields_of(client, "tiers")
    figures = medium_figures()
    for one in dataclasses.fields(MediumFigures):
        if one.name not in {"directory", "capacity_bytes", "error"}:
            assert fields[f"tier_{one.name}"] == str(getattr(figures, one.name))
    assert (fields["tier_medium"], fields["tier_directory"]) == ("files", "/data/a%3Db%2Cc")
    assert fields["tier_capacity_bytes"] == "none"
    assert (fields["tier_failing"], fields["tier_error"]) == ("0", "")
    assert fields["tier_write_errors"] == "1"
    assert fields["tier_last_write_error"] == "Input/output error"
    assert fields["tier_last_write_error_time"] == str(node.clock.now_s)
    # What everybody's client makes of it.
    read: dict[str, object] = parse_info(  # type: ignore[no-untyped-call]  # as redis-py has it
        text_of(client, "tiers").encode()
    )
    assert read["tier_directory"] == "/data/a%3Db%2Cc"
    assert read["tier_used_bytes"] == figures.used_bytes


def test_a_failing_medium_is_told_of(client: Client) -> None:
    client.engine.node.medium_figures = lambda: medium_figures(
        capacity_bytes=5, error="IOERR a, b=c\r\nd"
    )
    fields = fields_of(client, "tiers")
    assert (fields["tier_failing"], fields["tier_capacity_bytes"]) == ("1", "5")
    assert fields["tier_error"] == "IOERR a%2C b%3Dc%0D%0Ad"


def test_texts_of_the_system_stay_one_field() -> None:
    assert plain_text("/srv/Größe 1") == "/srv/Größe 1"
    assert plain_text("a%2C\udcff\t") == "a%252C%FF%09"


def test_a_job_reads_about_itself_only(engine: Engine, client: Client) -> None:
    other = engine.connect(job_id="secret-0123456789abcdef")
    other("MSET", "a", 1, "b", 2)
    other("GET", "nosuch")
    client("SET", "k", 1)
    client("SELECT", 3)
    client("SET", "k", 1, "EX", 1000)
    text = text_of(client, "everything")
    assert "secret" not in text
    fields = fields_of(client, "everything")
    assert fields["db0"] == "keys=1,expires=0,avg_ttl=0"
    assert fields["db3"] == "keys=1,expires=1,avg_ttl=0"
    assert fields["used_memory"] == str(engine.space.used_bytes)
    assert fields["keyspace_misses"] == "0"
    assert fields["connected_clients"] == "1"
    assert fields_of(other)["db0"].startswith("keys=2,")


def test_calls_failures_and_refusals_are_counted(client: Client) -> None:
    client("SET", "k", "v")
    client("INCR", "k")
    client("GET", "k")
    client("GET")
    client.engine.space.quota_bytes = 0
    client("SET", "k", "v")
    fields = fields_of(client, "everything")
    assert fields["cmdstat_set"].startswith("calls=1,usec=")
    assert fields["cmdstat_set"].endswith("rejected_calls=1,failed_calls=0")
    assert fields["cmdstat_incr"].endswith("rejected_calls=0,failed_calls=1")
    assert fields["errorstat_ERR"] == "count=2"
    assert fields["errorstat_OOM"] == "count=1"
    assert fields["latency_percentiles_usec_get"].startswith("p50=1.024,p99=")


def test_bytes_of_closed_connections_stay_counted(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    second("SET", "k", "x" * 1000)
    second.disconnect()
    assert int(fields_of(client, "stats")["total_net_input_bytes"]) > 1000


def test_info_is_verbatim_text(client3: Client) -> None:
    assert client3.raw("INFO", "cluster") == b"=34\r\ntxt:# Cluster\r\ncluster_enabled:0\r\n\r\n"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1585280, "1.51M"), (2**50, "1.00P")],
)
def test_amounts_for_people(amount: int, text: str) -> None:
    assert human_bytes(amount) == text


def test_percentiles() -> None:
    stats = CommandStats()
    assert percentile_us(stats, 50) == 0
    stats.calls = 100
    stats.buckets[10] = 98
    stats.buckets[20] = 2
    assert percentile_us(stats, 50) == 1.024
    assert percentile_us(stats, 99) == 1048.576


def test_latencies_are_shown_as_they_are_wanted(client: Client) -> None:
    client("SET", "k", "v")
    assert "latency_percentiles_usec_set:p50=" in text_of(client, "latencystats")
    for bad in ("10 a", "10 101"):
        reply = client("CONFIG", "SET", "latency-tracking-info-percentiles", bad)
        assert isinstance(reply, Error)
    assert client("CONFIG", "SET", "latency-tracking-info-percentiles", "0.0 100.0") == "OK"
    (line,) = [line for line in text_of(client, "latencystats").splitlines() if "_set:" in line]
    assert re.fullmatch(r"latency_percentiles_usec_set:p0=[0-9.]+,p100=[0-9.]+", line)
    assert client("CONFIG", "SET", "latency-tracking", "no") == "OK"
    assert "_set:" not in text_of(client, "latencystats")
