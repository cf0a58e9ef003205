"""What a directory is on: its file system, the block device below, and the tier that this makes.

Linux tells it in ``/proc/self/mountinfo`` and ``/sys/dev/block``. A virtual disk says of itself
what its host was told to say, which may be wrong; a network file system and some containers say
nothing. Then the tier is not guessed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MEMORY_FILESYSTEMS: Final = frozenset({"tmpfs", "ramfs"})

# Amazon's network volumes come as NVMe devices, and are no local disks.
_NETWORK_VOLUME_MODELS: Final = ("Elastic Block Store",)

# How deep block devices are stacked at most: LVM over RAID over partitions is three.
_STACKED_MAX: Final = 8


@dataclass(frozen=True)
class Medium:
    """What a directory is on.

    Attributes:
        filesystem: Its type, ``ext4``.
        device: The kernel's name of the block device, ``nvme0n1``; None if there is none.
        rotational: Whether that device says that it turns; None if it does not say.
        available_bytes: What may still be written there.
        tier: The tier that this makes; None if nothing tells.
    """

    filesystem: str
    device: str | None
    rotational: bool | None
    available_bytes: int
    tier: str | None

    @property
    def in_memory(self) -> bool:
        """Whether files are memory there, and nothing can be read cold."""
        return self.filesystem in _MEMORY_FILESYSTEMS

    def __str__(self) -> str:
        if self.device is None:
            return self.filesystem
        turning = {True: ", rotational", False: ", not rotational", None: ""}[self.rotational]
        return f"{self.filesystem} on {self.device}{turning}"


def look_at(directory: Path, root: Path = Path("/")) -> Medium:
    """Return what `directory` is on; `root` is where ``proc``, ``sys`` and ``dev`` are.

    Raises:
        OSError: it cannot be looked at.
    """
    status = directory.stat()
    space = os.statvfs(directory)
    number = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    filesystem, source = _mount(root, number, os.path.realpath(directory))
    device = None if filesystem in _MEMORY_FILESYSTEMS else _device(root, number, source)
    rotational = None if device is None else _rotational(device)
    tier = "dram" if filesystem in _MEMORY_FILESYSTEMS else None
    return Medium(
        filesystem=filesystem,
        device=None if device is None else device.name,
        rotational=rotational,
        available_bytes=space.f_bavail * space.f_frsize,
        tier=tier if device is None else _tier(device),
    )


def _mount(root: Path, number: str, path: str) -> tuple[str, str]:
    """Return type and source of the file system that `path` is on, whose device is `number`."""
    by_path, longest = ("unknown", ""), -1
    by_number = None
    try:
        lines = (root / "proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return by_path
    for line in lines:
        before, separator, after = line.partition(" - ")
        mount, kind = before.split(), after.split()
        if not separator or len(mount) < 5 or len(kind) < 2:
            continue
        if mount[2] == number:
            by_number = (kind[0], kind[1])
        # Subvolumes have numbers of their own, which are in no list: then the path decides.
        point = mount[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            by_path, longest = (kind[0], kind[1]), len(point)
    return by_number or by_path


def _device(root: Path, number: str, source: str) -> Path | None:
    """Return the directory in ``/sys`` of a whole block device; None if there is none."""
    found = root / "sys/dev/block" / number
    if not found.exists() and source.startswith("/dev/"):
        try:
            rdev = (root / source.lstrip("/")).stat().st_rdev
        except OSError:
            return None
        found = root / "sys/dev/block" / f"{os.major(rdev)}:{os.minor(rdev)}"
    if not found.exists():
        return None
    device = found.resolve()
    return device.parent if (device / "partition").exists() else device


def _rotational(device: Path) -> bool | None:
    flag = _content(device / "queue/rotational")
    return None if flag not in ("0", "1") else flag == "1"


def _tier(device: Path, depth: int = 0) -> str | None:
    """Return the tier of a device, or of the slowest of those that it is made of."""
    slaves = device / "slaves"
    below = [path.resolve() for path in sorted(slaves.iterdir())] if slaves.is_dir() else []
    if below and depth < _STACKED_MAX:
        whole = [path.parent if (path / "partition").exists() else path for path in below]
        tiers = [_tier(one, depth + 1) for one in whole]
        return next((tier for tier in ("hdd", None, "ssd") if tier in tiers), "nvme")
    rotational = _rotational(device)
    if rotational is None:
        return None
    if rotational:
        return "hdd"
    model = _content(device / "device/model")
    is_local_nvme = device.name.startswith("nvme") and not any(
        name in model for name in _NETWORK_VOLUME_MODELS
    )
    return "nvme" if is_local_nvme else "ssd"


def _content(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
