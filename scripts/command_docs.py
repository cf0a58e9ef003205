"""Writes docs/commands.md: every command of Redis 7.2 with its state here, and PocketKV's own.

    python scripts/command_docs.py            write it anew
    python scripts/command_docs.py --check    fail if it is stale

What is supported, the records of the commands say. Which commands Redis 7.2 has is a list beside
this file, since no such server is at hand. What differs, and why something is not there, is said
here; a command that is in none of these makes this fail.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pocketkv.engine import handlers  # noqa: E402 - the path has to be known first
from pocketkv.engine.command_table import with_subcommands  # noqa: E402
from pocketkv.engine.commands import Command  # noqa: E402

__all__ = ["handlers", "main", "text"]

NAMES: Final = Path(__file__).with_name("redis-7.2-commands.txt")
TARGET: Final = ROOT / "docs" / "commands.md"

# What those who know Redis would not expect.
DIFFERENCES: Final = {
    "acl|setuser": "Users are the job's own, on all of its nodes, and are kept with the job: they "
    "log in as `job-id/user`, in the job `default` as `user`. In a cluster the user `default` of a "
    "registered job has the job's token and all rights, and users are not changed in "
    "transactions. Rules are shown as they were given, as in 7.2.",
    "acl|load": "Answers as a Redis without an ACL file.",
    "acl|save": "Answers as a Redis without an ACL file.",
    "bgrewriteaof": "Answers as Redis, and does nothing: no file is kept.",
    "bgsave": "Answers as Redis, and LASTSAVE tells of it; nothing is saved.",
    "client|kill": "Reaches the clients of the job that are connected to this node.",
    "client|list": "Shows the clients of the job that are connected to this node.",
    "client|no-evict": "Is noted; no client is evicted.",
    "client|pause": "Holds the job's clients of this node only.",
    "config|rewrite": "Answers as a Redis without a configuration file.",
    "config|set": "Settings are a node's, and take an administrator where there is one, but for "
    "`notify-keyspace-events`, which is each job's own, on all of its nodes. Settings of files and "
    "replicas are remembered and shown, and have no effect, but for `min-replicas-to-write`: "
    "there are no replicas, so nothing is written then.",
    "debug": "Subcommands that tests and curiosity ask for; none that stops the server.",
    "failover": "Refused in Redis's words for a master without replicas.",
    "flushall": "Removes the keys of the job, on all of its servers.",
    "info": "Tells of the job, on a router of all its servers together.",
    "lastsave": "When SAVE or BGSAVE was last asked for, or the server began.",
    "latency|graph": "A picture of another style.",
    "lolwut": "The version, without its pictures.",
    "memory|doctor": "In words of our own.",
    "memory|malloc-stats": "Answers as Redis with an allocator that tells nothing.",
    "memory|purge": "OK: free memory is given back in the background in any case.",
    "migrate": "Refused, unless none of the keys exists: no server opens connections for clients.",
    "module|list": "Empty: there are no modules.",
    "monitor": "Shows the commands of the job; an administrator sees all.",
    "publish": "Reaches all of the job's subscribers, whatever server or router they are connected "
    "to; in scripts, the count is of those of this server and of routers.",
    "readonly": "There are no replicas, so nothing changes.",
    "readwrite": "There are no replicas, so nothing changes.",
    "replicaof": "Refused, but for `NO ONE`: a value has one copy.",
    "role": "Always a master without replicas.",
    "save": "Answers as Redis, and LASTSAVE tells of it; nothing is saved.",
    "replconf": "Answers as Redis; SYNC and PSYNC are refused.",
    "shutdown": "Refused: servers are stopped by whoever runs them.",
    "slaveof": "Refused, but for `NO ONE`: a value has one copy.",
    "slowlog|get": "Shows the job's own calls.",
    "waitaof": "There are no such files and no replicas.",
    "wait": "There are no replicas: 0, at once or when the time is over.",
}
# Why a command is not there.
REASONS: Final[dict[str, str]] = {}
_HEAD: Final = """\
# Commands

Every command of Redis 7.2 and what becomes of it here, then PocketKV's own. Replies, errors and
RESP3 types are those of redis-server 7.0.15, with which the tests compare them to the byte; through
a router, commands whose keys are on several servers are split where the result is exact, and else
answered with `-CROSSSLOT`.

This file is written by `make commands` from the records of the commands; do not change it by hand.
"""


def text() -> str:
    """The whole file.

    Raises:
        SystemExit: A command of Redis is neither here nor is it said why.
    """
    records = {record.name: record for record in with_subcommands()}
    names = NAMES.read_text(encoding="ascii").split()
    silent = [n for n in names if n not in records and n not in REASONS]
    if silent:
        raise SystemExit(f"not offered, and nobody says why: {', '.join(silent)}")
    known = set(names)
    own = [r for r in records.values() if r.name not in known and not _is_debug(r)]
    missing = [n for n in names if n not in records]
    parts = [_HEAD, f"{len(names) - len(missing)} of {len(names)} are offered.\n"]
    groups = sorted({records[n].group for n in names if n in records})
    for group in groups:
        members = [records[n] for n in names if n in records and records[n].group == group]
        parts.append(f"\n## {group}\n\n| command | |\n|---|---|\n")
        parts += [_row(record) for record in members]
    if missing:
        parts.append("\n## Not offered\n\n| command | why |\n|---|---|\n")
        parts += [f"| {_spelled(name)} | {REASONS[name]} |\n" for name in missing]
    parts.append("\n## PocketKV's own\n\n| command | |\n|---|---|\n")
    parts += [_row(record) for record in own]
    return "".join(parts)


def _is_debug(record: Command) -> bool:
    return record.name.startswith("debug|")


def _spelled(name: str) -> str:
    return f"`{name.upper().replace('|', ' ')}`"


def _row(record: Command) -> str:
    note = DIFFERENCES.get(record.name, "")
    said = record.summary.replace("|", "\\|")
    return f"| {_spelled(record.name)} | {said}{f' **Differs:** {note}' if note else ''} |\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` tell whether it is as it would be written."""
    written = text()
    if arguments == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == written:
            return 0
        sys.stderr.write("docs/commands.md is stale: make commands\n")
        return 1
    TARGET.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
