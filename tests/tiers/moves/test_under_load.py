"""Clients read and write at full speed while slots go to and fro, and see nothing of it."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.tiers.moves.load import Follower, Load, plain
from tests.tiers.moves.scripted import IDS, LAST_SLOT, cluster
from tests.tiers.storage_process import eventually

HALF = 8000


def test_clients_of_a_router_and_cluster_clients_see_nothing(tmp_path: Path) -> None:
    with cluster(tmp_path, with_router=True) as running:
        running.give_all()
        filling = running.client(0)
        filling("SADD", "big", *(f"member-{n}" for n in range(20_000)))
        filling("SET", "large", bytes(5_000_000))
        for n in range(2000):
            filling("SET", f"still-{n}", n)
        loads = [Load(f"plain-{n}", plain(running.plain_client())) for n in range(2)]
        loads += [Load(f"cluster-{n}", Follower(running)) for n in range(2)]
        for load in loads:
            load.start()
        scanned: list[set[bytes]] = []
        end = threading.Event()

        def walk() -> None:
            client = running.plain_client()
            while not end.is_set():
                cursor, found = b"0", set()
                while True:
                    cursor, keys = client("SCAN", cursor, "COUNT", 100)
                    found |= {key for key in keys if key.startswith(b"still-")}
                    if cursor == b"0":
                        break
                scanned.append(found)

        walking = threading.Thread(target=walk, daemon=True)
        walking.start()
        source, target = 0, 1
        for _ in range(2):
            one, other = IDS[source], IDS[target]
            first, second = running.controller.place_job(
                [(0, LAST_SLOT, one)],
                [(0, HALF, one, other), (HALF + 1, LAST_SLOT, one, other)],
            )
            running.wait_moved(first)
            running.wait_moved(second)
            source, target = target, source
            running.controller.place_job([(0, LAST_SLOT, other)])
        end.set()
        walking.join(30)
        for load in loads:
            load.finish()
        client = plain(running.plain_client())
        for load in loads:
            load.check(client)
        assert client("STRLEN", "large") == 5_000_000
        assert client("SCARD", "big") == 20_000
        assert scanned
        assert all(len(found) == 2000 for found in scanned)
        kept = 2002 + sum(3 for load in loads for count in load.counts if count)
        assert client("DBSIZE") == kept

        def holds() -> int:
            told = [report.get("holds", {}) for report in running.controller.reports.values()]
            return sum(hold.get("count", 0) for hold in told)

        # A report comes every second.
        eventually(lambda: holds() >= 2)


def test_the_count_of_keys_is_right_at_every_moment(tmp_path: Path) -> None:
    with cluster(tmp_path, with_router=True) as running:
        running.give_all()
        filling = running.client(0)
        for n in range(500):
            filling("SET", f"still-{n}", n)
        counts: set[object] = set()
        end = threading.Event()

        def count() -> None:
            client = plain(running.plain_client())
            while not end.is_set():
                counts.add(client("DBSIZE"))
                counts.add(len(client("KEYS", "*")))  # type: ignore[arg-type]

        counting = [threading.Thread(target=count, daemon=True) for _ in range(2)]
        for thread in counting:
            thread.start()
        pieces = [(n, n + 1023) for n in range(0, LAST_SLOT + 1, 1024)]
        moves = running.controller.place_job(
            [(0, LAST_SLOT, IDS[0])], [(a, b, IDS[0], IDS[1]) for a, b in pieces]
        )
        for move_id in moves:
            running.wait_moved(move_id)
        end.set()
        for thread in counting:
            thread.join(30)
        assert counts == {500}
