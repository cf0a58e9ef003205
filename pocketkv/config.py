"""Configuration: one frozen dataclass per process, from flags and ``POCKETKV_*`` variables.

``--metrics-port`` and ``POCKETKV_METRICS_PORT`` are the same option; a flag wins over a variable,
a variable over the default, and an empty variable counts as not set. Everything is checked here,
once, so that a process that has its configuration need not doubt it. What only trying can tell
(a port in use, a directory that cannot be written) is found by the process itself.

Secrets come from a file or the environment, never from the command line, which other users of
the machine can read; and they are left out of the dataclasses' `repr`. Reading those files is the
only I/O here, and a parameter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pocketkv.amounts import format_bytes
from pocketkv.catalog import TIER_NAMES
from pocketkv.confidential import (
    ADMIN_PASSWORD_FILE,
    SECRET_FILE,
    SECRET_OPTIONS,
    admin_password,
    cluster_secret,
    needed_secret,
)
from pocketkv.limits import FILE_VALUE_BYTES_MAX
from pocketkv.options import (
    MEMORY_BYTES_MIN,
    PORT_MAX,
    ConfigError,
    Given,
    Option,
    parse_address,
    parse_choice,
    parse_host,
    parse_identifier,
    parse_memory,
    parse_metrics_port,
    parse_number,
    parse_path,
    parse_port,
    parse_s3_url,
    parse_spill,
    parse_switch,
)
from pocketkv.release import Release, add_release_arguments, release
from pocketkv.scaling_rules import (
    AUTOSCALE,
    SERVERS_MAX,
    ScalingRules,
    add_scaling_arguments,
    parse_seconds,
    scaling_rules,
)

__all__ = [
    "ConfigError",
    "ControllerConfig",
    "ProcessConfig",
    "RouterConfig",
    "ServeConfig",
    "StorageConfig",
    "add_controller_arguments",
    "add_router_arguments",
    "add_serve_arguments",
    "add_storage_arguments",
    "controller_config",
    "router_config",
    "serve_config",
    "storage_config",
]

ROUTER_PORT: Final = 6379
"""Where Redis clients look when they are told nothing."""

CONTROLLER_PORT: Final = 7379
STORAGE_PORT: Final = 7380
# Whoever ends processes, as Kubernetes does, usually gives them 30 s.
DRAIN_TIMEOUT_S: Final = 20.0

MEMORY_SHARE: Final = 0.5
"""Part of the machine's memory that values may take if nothing is said; the rest is for
connections' buffers, the processes themselves, and whatever else runs there."""

