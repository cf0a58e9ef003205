"""What `pocketkv serve` says when it is ready: what runs where, and how to use it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pocketkv.amounts import format_bytes
from pocketkv.config import ServeConfig

_SHOWN_ID_CHARACTERS = 8


def overview(
    config: ServeConfig,
    host: str,
    port: int,
    processes: Mapping[str, Mapping[str, Any]],
    servers: Sequence[Mapping[Any, Any]],
) -> list[str]:
    """Return the lines.

    Args:
        config: What was asked for.
        host: Where clients find the routers, with `port`.
        port: See `host`.
        processes: What controller and routers have announced, by name.
        servers: The reply of ``SERVER.LIST``.
    """
    rows = [("what", "id", "address", "metrics", "pid", "")]
    for name, ready in sorted(processes.items(), key=lambda item: item[0] != "controller"):
        rows.append(
            _row(name.partition("-")[0], ready["id"], ready, ready["metrics_port"], ready["pid"])
        )
    for reply in servers:
        server = {_text(key): value for key, value in reply.items()}
        tier = _text(server["tier"])
        note = format_bytes(int(server["capacity_bytes"]))
        rows.append(_row(tier, server["id"], server, server["metrics_port"], server["pid"], note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    url = f"redis://{_address(host, port)}"
    return [f"PocketKV is ready: {url}", "", *table, "", *_usage(config, host, port)]


def _usage(config: ServeConfig, host: str, port: int) -> list[str]:
    at = ("" if host == "127.0.0.1" else f" -h {host}") + ("" if port == 6379 else f" -p {port}")
    if not config.require_auth:
        return [f"  redis-cli{at} SET hello world"]
    if config.admin_password is not None:
        return [f"  redis-cli{at} --user admin --askpass JOB.REGISTER my-job"]
    return [f"  redis-cli{at} JOB.REGISTER my-job"]


def _row(
    what: str,
    identity: object,
    where: Mapping[str, Any],
    metrics_port: object,
    pid: object,
    note: str = "",
) -> tuple[str, str, str, str, str, str]:
    metrics = "-" if metrics_port is None else f":{metrics_port}"
    address = _address(_text(where["host"]), where["port"])
    shown = _text(identity)[:_SHOWN_ID_CHARACTERS]
    return what, shown, address, metrics, "-" if pid is None else str(pid), note


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
