"""Commands on streams alone, with nodes of some entries only, so that trimming meets their ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.commands_streams import STRATEGIES
from tests.oracle.examples import EXAMPLES, compare, compared
from tests.oracle.generate import Request
from tests.oracle.targets import EngineTarget, SocketTarget, StoreTarget

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

_some = st.lists(st.one_of(STRATEGIES), max_size=20)
sequences = st.tuples(_some, _some, _some).map(lambda lists: [*lists[0], *lists[1], *lists[2]])
node_entries = st.sampled_from([b"100", b"3", b"2", b"0", b"1"])
node_bytes = st.sampled_from([b"4096", b"4096", b"64", b"0"])
KEYS = (b"a", b"b", b"{a}c", b"")
# Beside the digest, which knows nothing of groups.
FINALLY: list[Request] = [
    [b"DEBUG", b"DIGEST"],
    *([b"XINFO", b"STREAM", key, b"FULL"] for key in KEYS),
    *([b"XINFO", b"GROUPS", key] for key in KEYS),
    [b"CONFIG", b"SET", b"stream-node-max-entries", b"100", b"stream-node-max-bytes", b"4096"],
]


def configured(requests: list[Request], entries: bytes, size: bytes) -> list[Request]:
    names = (b"stream-node-max-entries", b"stream-node-max-bytes")
    return [[b"CONFIG", b"SET", names[0], entries, names[1], size], *requests]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("target", [EngineTarget, StoreTarget], ids=["memory", "cold"])
def test_every_reply_is_as_redis_s(
    redis_target: SocketTarget, target: type[EngineTarget], protocol: int
) -> None:
    ours = target()

    @compared(EXAMPLES // 3)
    @given(requests=sequences, entries=node_entries, size=node_bytes)
    def check(requests: list[Request], entries: bytes, size: bytes) -> None:
        requests = configured(requests, entries, size)
        compare(ours, redis_target, requests, protocol, FINALLY)

    check()
