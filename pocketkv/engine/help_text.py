"""What a container's HELP answers, made of the records of its subcommands."""

from __future__ import annotations

from pocketkv.engine.commands import COMMANDS
from pocketkv.resp.replies import Reply, Simple


def help_lines(container: bytes) -> Reply:
    """A heading, then two lines for each subcommand; `container` in lower case."""
    records = sorted(COMMANDS[container].subcommands.values(), key=lambda record: record.name)
    name = container.upper()
    lines = [b"%b <subcommand> [<arg> [value] [opt] ...]. Subcommands are:" % name]
    for record in records:
        subcommand = record.name.partition("|")[2].upper()
        lines.append(f"{subcommand} {record.usage}".strip().encode())
        lines.append(b"    " + record.summary.encode())
    return [Simple(line) for line in lines]
