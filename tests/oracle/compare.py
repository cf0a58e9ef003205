"""When two replies count as the same. To the byte, unless a leniency with its reason says else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.replies import Error, decode


@dataclass(frozen=True)
class Leniency:
    """Why replies to a command may differ, and how much.

    Attributes:
        reason: Why they may.
        same: Whether they are the same nevertheless: request, our and their decoded reply.
    """

    reason: str
    same: Callable[[list[bytes], Any, Any], bool]


# By upper-case name; a subcommand's is b"OBJECT ENCODING".
Leniencies = dict[bytes, Leniency]


def close_to(tolerance: int) -> Callable[[list[bytes], Any, Any], bool]:
    """Numbers that mean times of two clocks."""

    def same(_: list[bytes], ours: Any, theirs: Any) -> bool:
        if not isinstance(ours, int) or not isinstance(theirs, int):
            return bool(ours == theirs)
        return abs(ours - theirs) <= tolerance and (ours < 0) == (theirs < 0)

    return same


def any_order(_: list[bytes], ours: Any, theirs: Any) -> bool:
    """Arrays whose elements come in no order."""
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return bool(ours == theirs)
    return type(ours) is type(theirs) and sorted(ours) == sorted(theirs)


def find_leniency(request: list[bytes], leniencies: Leniencies) -> Leniency | None:
    """The leniency that a request is judged with."""
    name = request[0].upper()
    if len(request) > 1:
        leniency = leniencies.get(name + b" " + request[1].upper())
        if leniency is not None:
            return leniency
    return leniencies.get(name)


def same_reply(
    request: list[bytes], our_reply: bytes, their_reply: bytes, leniencies: Leniencies
) -> bool:
    """Whether our reply is as good as theirs."""
    if our_reply == their_reply:
        return True
    leniency = find_leniency(request, leniencies)
    if leniency is None or our_reply[:1] != their_reply[:1]:
        return False
    ours, theirs = decode(our_reply), decode(their_reply)
    if isinstance(ours, Error):
        return False
    return leniency.same(request, ours, theirs)


def first_difference(
    requests: list[list[bytes]],
    our_replies: list[bytes],
    their_replies: list[bytes],
    leniencies: Leniencies,
) -> str | None:
    """What went wrong first, for people; ``None`` if nothing did."""
    replies = zip(requests, our_replies, their_replies, strict=True)
    for number, (request, ours, theirs) in enumerate(replies):
        if not same_reply(request, ours, theirs, leniencies):
            history = [f"    {shorten(r)}" for r in requests[:number]]
            return "\n".join(
                [
                    "after",
                    *history,
                    f"the reply to {shorten(request)}",
                    f"    is     {shorten(ours)}",
                    f"    not    {shorten(theirs)}",
                ]
            )
    return None


def shorten(value: object) -> str:
    """A value's text, without the middle of long ones."""
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-100:]}"
