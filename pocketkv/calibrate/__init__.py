"""``pocketkv calibrate``: measures a medium, and says what it is in the catalog's terms.

`medium` looks up what a directory is on, `scratch` is the file that is measured with, `measure`
times it, `entry` makes the catalog's entry of it, `report` shows it, `command` is the subcommand.
"""

from __future__ import annotations

from pocketkv.calibrate.command import add_arguments, run

__all__ = ["add_arguments", "run"]
