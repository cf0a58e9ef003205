"""After a refusal nothing is executed on a router's connection until the router has noted it."""

from __future__ import annotations

import json

from pocketkv.engine.fence import BEHIND, RESUME
from pocketkv.resp.encoder import encode_reply
from pocketkv.slots import SLOT_COUNT, key_slot
from pocketkv.tokens import member_proof
from tests.engine.harness import OTHER_ID, Engine
from tests.replies import Error, decode
from tests.router.support import SECRET, to_bytes

SLOT = key_slot(b"moved")


class Proxy:
    """A connection that has proved to be a router's."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.connect()
        challenge = self._client("POCKETKV.PROXY")
        assert self._client("POCKETKV.PROXY", "r", member_proof(SECRET, "r", challenge)) == "OK"

    def __call__(self, *arguments: object) -> object:
        handler = self._client.transport.handler
        assert handler is not None
        return decode(encode_reply(handler.execute([to_bytes(a) for a in arguments]), 2))


def make_engine() -> Engine:
    engine = Engine(secret=SECRET)
    engine.own_only([(0, SLOT - 1), (SLOT + 1, SLOT_COUNT - 1)])
    return engine


def test_what_is_behind_a_refusal_is_refused_too() -> None:
    engine = make_engine()
    proxy, other = Proxy(engine), Proxy(engine)
    assert proxy("SET", "here", 1) == "OK"
    assert proxy("SET", "moved", 1) == Error(f"MOVED {SLOT} 127.0.0.1:7001")
    behind = Error(BEHIND.decode())
    assert [proxy("SET", "here", 2), proxy("FLUSHALL"), proxy("PING")] == [behind] * 3
    assert other("GET", "here") == b"1"
    raw = proxy(RESUME)
    assert isinstance(raw, bytes)
    placement = json.loads(raw)
    assert [SLOT, SLOT, OTHER_ID] in placement["ranges"]
    assert proxy("GET", "here") == b"1"


def test_other_errors_are_no_refusals() -> None:
    proxy = Proxy(make_engine())
    assert proxy("SET", "here", "text") == "OK"
    assert isinstance(proxy("INCR", "here"), Error)
    assert isinstance(proxy("NOSUCH"), Error)
    assert proxy("GET", "here") == b"text"
    # Without a fence there is nothing to resume from.
    assert isinstance(proxy(RESUME), Error)


def test_a_walk_into_foreign_slots_is_a_refusal() -> None:
    proxy = Proxy(make_engine())
    assert proxy("SCAN", SLOT << 48) == Error(f"MOVED {SLOT} 127.0.0.1:7001")
    assert proxy("SCAN", 0) == Error(BEHIND.decode())


def test_the_map_of_a_job_that_is_not_known_is_null() -> None:
    engine = make_engine()
    proxy = Proxy(engine)
    assert isinstance(proxy("GET", "moved"), Error)
    engine.topology.placements.clear()
    assert proxy(RESUME) is None
