"""Which commands redis-server has, and PocketKV not."""

from __future__ import annotations

from typing import Any

from pocketkv.engine.command_table import with_subcommands
from scripts.command_docs import REASONS
from tests.engine.harness import handlers
from tests.oracle.targets import SocketTarget
from tests.replies import decode

__all__ = ["handlers"]


def all_names(target: SocketTarget) -> set[str]:
    """The names of redis-server's commands, and of their subcommands."""
    target.begin(2, 0)
    names = set()
    for entry in decode(target.run([[b"COMMAND"]])[0]):
        names.add(entry[0].decode())
        names |= {subcommand[0].decode() for subcommand in entry[9]}
    return names


def test_every_command_of_redis_is_there_or_said_not_to_be(redis_target: SocketTarget) -> None:
    theirs = all_names(redis_target)
    ours = {record.name for record in with_subcommands()}
    assert len(theirs) > 350
    assert theirs - ours <= set(REASONS), "`docs/commands.md` says of each why it is not there"


def test_command_list_agrees_with_what_is_there(redis_target: SocketTarget) -> None:
    redis_target.begin(2, 0)
    listed: Any = decode(redis_target.run([[b"COMMAND", b"LIST"]])[0])
    assert {name.decode() for name in listed} <= all_names(redis_target)
