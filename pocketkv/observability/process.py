"""What the operating system knows of this process and its machine. The only door of psutil.

A sample costs some 0.1 ms, so it may be taken every second in the thread that serves clients.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import psutil

from pocketkv.engine.node import ProcessFigures

_ROOT: Final = Path("/")
_INTERFACES: Final = Path("/sys/class/net")
_DESCRIPTORS: Final = "/proc/self/fd"


class ProcessSampler:
    """Reads this process's figures, and how they changed since they were read before.

    Args:
        timer_s: A monotonic clock.

    Attributes:
        figures: The last sample.
        cpu_fraction: CPU time per time between the last two samples; 1.0 is one core.
        network_received_bytes, network_sent_bytes: What went over the machine's (in a container:
            the container's) network interfaces since they came up, the loopback left out.
        disk_read_bytes, disk_written_bytes: What this process had devices read and write, as far as
            the system tells: what the page cache answers is not in it. 0 where it does not tell.
        steal_fraction: The part of the machine's time, between the last two samples, in which the
            hypervisor let others run.
        descriptors: Open file descriptors.
        threads: Threads of the process.
    """

    def __init__(self, timer_s: Callable[[], float] = time.monotonic) -> None:
        self._peak_bytes = 0
        self._process = psutil.Process()
        self._timer_s = timer_s
        self._sampled_s = timer_s()
        self._cpu_s = self._read_cpu_s()
        self._machine_memory_bytes = machine_memory_bytes()
        self._operating_system = f"{platform.system()} {platform.release()} {platform.machine()}"
        self._interfaces: dict[str, bool] = {}
        self.figures = ProcessFigures()
        self.cpu_fraction = 0.0
        self.network_received_bytes = 0
        self.network_sent_bytes = 0
        self.disk_read_bytes = 0
        self.disk_written_bytes = 0
        self.steal_fraction = 0.0
        self._machine_times_s = _machine_times_s()
        self.descriptors = 0
        self.threads = 0
        self.sample()

    def sample(self) -> ProcessFigures:
        """Read everything anew."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            memory = self._process.memory_info()
            self.threads = self._process.num_threads()
            self._measure_disk()
        self.descriptors = self._count_descriptors()
        self._measure_cpu(times.user + times.system)
        self._measure_network()
        # ru_maxrss is in KiB on Linux, and lags behind what was seen already.
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._peak_bytes = max(self._peak_bytes, peak_bytes, memory.rss)
        self.figures = ProcessFigures(
            pid=self._process.pid,
            rss_bytes=memory.rss,
            rss_peak_bytes=self._peak_bytes,
            anonymous_bytes=memory.rss - memory.shared,
            cpu_user_s=times.user,
            cpu_system_s=times.system,
            machine_memory_bytes=self._machine_memory_bytes,
            operating_system=self._operating_system,
            python_version=platform.python_version(),
        )
        return self.figures

    @staticmethod
    def machine_id() -> str:
        """As the function of the same name."""
        return machine_id()

    def _read_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def _measure_cpu(self, cpu_s: float) -> None:
        now_s = self._timer_s()
        elapsed_s = now_s - self._sampled_s
        # The system counts CPU time in ticks of 10 ms: over a shorter time it means nothing.
        if elapsed_s < 0.05:
            return
        self.cpu_fraction = max(0.0, (cpu_s - self._cpu_s) / elapsed_s)
        self._cpu_s = cpu_s
        self._sampled_s = now_s
        before, self._machine_times_s = self._machine_times_s, _machine_times_s()
        total_s = self._machine_times_s[0] - before[0]
        stolen_s = self._machine_times_s[1] - before[1]
        self.steal_fraction = min(1.0, max(0.0, stolen_s / total_s)) if total_s > 0 else 0.0

    def _measure_disk(self) -> None:
        try:
            counters = self._process.io_counters()
        except (psutil.Error, OSError, NotImplementedError):
            return  # A sandbox may hide them.
        self.disk_read_bytes = counters.read_bytes
        self.disk_written_bytes = counters.write_bytes

    def _measure_network(self) -> None:
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
        if counters.keys() != self._interfaces.keys():
            self._interfaces = counted_interfaces(list(counters), _INTERFACES)
        counted = [c for name, c in counters.items() if self._interfaces[name]]
        self.network_received_bytes = sum(c.bytes_recv for c in counted)
        self.network_sent_bytes = sum(c.bytes_sent for c in counted)

    def _count_descriptors(self) -> int:
        """Since Linux 6.2 their number is the directory's size; before, it must be listed."""
        return os.stat(_DESCRIPTORS).st_size or self._process.num_fds()  # noqa: PTH116 - hot


def _machine_times_s() -> tuple[float, float]:
    """All of the machine's time since it started, over its cores, and the stolen part of it."""
    times = psutil.cpu_times()
    # What guests of this machine took is part of what users did.
    guests_s = times.guest + times.guest_nice
    return sum(times) - guests_s, times.steal


def counted_interfaces(names: list[str], folder: Path) -> dict[str, bool]:
    """Which network interfaces to add up, so that no byte is counted twice.

    Bridges, bonds and the machine's ends of containers' interfaces carry what a device carries
    too, so only devices count where there are any. A container has none, and its own interface
    counts.

    Args:
        names: All interfaces.
        folder: ``/sys/class/net``.
    """
    devices = {name for name in names if (folder / name / "device").exists()}
    return {name: name in devices if devices else name != "lo" for name in names}


def rss_bytes() -> int:
    """The memory of this process that is resident now."""
    return int(psutil.Process().memory_info().rss)


def machine_id(root: Path = _ROOT) -> str:
    """A name of the machine, which all processes on it see, in containers too.

    It is the running kernel's, since containers made of one image may share every other one. A
    machine has another one after a restart.

    Args:
        root: Where ``proc`` and ``etc`` are.
    """
    for source in ("proc/sys/kernel/random/boot_id", "etc/machine-id"):
        try:
            text = (root / source).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text:
            return text.replace("-", "")
    return platform.node()


def machine_memory_bytes(root: Path = _ROOT) -> int:
    """The memory that this process can have: the machine's, or its container's if that is less.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    return min([int(psutil.virtual_memory().total), *_control_group_limits(root)])


def _control_group_limits(root: Path) -> Iterator[int]:
    """The memory limits of the process's control group and of those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield from _limits_upward(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            yield from _limits_upward(folder, path, "memory.limit_in_bytes")


def _limits_upward(mount: Path, path: str, name: str) -> Iterator[int]:
    """The limits on the way from a group up to the mount.

    Inside a container the path may be the host's, of which only the container's own group is
    mounted; that is then found at the mount itself.
    """
    folder = mount / path.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(mount):
            return
        try:
            text = (group / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        # "max" means no limit in version 2, a number beyond every memory in version 1.
        if text.isdigit() and int(text) > 0:
            yield int(text)
