"""The checksum of everything on a volume: XXH3, which keeps up with memory.

The only door of `xxhash`. It detects damage, not intent: who may write the files may forge them.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64, xxh3_64_intdigest

# `checksum(data, seed)` as a number of 64 bits; called directly, since a wrapper would cost a call.
checksum: Final = xxh3_64_intdigest

# The same over data that comes in pieces: `update(data)`, then `intdigest()`.
RunningChecksum = xxh3_64
