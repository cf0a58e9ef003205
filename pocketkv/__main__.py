"""``python -m pocketkv`` is the `pocketkv` command."""

from __future__ import annotations

import sys

from pocketkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
