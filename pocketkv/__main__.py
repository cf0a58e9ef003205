"""The `pocketkv` command, also as ``python -m pocketkv``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line; the process's exit status."""
    if os.getpid() == 1:
        # The first process of a container gets no signal that it does not handle. Told to end while
        # it is still being loaded, it would go on for all the time that a drain may take. It ends
        # as any other process does: nothing has begun yet.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    from pocketkv.cli import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
