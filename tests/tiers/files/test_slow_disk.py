"""A disk that does not keep up: writers of large values wait for it, but not for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pocketkv import limits
from pocketkv.limits import KIB, MIB
from tests.tiers.files.disks import ext4, slow_writes
from tests.tiers.files.servers import options_of, pattern, serving

# More than the server lets be on its way.
VALUES = 200


@pytest.mark.slow
def test_writers_are_refused_when_the_disk_stays_behind(tmp_path: Path) -> None:
    with (
        ext4(tmp_path / "disk", 640 * MIB) as disk,
        serving(tmp_path, *options_of("nvme", disk.folder / "values")) as server,
    ):
        client = server.control
        value = pattern(1, MIB)
        assert client("SET", "before", value) == "OK"
        with slow_writes(server.process.pid, disk.device, 64 * KIB) as end_slowness:
            began_s = time.monotonic()
            error = None
            written = 0
            while error is None and written < VALUES:
                reply = client("SET", f"large:{written}", value)
                if reply == "OK":
                    written += 1
                else:
                    error = reply
            waited_s = time.monotonic() - began_s
            assert "IOERR the medium takes no writes: it has been behind for" in str(error)
            assert waited_s >= limits.LARGE_HOLD_MAX_S
            # What begins now is refused without a wait of its own; all else goes on.
            began_s = time.monotonic()
            assert "IOERR" in str(client("SET", "large", value))
            assert time.monotonic() - began_s < limits.LARGE_HOLD_MAX_S / 2
            assert client("GET", "before") == value
            assert client("GET", "large:0") == value
            assert client("SET", "small", "value") == "OK"
            assert "the medium fails" in server.log
            end_slowness()
            deadline_s = time.monotonic() + 60
            while client("SET", "after", value) != "OK":
                assert time.monotonic() < deadline_s
        assert client("GET", "after") == value
        # Nothing that was acknowledged is missing.
        assert client("EXISTS", *[f"large:{n}" for n in range(written)]) == written