LOCAL_SERVERS_MAX: Final = 64
"""Most processes of one kind that `pocketkv serve` starts: one machine has no more cores to
give them, and a slip of the finger should not start thousands."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")


@dataclass(frozen=True, kw_only=True)
class ProcessConfig:
    """What every process has: where it listens, and how it is watched.

    Port 0 is any free port, also for `metrics_port`; a `metrics_port` of None serves no metrics.
    The process writes the ports that it got to `announce_fd`, if it has one, when it is ready.
    """

    host: str
    port: int
    metrics_port: int | None
    log_level: str
    log_format: str
    announce_fd: int | None = None


@dataclass(frozen=True, kw_only=True)
class StorageConfig(ProcessConfig):
    """A storage server. Without `controller` it is complete by itself, and owns every slot."""

    tier: str
    memory_bytes: int
    dir: Path | None
    spill: Path | str | None
    retain: str | None
    capacity_bytes: int | None
    value_bytes_max: int
    controller: tuple[str, int] | None
    server_id: str | None
    machine: str | None
    machine_type: str | None
    secret: bytes | None = field(repr=False)
    require_auth: bool
    advertise_host: str | None
    drain_timeout_s: float = DRAIN_TIMEOUT_S


@dataclass(frozen=True, kw_only=True)
class RouterConfig(ProcessConfig):
    """A router. With `reuse_port`, several share one port.

    For up to `start_wait_s` after its start, who connects waits until there is a map.
    """

    controller: tuple[str, int]
    router_id: str | None
    secret: bytes = field(repr=False)
    require_auth: bool
    advertise_host: str | None
    reuse_port: bool
    start_wait_s: float = 0.0
    admin_password: str | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ControllerConfig(ProcessConfig):
    """The controller. Without `state` it remembers jobs only as long as it runs.

    Without `scaling`, tiers have the servers that they are told to have. With a `release`, servers
    are pods, the state is in the cluster's API, and there may be several controllers.
    """

    state: Path | None
    catalog: Path | None
    scaling: ScalingRules | None = None
    release: Release | None = None
    unhinted_servers: int = 1
    secret: bytes = field(repr=False)
    admin_password: str | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ProcessConfig):
    """A whole cluster on this machine; `host` and `port` are the routers'.

    `memory_bytes` is for all storage servers together, `capacity_bytes` for those that keep files:
    without it they share what the disk has. Both are shared by as many servers as there may be, if
    tiers are scaled. `spill` is for the dram servers, `retain` for all. Without `secret`, one is
    made for as long as the cluster runs. With a `metrics_port` above 0, processes have it and those
    that follow.
    """

    dram: int
    nvme: int
    ssd: int
    hdd: int
    routers: int
    memory_bytes: int
    dir: Path | None
    capacity_bytes: int | None
    spill: Path | str | None
    retain: str | None
    state: Path | None
    catalog: Path | None
    require_auth: bool
    secret: bytes | None = field(repr=False)
    admin_password: str | None = field(repr=False)
    scaling: ScalingRules | None = None
    unhinted_servers: int = 1

    @property
    def server_memory_bytes(self) -> int:
        """The part of `memory_bytes` that each storage server gets."""
        return self.memory_bytes // self.servers_max

    @property
    def server_capacity_shares(self) -> int:
        """How many servers that keep files share `capacity_bytes`, at most."""
        files = sum(count for tier, count in self.most_servers.items() if tier != "dram")
        return max(1, min(files, self.servers_max))

    @property
    def servers(self) -> dict[str, int]:
        """How many storage servers of each tier there are to be at the start."""
        return {"dram": self.dram, "nvme": self.nvme, "ssd": self.ssd, "hdd": self.hdd}

    @property
    def most_servers(self) -> dict[str, int]:
        """How many storage servers of each tier there may ever be."""
        ranges = {} if self.scaling is None else self.scaling.tiers
        return {t: ranges[t].most if t in ranges else n for t, n in self.servers.items()}

    @property
    def servers_max(self) -> int:
        """How many storage servers there may ever be."""
        limit = None if self.scaling is None else self.scaling.servers_max
        most = sum(self.most_servers.values())
        return most if limit is None else min(most, limit)


def add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `pocketkv storage`; all default to None, which means not given."""
    _add_process_arguments(parser, STORAGE_PORT)
    _TIER.add_to(parser, "dram")
    _MEMORY.add_to(parser, "half of the machine's")
    _DIR.add_to(parser, "a temporary one")
    _SPILL.add_to(parser, "none: writes are refused when memory is used up")
    _RETAIN.add_to(parser, "none: they go to the slowest file tier")
    _CAPACITY.add_to(parser, "what the disk has")
    _VALUE_MAX.add_to(parser, "5gb")
    _CONTROLLER.add_to(parser, "none: a server by itself, that owns every slot")
    _SERVER_ID.add_to(parser, "a new one")
    _MACHINE.add_to(parser, "its host name")
    _MACHINE_TYPE.add_to(parser, "the catalog's reference of the tier")
    SECRET_FILE.add_to(parser, "none")
    _REQUIRE_AUTH.add_to(parser, "no")
    _ADVERTISE_HOST.add_to(parser, "--host")
    _DRAIN_TIMEOUT.add_to(parser, f"{DRAIN_TIMEOUT_S:g}")


