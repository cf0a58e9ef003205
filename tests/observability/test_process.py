from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pocketkv.engine.node import ProcessFigures
from pocketkv.observability import process
from pocketkv.observability.process import ProcessSampler

MIB = 1024 * 1024
UNLIMITED_V1 = "9223372036854771712"


class Timer:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n", encoding="ascii")


def test_a_sample_tells_what_the_system_knows() -> None:
    sampler = ProcessSampler()
    figures = sampler.sample()
    assert isinstance(figures, ProcessFigures)
    assert figures is sampler.figures
    assert figures.pid == os.getpid()
    assert figures.rss_peak_bytes >= figures.rss_bytes > MIB
    assert abs(figures.rss_bytes - process.rss_bytes()) < 64 * MIB
    assert figures.cpu_user_s > 0
    assert figures.machine_memory_bytes == process.machine_memory_bytes()
    assert figures.operating_system.startswith("Linux ")
    assert figures.python_version == sys.version.split()[0]
    assert sampler.threads == psutil.Process().num_threads()


def test_resident_memory_follows_what_is_used() -> None:
    sampler = ProcessSampler()
    before_bytes = sampler.sample().rss_bytes
    # Straight from the system: an allocator might have it left over from other tests.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 64 * MIB, flags=private) as block:
        block.write(bytes(64 * MIB))
        after = sampler.sample()
    assert after.rss_bytes - before_bytes > 48 * MIB
    assert sampler.sample().rss_peak_bytes >= after.rss_bytes


def test_descriptors_are_counted() -> None:
    sampler = ProcessSampler()
    before = sampler.descriptors
    pairs = [os.pipe() for _ in range(10)]
    sampler.sample()
    assert sampler.descriptors == before + 20
    for pair in pairs:
        os.close(pair[0])
        os.close(pair[1])


def test_descriptors_are_counted_on_an_older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_DESCRIPTORS", "/dev/null")
    sampler = ProcessSampler()
    assert abs(sampler.descriptors - len(list(Path("/proc/self/fd").iterdir()))) <= 1


