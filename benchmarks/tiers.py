"""The file tiers: beside what fio gets out of the same directory, and beside the dram tier.

A value is cold when the system has forgotten it (`page_cache`); that the server found it so is
checked by its own count of reads that it left to workers. Written values count when all of them are
on the device, those of fio too.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import page_cache
from benchmarks.client import BenchmarkError, Client
from benchmarks.cold import EXHAUSTED
from benchmarks.comparison import Row, Target, ratios, spread
from benchmarks.driver import Driven, Flood
from benchmarks.exchanges import OK, Exchange, bulk, command, dense_value, key
from benchmarks.filling import set_in_order
from benchmarks.fio import INSTALL, Fio, Measured, is_installed
from benchmarks.helpers import helper
from benchmarks.paced import Paced
from benchmarks.sampling import OWN_DRIVER, P50, P99, Settings, check_counts, measure, turns
from benchmarks.servers import HOST, Endpoint, storage_server
from benchmarks.works import KIB, MIB, TIERS_PREFIX, hot_work

GROUP: Final = "tiers"
WRITE, READ, RANDOM, HOT, ISOLATION = (
    "tiers-write-1m",
    "tiers-read-1m",
    "tiers-read-4k",
    "tiers-hot-1m",
    "tiers-isolation",
)
NAMES: Final = (WRITE, READ, RANDOM, HOT, ISOLATION)
QUICK: Final = frozenset({HOT})
"""Those of a quick run."""

BESIDE_FIO: Final = frozenset({WRITE, READ, RANDOM})
"""Those that need fio."""

SMALL_BYTES: Final = 4 * KIB
STREAMS: Final = 4
"""Large values that are under way at a time."""

DEPTH: Final = 16
"""Small ones; and the cold clients beside whom another one wants hot values."""

_MEMORY: Final = "512mb"
_STREAMED: Final = Target(low=0.8)
_AT_DEPTH: Final = Target(low=0.5)
_BESIDE: Final = Target(high=2.0)
_SEED: Final = 11
# So many of the small values are asked for in a run at most: more, and what stands beside a value
# on its pages is often there already.
_ASKED_SHARE: Final = 0.25
_ASKED_MIN: Final = 200
# Of what should have been read from the device, what really was.
_COLD_SHARE: Final = 0.5
_HOT_KEYS: Final = 100
# One client with a few connections: were it one, a late reply would delay the next request too.
_HOT_LANES: Final = 4
_HOT_RATE: Final = 400
# For a p99 that does not hang on a handful of requests.
_HOT_RUN_MIN_S: Final = 2.0
_ALONE: Final = "alone"
_SETTLE_TIMEOUT_S: Final = 60.0
_SEEN_S: Final = 3.0
# Beside the values there are fio's file, and what was removed and is not given back yet.
_ROOM: Final = 4


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where and how much is measured.

    Attributes:
        folder: On the medium.
        size_bytes: Of all values of a work together, and of fio's file.
        settings: How thoroughly.
    """

    folder: Path
    size_bytes: int
    settings: Settings


@dataclass
class Taken:
    """What came out of one of them: lines of the table, and every sample."""

    rows: list[Row] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)


def missing_program(name: str) -> str:
    """Return what has to be installed first; empty if nothing has."""
    return INSTALL if name in BESIDE_FIO and not is_installed() else ""


