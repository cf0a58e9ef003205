"""``pocketkv simulate``: what a trace of jobs would cost, by PocketKV's own policy and by others.

`trace` reads and writes traces, `generate` makes them up; `elastic` has the controller's policy
decide on simulated servers (`stations`), `pocket` is the policy of Pocket's release, `fixed` are
clusters of fixed size; `comparing` lets a trace pass under each, under a simulated `clock`, and
`meter` adds up what that costs; `report` and `plot` show it, `command` is the subcommand.
"""

from __future__ import annotations

import argparse

from pocketkv.simulate.options import add_arguments

__all__ = ["add_arguments", "run"]


def run(namespace: argparse.Namespace) -> int:
    """Simulate and show; the process's exit status.

    Raises:
        ConfigError: an option, the trace or the catalog is wrong, or a file cannot be written.
    """
    # rich takes long to import, which no other command should pay for.
    from pocketkv.simulate import command  # noqa: PLC0415

    return command.run(namespace)
