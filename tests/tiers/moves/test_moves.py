"""Slots go from one real server to another, with all that they hold."""

from __future__ import annotations

import os
from pathlib import Path

from pocketkv import limits
from tests.replies import Error
from tests.tiers.moves.scripted import cluster


def test_every_kind_of_value_goes(tmp_path: Path) -> None:
    large = os.urandom(3 * limits.MIB + 11)
    with cluster(tmp_path) as running:
        running.give_all()
        a = running.client(0)
        a("MSET", "small", "value", "empty", "", "number", 12)
        a("APPEND", "changed", "abc")
        a("APPEND", "changed", "def")
        a("SADD", "integers", 1, 2, 3)
        a("SADD", "members", *(f"member-{n}" for n in range(20_000)))
        a("SET", "large", large)
        a("SET", "expiring", "soon", "PX", 1_000_000)
        due_ms = a("PEXPIRETIME", "expiring")
        for n in range(3000):
            a("SET", f"key-{n}", n)
        size = a("DBSIZE")
        move_id = running.move()
        running.wait_moved(move_id)
        b = running.client(1)
        assert b("DBSIZE") == size
        assert b("MGET", "small") == [b"value"]
        assert b("GET", "empty") == b""
        assert b("OBJECT", "ENCODING", "number") == b"int"
        assert b("GET", "changed") == b"abcdef"
        assert sorted(b("SMEMBERS", "integers")) == [b"1", b"2", b"3"]
        assert b("OBJECT", "ENCODING", "integers") == b"intset"
        assert b("SCARD", "members") == 20_000
        assert b.get(b"large") == large
        assert b("PEXPIRETIME", "expiring") == due_ms
        assert all(b("GET", f"key-{n}") == b"%d" % n for n in range(3000))
        assert isinstance(a("GET", "small"), Error)
        assert a("GET", "small").text.startswith("MOVED ")
        assert a("DBSIZE") == 0
