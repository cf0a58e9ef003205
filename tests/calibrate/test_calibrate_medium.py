"""What a directory is on, told by a ``/proc`` and ``/sys`` of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocketkv.calibrate.medium import look_at


class System:
    """A ``/proc`` and ``/sys``, in which the test's directory is on a device of choice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.data.mkdir()
        device = self.data.stat().st_dev
        self.number = f"{os.major(device)}:{os.minor(device)}"
        (root / "proc/self").mkdir(parents=True)
        (root / "sys/dev/block").mkdir(parents=True)

    def mount(self, filesystem: str, source: str = "/dev/none", number: str | None = None) -> None:
        line = f"29 1 {number or self.number} / / rw,noatime shared:1 - {filesystem} {source} rw\n"
        with (self.root / "proc/self/mountinfo").open("a") as file:
            file.write("22 1 0:20 / /proc rw - proc proc rw\nnonsense\n" + line)

    def disk(self, name: str, rotational: str | None, model: str = "") -> Path:
        path = self.root / "sys/devices" / name
        (path / "queue").mkdir(parents=True)
        (path / "device").mkdir()
        (path / "device/model").write_text(f"{model}\n")
        if rotational is not None:
            (path / "queue/rotational").write_text(f"{rotational}\n")
        return path

    def use(self, device: Path, number: str | None = None) -> None:
        (self.root / "sys/dev/block" / (number or self.number)).symlink_to(device)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


@pytest.mark.parametrize(
    ("name", "rotational", "model", "tier"),
    [
        ("nvme0n1", "0", "Amazon EC2 NVMe Instance Storage", "nvme"),
        ("nvme1n1", "0", "Amazon Elastic Block Store", "ssd"),
        ("sda", "0", "Some SSD", "ssd"),
        ("sda", "1", "Some disk", "hdd"),
        ("vda", None, "", None),
        ("vda", "2", "", None),
    ],
)
def test_the_tier_of_a_disk(
    system: System, name: str, rotational: str | None, model: str, tier: str | None
) -> None:
    system.mount("ext4")
    system.use(system.disk(name, rotational, model))
    medium = look_at(system.data, system.root)
    assert (medium.filesystem, medium.device, medium.tier) == ("ext4", name, tier)
    assert medium.available_bytes > 0
    assert not medium.in_memory
    assert str(medium).startswith(f"ext4 on {name}")


def test_a_partition_is_of_its_disk(system: System) -> None:
    system.mount("xfs")
    part = system.disk("nvme0n1", "0") / "nvme0n1p2"
    part.mkdir()
    (part / "partition").write_text("2\n")
    system.use(part)
    medium = look_at(system.data, system.root)
    assert (medium.device, medium.rotational, medium.tier) == ("nvme0n1", False, "nvme")


@pytest.mark.parametrize(
    ("flags", "tier"), [("00", "nvme"), ("01", "hdd"), ("0?", None), ("0s", "ssd")]
)
def test_a_volume_is_as_slow_as_the_slowest_disk_below(
    system: System, flags: str, tier: str | None
) -> None:
    system.mount("ext4", "/dev/mapper/values")
    volume = system.disk("dm-0", "0")
    (volume / "slaves").mkdir()
    for number, flag in enumerate(flags):
        name = f"sd{number}" if flag == "s" else f"nvme{number}n1"
        disk = system.disk(name, {"?": None, "s": "0"}.get(flag, flag))
        (volume / "slaves" / name).symlink_to(disk)
    system.use(volume)
    assert look_at(system.data, system.root).tier == tier


def test_a_subvolume_is_found_by_its_path_and_its_source(system: System) -> None:
    # Its number is not in the list of mounts, as with btrfs.
    system.mount("btrfs", "/dev/null", number="0:0")
    null = Path("/dev/null").stat().st_rdev
    (system.root / "dev").symlink_to("/dev")
    system.use(system.disk("sdb", "1"), f"{os.major(null)}:{os.minor(null)}")
    medium = look_at(system.data, system.root)
    assert (medium.filesystem, medium.device, medium.tier) == ("btrfs", "sdb", "hdd")


def test_memory_is_dram(system: System) -> None:
    system.mount("tmpfs", "tmpfs")
    medium = look_at(system.data, system.root)
    assert (medium.tier, medium.device, medium.in_memory) == ("dram", None, True)
    assert str(medium) == "tmpfs"


def test_what_tells_nothing_is_not_guessed(system: System) -> None:
    assert look_at(system.data, system.root).filesystem == "unknown"
    system.mount("nfs4", "server:/values")
    medium = look_at(system.data, system.root)
    assert (medium.filesystem, medium.device, medium.tier) == ("nfs4", None, None)


def test_the_real_system_can_be_looked_at(tmp_path: Path) -> None:
    medium = look_at(tmp_path)
    assert medium.filesystem != "unknown"
    assert medium.tier in {None, "dram", "nvme", "ssd", "hdd"}
    with pytest.raises(FileNotFoundError):
        look_at(tmp_path / "missing")
