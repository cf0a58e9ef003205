"""``pocketkv top``: a live view of a cluster, on a terminal.

`figures` makes rows of what the cluster answers, `source` asks it, `tables` lays the rows out,
`app` is the screen, and `command` the subcommand, which prints one view where there is no terminal.
"""

from __future__ import annotations

from pocketkv.top.command import add_arguments, run

__all__ = ["add_arguments", "run"]
