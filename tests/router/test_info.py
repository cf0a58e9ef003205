"""INFO of a whole job, from the router's text and the servers' texts."""

from __future__ import annotations

from pocketkv.router.info import format_sections, merge_sections, parse_sections

OWN = (
    b"# Server\r\nredis_version:7.0.15\r\n\r\n"
    b"# Memory\r\nused_memory:0\r\nused_memory_human:0B\r\nmem_allocator:libc\r\n\r\n"
    b"# Stats\r\ntotal_commands_processed:7\r\nkeyspace_hits:0\r\nkeyspace_misses:0\r\n\r\n"
    b"# Keyspace\r\n\r\n# Pocketkv\r\npocketkv_job_slots:0\r\n"
)
SERVERS = [
    b"# Memory\r\nused_memory:1000000\r\n# Stats\r\nkeyspace_hits:3\r\nkeyspace_misses:1\r\n\r\n",
    b"# Memory\r\nused_memory:573\r\n\r\n# Stats\r\nkeyspace_hits:4\r\nkeyspace_misses:0\r\n\r\n",
]
SERVERS[0] += (
    b"# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=100\r\ndb2:keys=1,expires=0,avg_ttl=0\r\n"
)
SERVERS[1] += (
    b"# Keyspace\r\ndb0:keys=5,expires=3,avg_ttl=200\r\ndb10:keys=9,expires=0,avg_ttl=0\r\n"
)
SERVERS[0] += b"\r\n# Pocketkv\r\npocketkv_job_slots:10000\r\n"
SERVERS[1] += b"\r\n# Pocketkv\r\npocketkv_job_slots:6384\r\n"


def test_a_text_comes_back_as_it_was() -> None:
    assert format_sections(parse_sections(OWN)) == OWN


def test_sums_what_is_about_keys_and_leaves_the_rest() -> None:
    merged = merge_sections(parse_sections(OWN), [parse_sections(t) for t in SERVERS], 0)
    assert merged["Server"] == {"redis_version": "7.0.15"}
    assert merged["Memory"] == {
        "used_memory": "1000573",
        "used_memory_human": "977.12K",
        "mem_allocator": "libc",
    }
    assert merged["Stats"]["keyspace_hits"] == "7"
    assert merged["Stats"]["keyspace_misses"] == "1"
    assert merged["Stats"]["total_commands_processed"] == "7"
    assert merged["Pocketkv"] == {"pocketkv_job_slots": "16384", "pocketkv_silent_servers": "0"}
    assert list(merged["Keyspace"].items()) == [
        ("db0", "keys=8,expires=4,avg_ttl=175"),
        ("db2", "keys=1,expires=0,avg_ttl=0"),
        ("db10", "keys=9,expires=0,avg_ttl=0"),
    ]


def test_says_how_many_servers_are_missing_in_the_sums() -> None:
    merged = merge_sections(parse_sections(OWN), [parse_sections(SERVERS[0])], 2)
    assert merged["Pocketkv"]["pocketkv_silent_servers"] == "2"
    assert merged["Keyspace"]["db0"] == "keys=3,expires=1,avg_ttl=100"


def test_adds_no_section_that_was_not_asked_for() -> None:
    own = parse_sections(b"# Server\r\nredis_version:7.0.15\r\n")
    assert merge_sections(own, [parse_sections(SERVERS[0])], 0) == own
