"""The subcommand `pocketkv calibrate`: its options, and what it does with the other modules."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pocketkv.amounts import format_bytes, parse_bytes, parse_rate
from pocketkv.calibrate import entry as entries
from pocketkv.calibrate import report
from pocketkv.calibrate.entry import Entry, Prices
from pocketkv.calibrate.measure import CHUNK_BYTES, Measurements, measure
from pocketkv.calibrate.medium import Medium, look_at
from pocketkv.calibrate.scratch import ScratchFile
from pocketkv.catalog import (
    TIER_NAMES,
    Catalog,
    CatalogError,
    MachineType,
    load_catalog,
    parse_catalog,
)
from pocketkv.options import (
    ConfigError,
    Given,
    Option,
    parse_choice,
    parse_identifier,
    parse_number,
    parse_path,
    quoted,
)

_SIZE_BYTES: Final = 1024**3
_LIMIT_S: Final = 12
_LIMIT_MAX_S: Final = 3600
_PRICE_MAX: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What to measure, with how much and how long, and where the entry goes.

    `limit_s` is what the measurements take, a few seconds apart; `machine_type` of None is the
    reference of the tier, `tier` of None is guessed.
    """

    directory: Path
    tier: str | None
    machine_type: str | None
    size_bytes: int
    limit_s: int
    network_bytes_s: int | None
    prices: Prices
    catalog: Path | None
    write: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; all default to None, which means not given."""
    _DIR.add_to(parser, "needed")
    _TIER.add_to(parser, "guessed from the device")
    _MACHINE_TYPE.add_to(parser, "the first of the tier in the catalog")
    _SIZE.add_to(parser, format_bytes(_SIZE_BYTES))
    _SECONDS.add_to(parser, str(_LIMIT_S))
    _NETWORK.add_to(parser, "not looked at")
    _PRICE.add_to(parser, "as in the catalog")
    _VOLUME_PRICE.add_to(parser, "as in the catalog")
    _CATALOG.add_to(parser, "the catalog that comes with PocketKV")
    _WRITE.add_to(parser, "none: the entry is only printed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def calibrate_config(namespace: argparse.Namespace, environ: Mapping[str, str]) -> CalibrateConfig:
    """Return the configuration.

    Raises:
        ConfigError: an option is wrong, or the one that is needed is missing.
    """
    given = Given(namespace, environ)
    directory = given(_DIR, None)
    if directory is None:
        raise ConfigError(f"{_DIR.either} is needed")
    return CalibrateConfig(
        directory=directory,
        tier=given(_TIER, None),
        machine_type=given(_MACHINE_TYPE, None),
        size_bytes=given(_SIZE, _SIZE_BYTES),
        limit_s=given(_SECONDS, _LIMIT_S),
        network_bytes_s=given(_NETWORK, None),
        prices=Prices(given(_PRICE, None), given(_VOLUME_PRICE, None)),
        catalog=given(_CATALOG, None),
        write=given(_WRITE, None),
    )


def run(namespace: argparse.Namespace) -> int:
    """Measure, print, and write the entry if that was asked for; the process's exit status.

    Raises:
        ConfigError: something is wrong with an option, the directory, its medium, or the catalog.
    """
    config = calibrate_config(namespace, os.environ)
    medium = _medium(config)
    tier = config.tier or medium.tier
    if tier is None:
        raise ConfigError(f"{_TIER.either} is needed: {medium} does not tell what it is")
    own = _own_file(config.write)
    catalog = _catalog(config, own)
    known = _known(catalog, tier, config)
    measured = _measured(config)
    entry = entries.entry_of(
        measured,
        medium,
        tier,
        config.machine_type or catalog.tier(tier).reference.name,
        known=known,
        prices=config.prices,
        network_bytes_s=config.network_bytes_s,
        today=datetime.datetime.now(datetime.UTC).date(),
    )
    machine = parse_catalog(entry.text().encode(), "the entry", catalog).machine(
        tier, entry.machine_type
    )
    noted = report.notes(
        measured,
        medium,
        config.size_bytes,
        is_guessed=config.tier is None,
        has_network=config.network_bytes_s is not None,
    )
    if namespace.json:
        shown = report.document(config.directory, medium, measured, entry, machine, noted)
        text = json.dumps(shown, indent=2)
    else:
        text = _text(config, medium, measured, entry, machine, noted)
    sys.stdout.write(text + "\n")
    # The entry is out before it is written, so that it can be pasted if that fails.
    sys.stdout.flush()
    if config.write is not None:
        _write(config.write, own, entry, catalog)
    return 0


def _text(
    config: CalibrateConfig,
    medium: Medium,
    measured: Measurements,
    entry: Entry,
    machine: MachineType,
    noted: list[str],
) -> str:
    lines = report.table(config.directory, medium, measured)
    lines += ["", *(f"  note: {note}" for note in noted), "", entry.text(), report.cost(machine)]
    return "\n".join(lines)


def _medium(config: CalibrateConfig) -> Medium:
    """Look at the directory, before anything else takes time."""
    try:
        medium = look_at(config.directory)
    except OSError as error:
        raise _refusal(config, error) from error
    if not config.directory.is_dir():
        raise _refusal(config, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if medium.available_bytes < config.size_bytes:
        raise ConfigError(
            f"{_DIR.flag}: {quoted(str(config.directory))}: {format_bytes(medium.available_bytes)}"
            f" are free, {_SIZE.flag} is {format_bytes(config.size_bytes)}"
        )
    return medium


def _measured(config: CalibrateConfig) -> Measurements:
    try:
        with ScratchFile(config.directory) as scratch:
            return measure(scratch, config.size_bytes, config.limit_s, _progress())
    except OSError as error:
        raise _refusal(config, error) from error


def _refusal(config: CalibrateConfig, error: OSError) -> ConfigError:
    reason = error.strerror or "cannot be measured"
    return ConfigError(f"{_DIR.flag}: {quoted(str(config.directory))}: {reason}")


def _progress() -> Callable[[str], None]:
    """Return what tells people, who wait, what is being done."""
    if not sys.stderr.isatty():
        return lambda text: None

    def say(text: str) -> None:
        sys.stderr.write(f"{text} ...\n")

    return say


# --- the catalog's file ------------------------------------------------------------------------


def _own_file(path: Path | None) -> str | None:
    """Return what is in the file that is to be written; None if there is none yet."""
    if path is None:
        return None
    try:
        if path.exists():
            return path.read_bytes().decode("utf-8")
        folder = path.resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{_WRITE.flag}: {quoted(str(folder))} cannot be written to")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_WRITE.flag}: {quoted(str(path))} is not text") from error
    except OSError as error:
        raise ConfigError(f"{_WRITE.flag}: {quoted(str(path))}: {error.strerror}") from error
    return None


def _catalog(config: CalibrateConfig, own: str | None) -> Catalog:
    """Return the catalog that the entry will change."""
    try:
        catalog = load_catalog(None if config.catalog is None else str(config.catalog))
        return catalog if own is None else parse_catalog(own.encode(), str(config.write), catalog)
    except CatalogError as error:
        raise ConfigError(str(error)) from error


def _known(catalog: Catalog, tier: str, config: CalibrateConfig) -> MachineType | None:
    """Return what the catalog says of the machine type, whose prices stay."""
    offered = catalog.tier(tier)
    name = config.machine_type or offered.reference.name
    known = next((machine for machine in offered.machines if machine.name == name), None)
    prices = config.prices
    if known is None and None in (prices.price_per_hour, prices.price_per_gb_month):
        raise ConfigError(
            f"{_MACHINE_TYPE.flag}: the catalog has no {name} of {tier}, so that"
            f" {_PRICE.flag} and {_VOLUME_PRICE.flag} are needed"
        )
    return known


def _write(path: Path, own: str | None, entry: Entry, catalog: Catalog) -> None:
    """Put the entry into the operator's file, whole or not at all."""
    try:
        text = entries.merged(own or "", entry)
        parse_catalog(text.encode(), str(path), catalog)
    except CatalogError as error:
        raise ConfigError(f"{_WRITE.flag}: {quoted(str(path))}: {error}") from error
    # A link stays one.
    target = path.resolve()
    temporary = None
    try:
        mode = target.stat().st_mode & 0o777 if own is not None else 0o644
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(target)
        temporary = None
    except OSError as error:
        raise ConfigError(f"{_WRITE.flag}: {quoted(str(path))}: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


# --- options -----------------------------------------------------------------------------------


def _parse_size(text: str) -> int:
    size_bytes = parse_bytes(text)
    if size_bytes < CHUNK_BYTES:
        raise ValueError(f"{quoted(text)} is less than {format_bytes(CHUNK_BYTES)}")
    return size_bytes


def _parse_network(text: str) -> int:
    rate_bytes_s = parse_rate(text)
    if not rate_bytes_s:
        raise ValueError(f"{quoted(text)} is no network")
    return rate_bytes_s


def _parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price <= _PRICE_MAX:
        raise ValueError(f"{quoted(text)} is not a price of 0 to {_PRICE_MAX} dollars")
    return price


_DIR: Final = Option("dir", parse_path, "directory on the medium", "PATH")
_TIER: Final = Option("tier", parse_choice(TIER_NAMES), "kind of storage", "|".join(TIER_NAMES))
_MACHINE_TYPE: Final = Option(
    "machine-type", parse_identifier, "what the catalog calls this machine", "NAME"
)
_SIZE: Final = Option("size", _parse_size, "most that is written, and removed again", "SIZE")
_SECONDS: Final = Option(
    "seconds", parse_number("a number of seconds", 1, _LIMIT_MAX_S), "most time to take", "N"
)
_NETWORK: Final = Option(
    "network", _parse_network, "what this machine's network carries, such as 10gbps", "RATE"
)
_PRICE: Final = Option("price-per-hour", _parse_price, "of the machine, in US dollars", "PRICE")
_VOLUME_PRICE: Final = Option(
    "price-per-gb-month", _parse_price, "of its volume, in US dollars; 0 for a local disk", "PRICE"
)
_CATALOG: Final = Option("catalog", parse_path, "TOML file of tiers and their prices", "PATH")
_WRITE: Final = Option("write", parse_path, "catalog's file to put the entry into", "FILE")
