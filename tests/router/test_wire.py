"""Requests on their way out, and what refusals say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv import limits
from pocketkv.resp.encoder import Outbox, encode_request
from pocketkv.resp.errors import ProtocolError
from pocketkv.router.wire import bulk_body, request_cost, write_request


def sent(outbox: Outbox) -> bytes:
    return b"".join(bytes(piece) for piece in outbox.pieces())


@given(
    st.lists(
        st.binary(max_size=30)
        | st.just(b"x" * limits.SHARED_REPLY_BYTES)
        | st.just(b"y" * (limits.SHARED_REPLY_BYTES - 1)),
        min_size=1,
        max_size=5,
    )
)
def test_a_request_is_written_as_a_client_sends_it(request: list[bytes]) -> None:
    outbox = Outbox()
    write_request(outbox, request, request_cost(request, None))
    assert sent(outbox) == encode_request(request)


def test_a_large_argument_is_not_copied() -> None:
    value = bytes(limits.MIB)
    outbox = Outbox()
    request = [b"SET", b"k", value]
    write_request(outbox, request, request_cost(request, None))
    assert any(piece.obj is value for piece in outbox.pieces())


def test_the_body_of_a_bulk() -> None:
    assert bulk_body(b"$3\r\nabc\r\n") == b"abc"
    assert bulk_body(b"=7\r\ntxt:abc\r\n") == b"abc"
    for frame in (b"$-1\r\n", b"+OK\r\n", b":3\r\n"):
        with pytest.raises(ProtocolError):
            bulk_body(frame)