def storage_config(
    namespace: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    machine_memory_bytes: int,
    read_file: Callable[[Path], bytes] | None = None,
) -> StorageConfig:
    """Return a storage server's configuration.

    Raises:
        ConfigError: an option is wrong, or one that another needs is missing.
    """
    given = Given(namespace, environ, read_file)
    config = StorageConfig(
        **_process(given, STORAGE_PORT),
        tier=given(_TIER, "dram"),
        memory_bytes=given(_MEMORY, _memory_share(machine_memory_bytes)),
        dir=given(_DIR, None),
        spill=given(_SPILL, None),
        retain=given(_RETAIN, None),
        capacity_bytes=given(_CAPACITY, None),
        value_bytes_max=given(_VALUE_MAX, FILE_VALUE_BYTES_MAX),
        controller=given(_CONTROLLER, None),
        server_id=given(_SERVER_ID, None),
        machine=given(_MACHINE, None),
        machine_type=given(_MACHINE_TYPE, None),
        secret=cluster_secret(given),
        require_auth=given(_REQUIRE_AUTH, False),
        advertise_host=given(_ADVERTISE_HOST, None),
        drain_timeout_s=given(_DRAIN_TIMEOUT, DRAIN_TIMEOUT_S),
    )
    if config.tier == "dram":
        for option, value in ((_DIR, config.dir), (_CAPACITY, config.capacity_bytes)):
            if value is not None:
                raise ConfigError(f"{given.source(option)} is for the tiers that keep files")
    elif config.spill is not None:
        raise ConfigError(f"{given.source(_SPILL)} is for the tier dram, others keep files anyway")
    if config.retain is not None and config.controller is None:
        raise ConfigError(f"{given.source(_RETAIN)} is for servers of a cluster, which have jobs")
    if config.secret is None and config.controller is not None:
        raise ConfigError(f"{given.source(_CONTROLLER)} needs {SECRET_OPTIONS}")
    if config.secret is None and config.require_auth:
        raise ConfigError(f"{given.source(_REQUIRE_AUTH)} needs {SECRET_OPTIONS}")
    if config.controller and config.host in _WILDCARD_HOSTS and not config.advertise_host:
        raise ConfigError(
            f"{given.source(_HOST)}: {config.host} is no address for clients;"
            f" {_ADVERTISE_HOST.either} is needed too"
        )
    return config


def add_router_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `pocketkv router`; all default to None, which means not given."""
    _add_process_arguments(parser, ROUTER_PORT)
    _CONTROLLER.add_to(parser, "needed")
    _ROUTER_ID.add_to(parser, "a new one")
    SECRET_FILE.add_to(parser, "needed")
    _REQUIRE_AUTH.add_to(parser, "no")
    _ADVERTISE_HOST.add_to(parser, "--host")
    _REUSE_PORT.add_to(parser, "no")
    _START_WAIT.add_to(parser, "0")
    ADMIN_PASSWORD_FILE.add_to(parser, "none: anybody may register jobs")


def router_config(
    namespace: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    read_file: Callable[[Path], bytes] | None = None,
) -> RouterConfig:
    """Return a router's configuration.

    Raises:
        ConfigError: an option is wrong, or one that is needed is missing.
    """
    given = Given(namespace, environ, read_file)
    controller = given(_CONTROLLER, None)
    if controller is None:
        raise ConfigError(f"{_CONTROLLER.either} is needed")
    return RouterConfig(
        **_process(given, ROUTER_PORT),
        controller=controller,
        router_id=given(_ROUTER_ID, None),
        secret=needed_secret(given),
        require_auth=given(_REQUIRE_AUTH, False),
        advertise_host=given(_ADVERTISE_HOST, None),
        reuse_port=given(_REUSE_PORT, False),
        start_wait_s=given(_START_WAIT, 0.0),
        admin_password=admin_password(given),
    )


def add_controller_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `pocketkv controller`; all default to None, which means not given."""
    _add_process_arguments(parser, CONTROLLER_PORT)
    _STATE.add_to(parser, "none: jobs are forgotten when the controller stops")
    add_release_arguments(parser)
    _CATALOG.add_to(parser, "the catalog that comes with PocketKV")
    _UNHINTED_SERVERS.add_to(parser, "1")
    add_scaling_arguments(parser)
    SECRET_FILE.add_to(parser, "needed")
    ADMIN_PASSWORD_FILE.add_to(parser, "none: anybody may register jobs")


