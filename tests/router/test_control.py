"""What becomes of the controller's answers."""

from __future__ import annotations

import pytest

from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import decode_reply
from pocketkv.resp.replies import OK, ErrorReply, Reply
from pocketkv.router.control import as_reply

REPLIES: list[Reply] = [
    None,
    7,
    True,
    1.5,
    b"bulk",
    b"",
    [b"a", 1, None, [b"b"]],
    {b"id": b"x", b"servers": [{b"host": b"h", b"port": 1}], b"none": None},
    OK,
    ErrorReply(b"ERR no such job"),
    [ErrorReply(b"ERR inner")],
]


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
@pytest.mark.parametrize("protocol", [2, 3])
def test_an_answer_is_told_to_the_client_as_the_controller_said_it(
    reply: Reply, protocol: int
) -> None:
    answer = decode_reply(encode_reply(reply, 3))
    assert encode_reply(as_reply(answer), protocol) == encode_reply(reply, protocol)


def test_what_no_controller_answers_is_no_reply() -> None:
    with pytest.raises(PeerError):
        as_reply(object())
