from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.config import (
    ConfigError,
    ControllerConfig,
    ProcessConfig,
    RouterConfig,
    ServeConfig,
    StorageConfig,
    add_controller_arguments,
    add_router_arguments,
    add_serve_arguments,
    add_storage_arguments,
    controller_config,
    router_config,
    serve_config,
    storage_config,
)

SECRET = bytes(range(32))
GB = 1024**3
WITH_SECRET = {"POCKETKV_SECRET": SECRET.hex()}
WITH_CONTROLLER = {**WITH_SECRET, "POCKETKV_CONTROLLER": "127.0.0.1:7379"}

Add = Callable[[argparse.ArgumentParser], None]


def parsed(add: Add, arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add(parser)
    return parser.parse_args(arguments.split())


def storage(arguments: str = "", environ: dict[str, str] | None = None) -> StorageConfig:
    namespace = parsed(add_storage_arguments, arguments)
    return storage_config(namespace, environ or {}, machine_memory_bytes=8 * GB)


def router(arguments: str = "", environ: dict[str, str] | None = None) -> RouterConfig:
    return router_config(parsed(add_router_arguments, arguments), environ or {})


def controller(arguments: str = "", environ: dict[str, str] | None = None) -> ControllerConfig:
    return controller_config(parsed(add_controller_arguments, arguments), environ or {})


def serve(arguments: str = "", environ: dict[str, str] | None = None) -> ServeConfig:
    namespace = parsed(add_serve_arguments, arguments)
    return serve_config(namespace, environ or {}, machine_memory_bytes=8 * GB)


PROCESSES: list[tuple[Add, Callable[[str, dict[str, str]], ProcessConfig]]] = [
    (add_storage_arguments, storage),
    (add_router_arguments, router),
    (add_controller_arguments, controller),
    (add_serve_arguments, serve),
]

# A good value, another one, and what the field then is.
FIELDS: dict[str, tuple[str, str, Any, Any]] = {
    "host": ("10.0.0.1", "::1", "10.0.0.1", "::1"),
    "port": ("7001", "0", 7001, 0),
    "metrics-port": ("9100", "off", 9100, None),
    "log-level": ("debug", "WARNING", "debug", "warning"),
    "log-format": ("json", "text", "json", "text"),
    "announce-fd": ("3", "4", 3, 4),
    "unhinted-servers": ("3", "16", 3, 16),
    "tier": ("nvme", "HDD", "nvme", "hdd"),
    "memory": ("64mb", "2g", 64 * 1024**2, 2 * 10**9),
    "dir": ("/var/values", "values", Path("/var/values"), Path("values")),
    "capacity": ("1gb", "2g", 1024**3, 2 * 10**9),
    "spill": ("/srv/spill", "s3://bucket/a", Path("/srv/spill"), "s3://bucket/a"),
    "retain": ("s3://bucket/a", "s3://b.c", "s3://bucket/a", "s3://b.c"),
    "value-max": ("1gb", "2g", 1024**3, 2 * 10**9),
    "controller": ("kv:7379", "[::1]:1", ("kv", 7379), ("::1", 1)),
    "server-id": ("s1", "pocketkv-dram-0", "s1", "pocketkv-dram-0"),
    "router-id": ("r1", "r.2", "r1", "r.2"),
    "machine": ("m1", "node.example", "m1", "node.example"),
    "machine-type": ("r6i.2xlarge", "rack-7", "r6i.2xlarge", "rack-7"),
    "drain-timeout": ("10s", "0", 10.0, 0.0),
    "start-wait": ("10s", "0", 10.0, 0.0),
    "advertise-host": ("kv.example", "10.1.2.3", "kv.example", "10.1.2.3"),
    "state": ("/var/state.db", "s", Path("/var/state.db"), Path("s")),
    "catalog": ("own.toml", "c", Path("own.toml"), Path("c")),
    "dram": ("3", "0", 3, 0),
    "nvme": ("4", "1", 4, 1),
    "ssd": ("2", "1", 2, 1),
    "hdd": ("1", "2", 1, 2),
    "routers": ("2", "1", 2, 1),
}
FIELD_NAMES = {
    "memory": "memory_bytes",
    "capacity": "capacity_bytes",
    "value-max": "value_bytes_max",
    "drain-timeout": "drain_timeout_s",
    "start-wait": "start_wait_s",
}
SWITCHES = ("require-auth", "reuse-port")
CONFIDENTIAL = ("secret-file", "admin-password-file")
# See test_release.
RELEASE = ("backend", "namespace", "release")
# See test_scaling_rules.
SCALING = ("autoscale", "servers-max", "cost-per-hour-max", "scale-up-after", "scale-down-after")


def flags_of(add: Add) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    return {action.option_strings[0].removeprefix("--") for action in parser._actions}


CASES = [
    pytest.param(configure, name, id=f"{configure.__name__}-{name}")
    for add, configure in PROCESSES
    for name in sorted(flags_of(add) & FIELDS.keys())
]


@pytest.mark.parametrize(("configure", "name"), CASES)
def test_a_flag_wins_over_its_variable_and_that_over_the_default(
    configure: Callable[[str, dict[str, str]], ProcessConfig], name: str
) -> None:
    text, other_text, value, other_value = FIELDS[name]
    field = FIELD_NAMES.get(name, name.replace("-", "_"))
    variable = f"POCKETKV_{name.replace('-', '_').upper()}"
    # Some flags are for tiers that keep files.
    tier = "--tier ssd " if configure is storage and name in {"dir", "capacity"} else ""
    by_flag = configure(f"{tier}--{name} {text}", {**WITH_CONTROLLER, variable: other_text})
    assert getattr(by_flag, field) == value
    by_variable = configure(tier, {**WITH_CONTROLLER, variable: other_text})
    assert getattr(by_variable, field) == other_value
    if name != "controller":
        # An empty variable is what a template leaves of a value that was not given.
        unset = configure("", {**WITH_CONTROLLER, variable: ""})
        assert unset == configure("", WITH_CONTROLLER)


def test_every_flag_is_covered_here() -> None:
    flags = set().union(*(flags_of(add) for add, _ in PROCESSES))
    assert flags == {*FIELDS, *SWITCHES, *CONFIDENTIAL, *SCALING, *RELEASE}


def test_the_help_of_every_flag_names_its_variable() -> None:
    for add, _ in PROCESSES:
        parser = argparse.ArgumentParser(add_help=False)
        add(parser)
        text = " ".join(parser.format_help().split())
        for name in flags_of(add) - {"announce-fd"}:
            assert f"POCKETKV_{name.replace('-', '_').upper()};" in text
        assert "announce" not in text


def test_defaults() -> None:
    alone = storage()
    assert (alone.host, alone.port, alone.tier) == ("127.0.0.1", 7380, "dram")
    assert alone.memory_bytes == 4 * GB
    assert (alone.controller, alone.secret, alone.require_auth) == (None, None, False)
    assert (alone.metrics_port, alone.log_level, alone.log_format) == (0, "info", "text")
    assert (alone.announce_fd, alone.dir, alone.server_id) == (None, None, None)
    cluster = serve()
    assert (cluster.host, cluster.port) == ("127.0.0.1", 6379)
    assert (cluster.dram, cluster.nvme, cluster.routers) == (2, 1, 1)
    assert cluster.memory_bytes == 4 * GB
    assert cluster.server_memory_bytes == 4 * GB // 3
    assert (cluster.secret, cluster.admin_password, cluster.state) == (None, None, None)
    assert router(environ=WITH_CONTROLLER).port == 6379
    assert controller(environ=WITH_SECRET).port == 7379


@pytest.mark.parametrize("text", ["1", "yes", "TRUE", "on"])
def test_switches_that_are_on(text: str) -> None:
    environ = {**WITH_CONTROLLER, "POCKETKV_REQUIRE_AUTH": text, "POCKETKV_REUSE_PORT": text}
    config = router("", environ)
    assert config.require_auth
    assert config.reuse_port
    off = router("--no-require-auth --no-reuse-port", environ)
    assert not off.require_auth
    assert not off.reuse_port


@pytest.mark.parametrize("text", ["0", "No", "false", "off", ""])
def test_switches_that_are_off(text: str) -> None:
    environ = {**WITH_CONTROLLER, "POCKETKV_REQUIRE_AUTH": text}
    assert not router("", environ).require_auth
    assert router("--require-auth", environ).require_auth


BAD = [
    ("--port 65536", "--port: '65536' is not a port (0 to 65535)"),
    ("--port -1", "--port: '-1' is not a port (0 to 65535)"),
    ("--port six", "--port: 'six' is not a port (0 to 65535)"),
    ("--metrics-port on", "--metrics-port: 'on' is not a port (0 to 65535)"),
    ("--memory -1", "--memory: '-1' is negative"),
    ("--memory 1000", "--memory: '1000' is less than 1mb"),
    ("--memory much", "--memory: 'much' is not an amount such as 64mb or 1.5g"),
    ("--host a/b", "--host: 'a/b' is not a host name or address"),
    ("--log-level loud", "--log-level: 'loud' is none of debug, info, warning, error"),
    ("--log-format xml", "--log-format: 'xml' is none of text, json"),
    ("--announce-fd -1", "--announce-fd: '-1' is not a file descriptor (0 to 1048576)"),
]


@pytest.mark.parametrize(
    ("configure", "arguments", "message"),
    [
        *((storage, *bad) for bad in BAD),
        *((serve, *bad) for bad in BAD),
        (storage, "--tier tape", "--tier: 'tape' is none of dram, nvme, ssd, hdd"),
        (storage, "--controller kv", "--controller: 'kv' is not host:port"),
        (storage, "--controller :1", "--controller: ':1' is not host:port"),
        (storage, "--controller kv:0", "--controller: '0' is not a port (1 to 65535)"),
        (storage, "--controller ::1:7", "--controller: '::1:7' needs [ ] around its IPv6 address"),
        (
            storage,
            "--server-id a/b",
            "--server-id: 'a/b' is not 1 to 64 letters, digits and '.', '_', '-'",
        ),
        (storage, "--controller kv:1", "--controller needs --secret-file or POCKETKV_SECRET"),
        (storage, "--require-auth", "--require-auth needs --secret-file or POCKETKV_SECRET"),
        (router, "", "--controller or POCKETKV_CONTROLLER is needed"),
        (router, "--controller kv:1", "--secret-file or POCKETKV_SECRET is needed"),
        (controller, "", "--secret-file or POCKETKV_SECRET is needed"),
        (serve, "--dram 0 --nvme 0", "--dram, --nvme, --ssd and --hdd: no storage server is left"),
        (
            serve,
            "--dram 0 --spill /srv",
            "--spill is for servers of the tier dram, and there is none",
        ),
        (serve, "--retain /srv", "--retain: '/srv' is not of the form s3://bucket/prefix"),
        (
            storage,
            "--retain s3://bucket/a",
            "--retain is for servers of a cluster, which have jobs",
        ),
        (serve, "--dram 65", "--dram: '65' is not a number of processes (0 to 64)"),
        (serve, "--nvme -1", "--nvme: '-1' is not a number of processes (0 to 64)"),
        (serve, "--routers 0", "--routers: '0' is not a number of processes (1 to 64)"),
        (
            serve,
            "--memory 2mb",
            "--memory: 2mb is less than 1mb for each of 3 storage servers",
        ),
        (serve, "--metrics-port 65532", "--metrics-port: the ports that follow end at 65535"),
        (
            serve,
            "--secret-file /no/such/file",
            "--secret-file: '/no/such/file': No such file or directory",
        ),
        (
            serve,
            "--admin-password-file /",
            "--admin-password-file: '/': Is a directory",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    configure: Callable[[str], ProcessConfig], arguments: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("configure", "environ", "message"),
    [
        (storage, {"POCKETKV_PORT": "x"}, "POCKETKV_PORT: 'x' is not a port (0 to 65535)"),
        (storage, {"POCKETKV_REQUIRE_AUTH": "maybe"}, "POCKETKV_REQUIRE_AUTH: 'maybe' is not yes"),
        (storage, {"POCKETKV_CONTROLLER": "kv:1"}, "POCKETKV_CONTROLLER needs --secret-file or"),
        (storage, {"POCKETKV_REQUIRE_AUTH": "1"}, "POCKETKV_REQUIRE_AUTH needs --secret-file or"),
        (
            storage,
            {**WITH_CONTROLLER, "POCKETKV_HOST": "0.0.0.0"},
            "POCKETKV_HOST: 0.0.0.0 is no address for clients; --advertise-host or",
        ),
        (storage, {"POCKETKV_DIR": "a\0b"}, r"POCKETKV_DIR: 'a\x00b' is not a path"),
        (
            router,
            {"POCKETKV_PORT": "tcp://10.0.0.1:6379", **WITH_CONTROLLER},
            "POCKETKV_PORT: 'tcp://10.0.0.1:6379' is not a port; Kubernetes sets such a variable",
        ),
        (serve, {"POCKETKV_MEMORY": "1mb"}, "POCKETKV_MEMORY: 1mb is less than 1mb for each of 3"),
        (
            serve,
            {**WITH_SECRET, "POCKETKV_SECRET_FILE": "f"},
            "POCKETKV_SECRET and POCKETKV_SECRET_FILE are both set",
        ),
        (serve, {"POCKETKV_SECRET": "00" * 31}, "POCKETKV_SECRET: a secret is 64 hexadecimal"),
        (serve, {"POCKETKV_SECRET": "zz" * 32}, "POCKETKV_SECRET: a secret is 64 hexadecimal"),
    ],
)
def test_what_is_wrong_with_a_variable_names_it(
    configure: Callable[[str, dict[str, str]], ProcessConfig],
    environ: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure("", environ)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_server_that_listens_everywhere_says_where_clients_find_it(host: str) -> None:
    config = storage(f"--host {host} --advertise-host kv.example", WITH_CONTROLLER)
    assert (config.host, config.advertise_host) == (host, "kv.example")
    # By itself it sends nobody anywhere.
    assert storage(f"--host {host}").advertise_host is None


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_secrets_are_read_from_files(tmp_path: Path, ending: str) -> None:
    secret, password = tmp_path / "secret", tmp_path / "password"
    secret.write_text(SECRET.hex().upper() + ending)
    password.write_text(" pass word " + ending)
    other = {"POCKETKV_SECRET": "11" * 32, "POCKETKV_ADMIN_PASSWORD": "other"}
    by_flag = serve(f"--secret-file {secret} --admin-password-file {password}", other)
    assert (by_flag.secret, by_flag.admin_password) == (SECRET, " pass word ")
    by_variable = serve(
        "",
        {
            "POCKETKV_SECRET_FILE": str(secret),
            "POCKETKV_ADMIN_PASSWORD_FILE": str(password),
        },
    )
    assert (by_variable.secret, by_variable.admin_password) == (SECRET, " pass word ")
    assert serve("", other).admin_password == "other"


def test_a_file_of_secrets_that_is_none(tmp_path: Path) -> None:
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"\xff" * 64)
    empty.write_text("\n")
    with pytest.raises(ConfigError, match=r"--secret-file: .* is not text"):
        serve(f"--secret-file {binary}")
    with pytest.raises(ConfigError, match="--secret-file: a secret is 64 hexadecimal digits"):
        serve(f"--secret-file {empty}")
    with pytest.raises(ConfigError, match="--admin-password-file: the password is empty"):
        serve(f"--admin-password-file {empty}")
    with pytest.raises(ConfigError, match="--secret-file: a secret is 64 hexadecimal digits"):
        serve("--secret-file /dev/zero")


def test_the_reader_of_files_is_a_parameter() -> None:
    read: list[Path] = []

    def read_file(path: Path) -> bytes:
        read.append(path)
        raise PermissionError(13, "Permission denied")

    namespace = parsed(add_controller_arguments, "--secret-file /run/secret")
    with pytest.raises(ConfigError, match="--secret-file: '/run/secret': Permission denied"):
        controller_config(namespace, {}, read_file=read_file)
    assert read == [Path("/run/secret")]


def test_secrets_are_not_shown() -> None:
    environ = {**WITH_CONTROLLER, "POCKETKV_ADMIN_PASSWORD": "open sesame"}
    for _, configure in PROCESSES:
        shown = repr(configure("", environ))
        assert "sesame" not in shown
        assert repr(SECRET) not in shown
        assert SECRET.hex() not in shown
    with pytest.raises(ConfigError) as caught:
        serve("", {"POCKETKV_SECRET": "sesame"})
    assert "sesame" not in str(caught.value)


@given(st.integers(0, 2**50))
def test_memory_that_is_not_given_is_half_of_the_machine(machine_memory_bytes: int) -> None:
    config = storage_config(argparse.Namespace(), {}, machine_memory_bytes=machine_memory_bytes)
    assert config.memory_bytes == max(1024**2, machine_memory_bytes // 2)


variables = st.sampled_from(
    [f"POCKETKV_{name.replace('-', '_').upper()}" for name in (*FIELDS, *SWITCHES)]
    + ["POCKETKV_SECRET", "POCKETKV_ADMIN_PASSWORD", "POCKETKV_SECRET_FILE"]
)


@given(st.dictionaries(variables, st.text() | st.integers().map(str)))
def test_garbage_is_a_configuration_or_a_config_error(environ: dict[str, str]) -> None:
    def no_file(path: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    flags = argparse.Namespace()
    for configure in (
        lambda: storage_config(flags, environ, machine_memory_bytes=GB, read_file=no_file),
        lambda: serve_config(flags, environ, machine_memory_bytes=GB, read_file=no_file),
        lambda: router_config(flags, environ, read_file=no_file),
        lambda: controller_config(flags, environ, read_file=no_file),
    ):
        try:
            configure()
        except ConfigError as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 250


def test_spilling_is_for_the_dram_tier() -> None:
    with pytest.raises(ConfigError, match="--spill is for the tier dram"):
        storage("--tier nvme --spill /srv/spill")


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "gs://bucket/prefix", "http://host/"])
def test_where_nothing_can_be_spilled_to(url: str) -> None:
    with pytest.raises(ConfigError, match="neither a path nor s3://bucket/prefix"):
        storage(f"--spill {url}")