def controller_config(
    namespace: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    read_file: Callable[[Path], bytes] | None = None,
) -> ControllerConfig:
    """Return the controller's configuration.

    Raises:
        ConfigError: an option is wrong, or one that is needed is missing.
    """
    given = Given(namespace, environ, read_file)
    place, state = release(given), given(_STATE, None)
    if place is not None and state is not None:
        raise ConfigError(f"{given.source(_STATE)}: on Kubernetes, the state is in its API")
    return ControllerConfig(
        **_process(given, CONTROLLER_PORT),
        state=state,
        catalog=given(_CATALOG, None),
        unhinted_servers=given(_UNHINTED_SERVERS, 1),
        scaling=scaling_rules(given),
        release=place,
        secret=needed_secret(given),
        admin_password=admin_password(given),
    )


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `pocketkv serve`; all default to None, which means not given."""
    _add_process_arguments(parser, ROUTER_PORT)
    _DRAM.add_to(parser, "2")
    _NVME.add_to(parser, "1")
    _SSD.add_to(parser, "0")
    _HDD.add_to(parser, "0")
    add_scaling_arguments(parser)
    _ROUTERS.add_to(parser, "1")
    _MEMORY.add_to(parser, "half of the machine's, for all servers together")
    _DIR.add_to(parser, "a temporary one")
    _CAPACITY.add_to(parser, "what the disk has, for all servers together")
    _SPILL.add_to(parser, "none: writes are refused when memory is used up")
    _RETAIN.add_to(parser, "none: they go to the slowest file tier")
    _STATE.add_to(parser, "none: jobs are forgotten when the cluster stops")
    _CATALOG.add_to(parser, "the catalog that comes with PocketKV")
    _UNHINTED_SERVERS.add_to(parser, "1")
    _REQUIRE_AUTH.add_to(parser, "no")
    SECRET_FILE.add_to(parser, "a new secret each time")
    ADMIN_PASSWORD_FILE.add_to(parser, "none: anybody may register jobs")


def serve_config(
    namespace: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    machine_memory_bytes: int,
    read_file: Callable[[Path], bytes] | None = None,
) -> ServeConfig:
    """Return the configuration of a whole cluster on this machine.

    Raises:
        ConfigError: an option is wrong, no storage server is left, or memory for none.
    """
    given = Given(namespace, environ, read_file)
    scaling = scaling_rules(given)
    counts = _servers(given, scaling)
    config = ServeConfig(
        **_process(given, ROUTER_PORT),
        dram=counts["dram"],
        nvme=counts["nvme"],
        ssd=counts["ssd"],
        hdd=counts["hdd"],
        scaling=scaling,
        routers=given(_ROUTERS, 1),
        memory_bytes=given(_MEMORY, _memory_share(machine_memory_bytes)),
        dir=given(_DIR, None),
        capacity_bytes=given(_CAPACITY, None),
        spill=given(_SPILL, None),
        retain=given(_RETAIN, None),
        state=given(_STATE, None),
        catalog=given(_CATALOG, None),
        unhinted_servers=given(_UNHINTED_SERVERS, 1),
        require_auth=given(_REQUIRE_AUTH, False),
        secret=cluster_secret(given),
        admin_password=admin_password(given),
    )
    if config.spill is not None and not counts["dram"] and scaling is None:
        raise ConfigError(
            f"{given.source(_SPILL)} is for servers of the tier dram, and there is none"
        )
    servers = config.servers_max
    if config.server_memory_bytes < MEMORY_BYTES_MIN:
        raise ConfigError(
            f"{given.source(_MEMORY)}: {format_bytes(config.memory_bytes)} is less than"
            f" {format_bytes(MEMORY_BYTES_MIN)} for each of {servers} storage servers"
        )
    # One port each, for the controller too; 0 and None need none of their own.
    if config.metrics_port and config.metrics_port + servers + config.routers > PORT_MAX:
        raise ConfigError(f"{given.source(_METRICS_PORT)}: the ports that follow end at {PORT_MAX}")
    return config


def _servers(given: Given, scaling: ScalingRules | None) -> dict[str, int]:
    """Return how many servers of each tier a cluster starts with.

    One that is scaled starts with the least that it may have, unless it is told.

    Raises:
        ConfigError: none at all, or more or fewer than the limits permit.
    """
    ranges = {} if scaling is None else scaling.tiers
    counts: dict[str, int] = {}
    for tier, (option, default) in _COUNTS.items():
        limits = ranges.get(tier)
        counts[tier] = given(option, default if limits is None else limits.least)
        if limits is not None and counts[tier] not in limits:
            raise ConfigError(
                f"{given.source(option)}: {counts[tier]} is not within {tier}={limits} of"
                f" {given.source(AUTOSCALE)}"
            )
        if limits is not None and limits.most > LOCAL_SERVERS_MAX:
            raise ConfigError(
                f"{given.source(AUTOSCALE)}: {tier}={limits} is more than {LOCAL_SERVERS_MAX}"
                " processes on one machine"
            )
    servers = sum(counts.values())
    if servers == 0:
        flags = f"{_DRAM.flag}, {_NVME.flag}, {_SSD.flag} and {_HDD.flag}"
        raise ConfigError(f"{flags}: no storage server is left")
    if scaling is not None and scaling.servers_max is not None and servers > scaling.servers_max:
        raise ConfigError(
            f"{given.source(SERVERS_MAX)}: {scaling.servers_max} is less than the {servers}"
            " storage servers that the cluster starts with"
        )
    return counts


def _add_process_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    _HOST.add_to(parser, "127.0.0.1")
    _PORT.add_to(parser, str(port))
    _METRICS_PORT.add_to(parser, "any free one")
    _LOG_LEVEL.add_to(parser, "info")
    _LOG_FORMAT.add_to(parser, "text")
    _ANNOUNCE_FD.add_to(parser, "none")


def _process(given: Given, port: int) -> dict[str, Any]:
    return {
        "host": given(_HOST, "127.0.0.1"),
        "port": given(_PORT, port),
        "metrics_port": given(_METRICS_PORT, 0),
        "log_level": given(_LOG_LEVEL, "info"),
        "log_format": given(_LOG_FORMAT, "text"),
        "announce_fd": given(_ANNOUNCE_FD, None),
    }


def _memory_share(machine_memory_bytes: int) -> int:
    return max(MEMORY_BYTES_MIN, int(machine_memory_bytes * MEMORY_SHARE))


_WILDCARD_HOSTS: Final = ("0.0.0.0", "::")  # an address to listen on, not to be told to clients

_count = parse_number("a number of processes", 0, LOCAL_SERVERS_MAX)

_HOST: Final = Option("host", parse_host, "address to listen on", "HOST")
_PORT: Final = Option("port", parse_port, "port to listen on, 0 for any free one", "PORT")
_METRICS_PORT: Final = Option(
    "metrics-port", parse_metrics_port, "port of /metrics, /healthz and /readyz, or 'off'", "PORT"
)
_LOG_LEVEL: Final = Option(
    "log-level", parse_choice(LOG_LEVELS), "least important events to log", "|".join(LOG_LEVELS)
)
_LOG_FORMAT: Final = Option(
    "log-format", parse_choice(LOG_FORMATS), "form of a line of the log", "|".join(LOG_FORMATS)
)
_ANNOUNCE_FD: Final = Option(
    "announce-fd",
    parse_number("a file descriptor", 0, 1_048_576),
    "inherited descriptor to write the ports to",
    "FD",
    is_hidden=True,
)
_TIER: Final = Option("tier", parse_choice(TIER_NAMES), "kind of storage", "|".join(TIER_NAMES))
_MEMORY: Final = Option("memory", parse_memory, "memory for values, such as 512mb", "SIZE")
_DIR: Final = Option("dir", parse_path, "directory for values that are kept in files", "PATH")
_SPILL: Final = Option(
    "spill",
    parse_spill,
    "where values go when memory is used up: a directory, or s3://bucket/prefix",
    "PATH|URL",
)
_RETAIN: Final = Option(
    "retain",
    parse_s3_url,
    "where keys go that outlive their job (JOB.RETAIN): s3://bucket/prefix, the same for all"
    " servers of a cluster",
    "URL",
)
_CAPACITY: Final = Option(
    "capacity", parse_memory, "what may be stored in --dir, such as 100gb", "SIZE"
)
_VALUE_MAX: Final = Option(
    "value-max", parse_memory, "longest string in files, written by APPEND or SETRANGE", "SIZE"
)
_CONTROLLER: Final = Option("controller", parse_address, "the controller", "HOST:PORT")
_SERVER_ID: Final = Option("server-id", parse_identifier, "id of this server", "ID")
_ROUTER_ID: Final = Option("router-id", parse_identifier, "id of this router", "ID")
_MACHINE: Final = Option("machine", parse_identifier, "machine that this server shares", "NAME")
_MACHINE_TYPE: Final = Option(
    "machine-type", parse_identifier, "what the catalog calls this machine, for costs", "NAME"
)
_DRAIN_TIMEOUT: Final = Option(
    "drain-timeout",
    parse_seconds,
    "how long a server that is told to end may give away what it has; 0: not at all",
    "SECONDS",
)
_REQUIRE_AUTH: Final = Option(
    "require-auth", parse_switch, "serve only connections that have authenticated", is_switch=True
)
_ADVERTISE_HOST: Final = Option(
    "advertise-host", parse_host, "host that clients are told to connect to", "HOST"
)
_REUSE_PORT: Final = Option(
    "reuse-port", parse_switch, "share the port with others", is_switch=True
)
_START_WAIT: Final = Option(
    "start-wait",
    parse_seconds,
    "how long clients wait at the start for the cluster to have started",
    "SECONDS",
)
_STATE: Final = Option("state", parse_path, "SQLite file of jobs and placements", "PATH")
_CATALOG: Final = Option("catalog", parse_path, "TOML file of tiers and their prices", "PATH")
_UNHINTED_SERVERS: Final = Option(
    "unhinted-servers",
    parse_number("a number of servers", 1, LOCAL_SERVERS_MAX),
    "over how many servers a job goes at first that does not say what it needs",
    "N",
)
_DRAM: Final = Option("dram", _count, "number of dram servers", "N")
_NVME: Final = Option("nvme", _count, "number of nvme servers", "N")
_SSD: Final = Option("ssd", _count, "number of ssd servers", "N")
_HDD: Final = Option("hdd", _count, "number of hdd servers", "N")
_COUNTS: Final = {"dram": (_DRAM, 2), "nvme": (_NVME, 1), "ssd": (_SSD, 0), "hdd": (_HDD, 0)}
_ROUTERS: Final = Option(
    "routers", parse_number("a number of processes", 1, LOCAL_SERVERS_MAX), "number of routers", "N"
)
