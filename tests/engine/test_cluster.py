"""CLUSTER: three forms of one map, and the questions about single slots."""

from __future__ import annotations

import re

import pytest

from pocketkv.slots import SLOT_COUNT, key_slot
from tests.engine.harness import NODE_ID, OTHER_ID, Engine
from tests.replies import Error

RANGES = [(0, 99), (8000, 16383)]


@pytest.fixture
def split() -> Engine:
    engine = Engine()
    engine.own_only(RANGES)
    return engine


def slots_of_nodes(text: bytes) -> dict[int, str]:
    owners = {}
    for line in text.decode().splitlines():
        node, _, _, _, _, _, _, state, *ranges = line.split(" ")
        assert state == "connected"
        for part in ranges:
            first, _, last = part.partition("-")
            owners.update(dict.fromkeys(range(int(first), int(last or first) + 1), node))
    return owners


def test_slots_shards_and_nodes_agree(split: Engine) -> None:
    client = split.connect(protocol=3)

    by_slots = {
        slot: node[2].decode()
        for first, last, node in client("CLUSTER", "SLOTS")
        for slot in range(first, last + 1)
    }
    by_shards = {}
    for shard in client("CLUSTER", "SHARDS"):
        bounds = shard[b"slots"]
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            owner = shard[b"nodes"][0][b"id"].decode()
            by_shards.update(dict.fromkeys(range(first, last + 1), owner))
    by_nodes = slots_of_nodes(client("CLUSTER", "NODES").text)

    assert by_slots == by_shards == by_nodes
    assert len(by_slots) == SLOT_COUNT
    assert {by_slots[0], by_slots[100]} == {NODE_ID, OTHER_ID}


def test_hosts_are_never_empty_and_ports_are_real(split: Engine) -> None:
    for _, _, (host, port, node, metadata) in split.connect()("CLUSTER", "SLOTS"):
        assert host == b"127.0.0.1"
        assert port in (7000, 7001)
        assert re.fullmatch(rb"[0-9a-f]{40}", node)
        assert metadata == []


def test_a_storage_server_is_myself_in_nodes(split: Engine) -> None:
    lines = split.connect()("CLUSTER", "NODES").decode().splitlines()

    (mine,) = [line for line in lines if "myself" in line]
    assert mine.startswith(f"{NODE_ID} 127.0.0.1:7000@17000 myself,master - 0 0 ")
    assert mine.endswith(" connected 0-99 8000-16383")
    assert split.connect()("CLUSTER", "MYID").decode() == NODE_ID


def test_a_node_without_slots_is_myself_too(split: Engine) -> None:
    split.node.id = "router-1"
    client = split.connect()

    (mine,) = [x for x in client("CLUSTER", "NODES").decode().splitlines() if "myself" in x]

    assert mine.split(" ")[0] == client("CLUSTER", "MYID").decode()
    assert mine.endswith("connected")
    assert re.match(r"[0-9a-f]{40} ", mine)


def test_info_is_ok_only_if_every_slot_is_served(split: Engine) -> None:
    client = split.connect()
    assert b"cluster_state:ok\r\n" in client("CLUSTER", "INFO")
    assert b"cluster_size:2\r\n" in client("CLUSTER", "INFO")

    del split.topology.servers[OTHER_ID]

    assert b"cluster_state:fail\r\n" in client("CLUSTER", "INFO")
    assert b"cluster_slots_ok:8484\r\n" in client("CLUSTER", "INFO")


def test_another_jobs_map_is_not_shown(split: Engine) -> None:
    client = split.connect(job_id="other-job")

    assert client("CLUSTER", "SLOTS") == []
    assert client("CLUSTER", "SHARDS") == []
    assert b"cluster_slots_assigned:0\r\n" in client("CLUSTER", "INFO")


def test_keyslot_honours_hash_tags() -> None:
    client = Engine().connect()

    assert client("CLUSTER", "KEYSLOT", "123456789") == 12739
    assert client("CLUSTER", "KEYSLOT", "a{tag}b") == client("CLUSTER", "KEYSLOT", "tag")


def test_keys_in_a_slot_are_counted_and_listed() -> None:
    engine = Engine()
    client = engine.connect()
    for key in ("{t}1", "{t}2", "{t}3"):
        client("SET", key, "v")
    client("PEXPIRE", "{t}3", 10)
    engine.advance(11)
    slot = key_slot(b"t")

    assert client("CLUSTER", "COUNTKEYSINSLOT", slot) == 2
    assert sorted(client("CLUSTER", "GETKEYSINSLOT", slot, 10)) == [b"{t}1", b"{t}2"]
    assert len(client("CLUSTER", "GETKEYSINSLOT", slot, 1)) == 1
    assert client("CLUSTER", "COUNTKEYSINSLOT", slot + 1) == 0


def test_a_slot_that_is_not_served_here_is_moved(split: Engine) -> None:
    client = split.connect()

    assert client("CLUSTER", "COUNTKEYSINSLOT", 100) == Error("MOVED 100 127.0.0.1:7001")
    assert client("CLUSTER", "GETKEYSINSLOT", 100, 1) == Error("MOVED 100 127.0.0.1:7001")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("COUNTKEYSINSLOT", SLOT_COUNT), "ERR Invalid slot"),
        (("COUNTKEYSINSLOT", -1), "ERR Invalid slot"),
        (("COUNTKEYSINSLOT", "x"), "ERR value is not an integer or out of range"),
        (("GETKEYSINSLOT", SLOT_COUNT, 1), "ERR Invalid slot or number of keys"),
        (("GETKEYSINSLOT", 1, -1), "ERR Invalid slot or number of keys"),
        (("GETKEYSINSLOT", 1, "x"), "ERR value is not an integer or out of range"),
        (("KEYSLOT",), "ERR wrong number of arguments for 'cluster|keyslot' command"),
        (("NOSUCH", "h", 1), "ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP."),
        (
            ("MEET", "h", 1),
            "ERR servers come and go by the controller: see TIER.SCALE and SERVER.DRAIN",
        ),
        ((), "ERR wrong number of arguments for 'cluster' command"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], text: str) -> None:
    assert Engine().connect()("CLUSTER", *arguments) == Error(text)