def io_bytes(name: str) -> int:
    """What the kernel says that this process has had devices do."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def test_what_devices_did_for_this_process_is_counted(tmp_path: Path) -> None:
    sampler = ProcessSampler()
    (tmp_path / "file").write_bytes(bytes(4 * MIB))
    least = io_bytes("write_bytes"), io_bytes("read_bytes")
    sampler.sample()
    most = io_bytes("write_bytes"), io_bytes("read_bytes")
    assert least[0] <= sampler.disk_written_bytes <= most[0]
    assert least[1] <= sampler.disk_read_bytes <= most[1]


def test_where_the_system_hides_them_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "io_counters", hidden)
    sampler = ProcessSampler()
    assert (sampler.disk_read_bytes, sampler.disk_written_bytes) == (0, 0)


def test_stolen_time_is_a_part_of_all_that_there_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # No hypervisor steals on request, so what it would tell is played.
    times = iter([(100.0, 5.0), (100.0, 5.0), (108.0, 7.0), (108.0, 7.0)])
    monkeypatch.setattr(process, "_machine_times_s", lambda: next(times))
    timer = Timer()
    sampler = ProcessSampler(timer)
    timer.now_s += 1
    sampler.sample()
    assert sampler.steal_fraction == 0.0
    timer.now_s += 1
    sampler.sample()
    assert sampler.steal_fraction == 0.25
    timer.now_s += 1
    sampler.sample()
    assert sampler.steal_fraction == 0.0


def test_cpu_is_a_fraction_of_the_time_since_the_last_sample() -> None:
    timer = Timer()
    sampler = ProcessSampler(timer)
    used = time.process_time()
    while time.process_time() < used + 0.1:
        pass
    timer.now_s += 0.2
    sampler.sample()
    assert 0.3 < sampler.cpu_fraction < 1.5
    timer.now_s += 1000.0
    sampler.sample()
    assert sampler.cpu_fraction < 0.01


def test_cpu_over_no_time_is_what_it_was() -> None:
    timer = Timer()
    sampler = ProcessSampler(timer)
    used = time.process_time()
    while time.process_time() < used + 0.05:
        pass
    timer.now_s += 0.1
    sampler.sample()
    before = sampler.cpu_fraction
    assert before > 0
    sampler.sample()
    assert sampler.cpu_fraction == before


def test_a_sample_is_cheap() -> None:
    sampler = ProcessSampler()
    spent = time.process_time()
    for _ in range(20):
        sampler.sample()
    assert (time.process_time() - spent) / 20 < 0.005


# --- network -----------------------------------------------------------------------------------


def test_devices_count_and_not_what_stands_before_them(tmp_path: Path) -> None:
    (tmp_path / "eth0" / "device").mkdir(parents=True)
    names = ["lo", "eth0", "docker0", "veth12", "bond0"]
    counted = process.counted_interfaces(names, tmp_path)
    assert [name for name in names if counted[name]] == ["eth0"]


def test_a_container_s_own_interface_counts(tmp_path: Path) -> None:
    counted = process.counted_interfaces(["lo", "eth0"], tmp_path)
    assert counted == {"lo": False, "eth0": True}


def test_network_bytes_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        def __init__(self, received: int, sent: int) -> None:
            self.bytes_recv, self.bytes_sent = received, sent

    present = {"lo": Counter(1, 2), "zz0": Counter(10, 20)}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: present)
    sampler = ProcessSampler()
    assert (sampler.network_received_bytes, sampler.network_sent_bytes) == (10, 20)
    present["zz1"] = Counter(100, 200)
    sampler.sample()
    assert (sampler.network_received_bytes, sampler.network_sent_bytes) == (110, 220)


def test_no_network_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: {})
    assert ProcessSampler().network_sent_bytes == 0


# --- memory of machine and container -----------------------------------------------------------


def test_without_a_control_group_the_memory_is_the_machine_s(tmp_path: Path) -> None:
    assert process.machine_memory_bytes(tmp_path) == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "expected_mib"),
    [
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(64 * MIB)},
            64,
            id="version 2, in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pods/pod1/app",
                "sys/fs/cgroup/pods/pod1/app/memory.max": "max",
                "sys/fs/cgroup/pods/pod1/memory.max": str(32 * MIB),
                "sys/fs/cgroup/pods/memory.max": str(48 * MIB),
            },
            32,
            id="version 2, the limit is around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory,hugetlb:/docker/abc\n0::/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(16 * MIB),
            },
            16,
            id="version 1, in a container that shows the machine's path",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/a",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(8 * MIB),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            },
            8,
            id="version 1, no container",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../outside", "sys/fs/cgroup/memory.max": str(4 * MIB)},
            4,
            id="version 2, outside the name space",
        ),
    ],
)
def test_a_container_s_limit_is_found(
    tmp_path: Path, files: dict[str, str], expected_mib: int
) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    assert process.machine_memory_bytes(tmp_path) == expected_mib * MIB


@pytest.mark.parametrize("text", ["max", UNLIMITED_V1, "0", "", "nonsense"])
def test_no_limit_means_the_machine_s_memory(tmp_path: Path, text: str) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/a")
    write(tmp_path, "sys/fs/cgroup/a/memory.max", text)
    assert process.machine_memory_bytes(tmp_path) == psutil.virtual_memory().total


# --- which machine -----------------------------------------------------------------------------


def test_every_process_of_a_machine_sees_the_same_id() -> None:
    code = "from pocketkv.observability.process import machine_id; print(machine_id())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert other.stdout.strip() == process.machine_id() == ProcessSampler.machine_id()


def test_the_kernel_s_id_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "etc/machine-id", "0123456789abcdef")
    assert process.machine_id(tmp_path) == "0123456789abcdef"
    write(tmp_path, "proc/sys/kernel/random/boot_id", "01234567-89ab-cdef")
    assert process.machine_id(tmp_path) == "0123456789abcdef"
    write(tmp_path, "proc/sys/kernel/random/boot_id", "aaaa-bbbb")
    assert process.machine_id(tmp_path) == "aaaabbbb"


def test_without_any_id_the_host_s_name_is_one(tmp_path: Path) -> None:
    write(tmp_path, "etc/machine-id", "")
    assert process.machine_id(tmp_path) == os.uname().nodename