class Bench:
    """A file-tier server in a directory of its own, and fio beside it; made by `bench`.

    Attributes:
        ours: The server.
    """

    def __init__(self, ground: Ground, folder: Path, ours: Endpoint, fio: Fio) -> None:
        self._ground = ground
        self._folder = folder
        self.ours = ours
        self._fio = fio
        self._large = dense_value(MIB)
        self._small = dense_value(SMALL_BYTES)

    def take(self, name: str) -> Taken:
        """Measure one of `NAMES`.

        Raises:
            BenchmarkError: It cannot be, or what was measured was something else.
            OSError: A server went away.
        """
        try:
            return {
                WRITE: self._write,
                READ: self._read,
                RANDOM: self._read_randomly,
                HOT: self._hot,
                ISOLATION: self._isolation,
            }[name]()
        finally:
            self._fio.remove()
            self._empty()

    # --- beside fio ----------------------------------------------------------------------------

    def _write(self) -> Taken:
        def ours() -> float:
            self._empty()
            return self._written_mib_per_s()

        return self._streams(
            f"SET {_MIB}, until it is on the device",
            ours,
            partial(self._fio.write, MIB, STREAMS),
        )

    def _read(self) -> Taken:
        reply = bulk(self._large)
        asked = [Exchange(command(b"GET", key(n)), reply) for n in range(self._large_values)]
        driver = Flood(lambda: asked, STREAMS)

        def ours() -> float:
            # What is read again is brought into the page cache: this is about what is read once.
            self._empty()
            self._written_mib_per_s()
            # So long the server takes to see that the device has all of it.
            time.sleep(_SEEN_S)
            with self._cold_reads(len(asked)):
                driven = driver.run(HOST, self.ours.port, len(asked))
            return driven.operations / driven.duration_s

        return self._streams(f"GET {_MIB}, cold", ours, partial(self._fio.read, MIB, STREAMS))

    def _streams(
        self, title: str, ours: Callable[[], float], theirs: Callable[[], Measured]
    ) -> Taken:
        """Compare bandwidths, in MiB per second."""
        sides = (ours, lambda: theirs().bytes_per_s / MIB)
        work = f"{title}, {STREAMS} connections, beside fio"
        return self._compare(work, "bandwidth", "MiB/s", sides, _STREAMED)

    def _read_randomly(self) -> Taken:
        keys = self._fill_small()
        reply = bulk(self._small)
        randomness = random.Random(_SEED)
        run_s = self._ground.settings.run_s
        theirs = partial(self._fio.read_randomly, SMALL_BYTES, DEPTH, run_s)
        wanted = int(theirs().operations_per_s * _AT_DEPTH_SHARE * run_s)
        count = max(min(wanted, int(keys * _ASKED_SHARE)), min(_ASKED_MIN, keys))

        left: list[int] = []

        def ours() -> float:
            # What is read again is brought into the page cache: this is about what is read once.
            if len(left) < count:
                if left:
                    self._fill_small()
                left[:] = randomness.sample(range(keys), keys)
            order, left[:] = left[:count], left[count:]
            asked = [Exchange(command(b"GET", key(number)), reply) for number in order]
            with self._cold_reads(count):
                driven = Flood(lambda: asked, DEPTH).run(HOST, self.ours.port, count)
            return driven.operations / driven.duration_s

        sides = (ours, lambda: theirs().operations_per_s)
        title = f"GET {_SMALL}, cold, anywhere, {DEPTH} connections, beside fio at that depth"
        return self._compare(title, "reads", "/s", sides, _AT_DEPTH)

    def _compare(
        self,
        title: str,
        name: str,
        unit: str,
        sides: Sequence[Callable[[], float]],
        target: Target,
    ) -> Taken:
        """Have both sides measured in turns."""
        taken: tuple[list[float], list[float]] = ([], [])
        for order in turns(self._ground.settings.pairs):
            for index in order:
                taken[index].append(sides[index]())
        ours, theirs = taken
        row = Row(
            work=f"{TIERS_PREFIX}{title}",
            driver=OWN_DRIVER,
            measure=name,
            unit=unit,
            ours=spread(ours).median,
            theirs=spread(theirs).median,
            compared=ratios(ours, theirs),
            target=target,
            is_less_better=False,
        )
        return Taken([row], {"ours": ours, "theirs": theirs})

    # --- beside others -------------------------------------------------------------------------

    def _hot(self) -> Taken:
        """Values that the system has not forgotten, beside the same ones on the dram tier."""
        with storage_server("dram") as dram:
            result = measure(hot_work(), self.ours, dram, self._ground.settings)
        samples = {
            side: [asdict(sample) for sample in taken]
            for side, taken in (("ours", result.ours), ("theirs", result.theirs))
        }
        return Taken(result.rows(), samples)

    def _isolation(self) -> Taken:
        """One client on hot values, alone and beside others on cold ones."""
        keys = self._fill_small()
        reply = bulk(self._small)
        hot = [Exchange(command(b"GET", b"hot:%d" % n), reply) for n in range(_HOT_KEYS)]
        light = Paced(lambda: hot, _HOT_LANES, _HOT_RATE)
        count = int(_HOT_RATE * max(self._ground.settings.run_s, _HOT_RUN_MIN_S))
        with self.ours.client() as client:
            client.send((command(b"SET", b"hot:%d" % n, self._small) for n in range(_HOT_KEYS)), OK)
        # A warm-up.
        light.run(HOST, self.ours.port, count // 4)
        beside: list[Driven] = []
        alone: list[Driven] = []
        rates: list[float] = []
        for number, order in enumerate(turns(self._ground.settings.pairs)):
            for index in order:
                page_cache.forget(self._folder)
                # What is hot is so because somebody asks for it.
                light.run(HOST, self.ours.port, _HOT_KEYS)
                if index:
                    alone.append(light.run(HOST, self.ours.port, count))
                else:
                    driven, rate = self._light_beside_cold(light, count, keys, number)
                    beside.append(driven)
                    rates.append(rate)
        return _isolation(beside, alone, rates)

    def _light_beside_cold(
        self, light: Paced, count: int, keys: int, seed: int
    ) -> tuple[Driven, float]:
        """What the light client sees beside the cold ones; and how many GETs they get a second."""
        port = str(self.ours.port)
        arguments = (HOST, port, str(DEPTH), str(keys), str(SMALL_BYTES), str(seed))
        with self.ours.client() as client:
            before = _reads_given(client)
            with helper("cold", *arguments) as pump:
                driven = light.run(HOST, self.ours.port, count)
            given = _reads_given(client) - before
        if pump.result == EXHAUSTED:
            raise BenchmarkError(
                "the cold clients had read all there was: measure more (--tier-mib)"
            )
        if not pump.result:
            raise BenchmarkError("the cold clients have failed")
        done, took_s = pump.result.split()
        _require_cold(given, int(done))
        return driven, int(done) / float(took_s)

    # --- values --------------------------------------------------------------------------------

    @property
    def _large_values(self) -> int:
        return max(self._ground.size_bytes // MIB, STREAMS)

    def _written_mib_per_s(self) -> float:
        """Set all large values, and wait until the device has them."""
        numbers = range(self._large_values)
        began_s = time.perf_counter()
        set_in_order(HOST, self.ours.port, self._large, numbers, STREAMS)
        page_cache.write_back(self._folder)
        took_s = time.perf_counter() - began_s
        self._require_keys(len(numbers))
        return len(numbers) / took_s

    def _fill_small(self) -> int:
        """Set all small values; how many there are."""
        self._empty()
        keys = max(self._ground.size_bytes // SMALL_BYTES, DEPTH)
        with self.ours.client() as client:
            client.set_strings(0, keys, self._small)
        self._require_keys(keys)
        return keys

    def _require_keys(self, due: int) -> None:
        with self.ours.client() as client:
            held = client.call("DBSIZE")
        if held != due:
            raise BenchmarkError(f"{self.ours.name} holds {held} keys instead of {due}")

    def _empty(self) -> None:
        """Remove all values, and wait until the medium has nothing to do with them any more."""
        trash = self._folder / "trash"
        with self.ours.client() as client:
            client.call("FLUSHALL")
            deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
            while int(client.info("tiers")["tier_large_bytes"]) or any(trash.iterdir()):
                if time.monotonic() > deadline_s:
                    raise BenchmarkError("what was removed is still there after a minute")
                # Nothing tells when it is done, so it is asked again shortly.
                time.sleep(0.05)
        os.sync()

    @contextlib.contextmanager
    def _cold_reads(self, count: int) -> Iterator[None]:
        """Have the system forget the values before so many are read in the block.

        Raises:
            BenchmarkError: They were not read from the device, or something else was sent.
        """
        page_cache.forget(self._folder)
        with self.ours.client() as client:
            before, given = client.counts(), _reads_given(client)
            yield
            check_counts(self.ours.name, client.counts().since(before), count)
            _require_cold(_reads_given(client) - given, count)


_MIB: Final = "1 MiB"
_SMALL: Final = "4 KiB"
# What fewer reads than fio's a run is reckoned with, so that it takes about as long.
_AT_DEPTH_SHARE: Final = 0.5


@contextlib.contextmanager
def bench(ground: Ground) -> Iterator[Bench]:
    """Run a server of the nvme tier, in a directory that goes with it.

    Raises:
        BenchmarkError: It does not start, or there is no room for what is measured.
    """
    ground.folder.mkdir(parents=True, exist_ok=True)
    status = os.statvfs(ground.folder)
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes < _ROOM * ground.size_bytes:
        raise BenchmarkError(
            f"{ground.folder}: {free_bytes // MIB} MiB are free, {_ROOM} times the"
            f" {ground.size_bytes // MIB} MiB of values are needed (--tier-mib, --dir)"
        )
    with tempfile.TemporaryDirectory(prefix="tiers-", dir=ground.folder) as made:
        root = Path(made)
        values = root / "values"
        options = ("--tier", "nvme", "--dir", str(values), "--memory", _MEMORY)
        with storage_server("nvme", *options) as ours:
            yield Bench(ground, values, ours, Fio(root, ground.size_bytes))


def _reads_given(client: Client) -> int:
    return int(client.info("tiers")["tier_reads_given"])


def _require_cold(given: int, count: int) -> None:
    """Make sure that a server read from its device what was asked for.

    Raises:
        BenchmarkError: It found much of it in memory, so that something else was measured.
    """
    if given < _COLD_SHARE * count:
        raise BenchmarkError(
            f"of {count} values {given} were read from the device: the others were not cold"
            " (a file system in memory?)"
        )


def _isolation(beside: list[Driven], alone: list[Driven], rates: list[float]) -> Taken:
    work = (
        f"{TIERS_PREFIX}GET {_SMALL} of a client on hot values, {_HOT_RATE}/s,"
        f" beside {DEPTH} clients on cold ones, and alone"
    )
    figures: list[tuple[str, Callable[[Driven], float], Target | None]] = [
        (P50, lambda driven: driven.p50_us, None),
        (P99, lambda driven: driven.p99_us, _BESIDE),
    ]
    rows = [
        Row(
            work=work,
            driver=OWN_DRIVER,
            measure=name,
            unit="us",
            ours=spread([read(one) for one in beside]).median,
            theirs=spread([read(one) for one in alone]).median,
            compared=ratios([read(one) for one in beside], [read(one) for one in alone]),
            target=target,
            note=f"the cold ones get {spread(rates).median:,.0f}/s" if target is None else "",
        )
        for name, read, target in figures
    ]
    samples = {"beside": beside, _ALONE: alone}
    return Taken(
        rows,
        {
            **{name: [asdict(one) for one in taken] for name, taken in samples.items()},
            "cold_per_s": rates,
        },
    )
