"""Which commands redis-server has, and PocketKV not."""

from __future__ import annotations

from typing import Any

from pocketkv.engine.command_table import with_subcommands
from tests.engine.harness import handlers
from tests.oracle.targets import SocketTarget
from tests.replies import decode

__all__ = ["handlers"]

# Slots are given to servers by the controller alone, and there are no replicas.
_NOT_BY_HAND = (
    "addslots addslotsrange bumpepoch count-failure-reports delslots delslotsrange failover"
    " flushslots forget meet replicas replicate reset set-config-epoch setslot slaves"
)
# What is not offered: `docs/commands.md` says so of each.
NOT_OFFERED = {
    *(f"cluster|{name}" for name in _NOT_BY_HAND.split()),
    # No code that somebody else wrote is loaded into a server.
    *("module", "module|help", "module|list", "module|load", "module|loadex", "module|unload"),
    # How a replica speaks to its master.
    *("psync", "replconf", "sync"),
}


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
    assert theirs - ours == NOT_OFFERED & theirs
    assert theirs >= NOT_OFFERED, "what Redis does not have either needs no mention"


def test_command_list_agrees_with_what_is_there(redis_target: SocketTarget) -> None:
    redis_target.begin(2, 0)
    listed: Any = decode(redis_target.run([[b"COMMAND", b"LIST"]])[0])
    assert {name.decode() for name in listed} <= all_names(redis_target)
