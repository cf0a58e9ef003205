"""``pocketkv job | tier | server | move | events``: administration from a shell, over RESP.

Each subcommand is one command of the controller, sent to a router as any client would. The reply
is shown as an indented listing, or with ``--json`` as JSON for scripts. Events are a line each; who
follows them asks for those after the last one, and goes on asking while nobody answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

_DEFAULT_URL: Final = "redis://127.0.0.1:6379"
_URL_VARIABLE: Final = "POCKETKV_URL"
PASSWORD_VARIABLE: Final = "POCKETKV_ADMIN_PASSWORD"
_TIMEOUT_S: Final = 10.0
_FOLLOW_INTERVAL_S: Final = 0.5

# Flags of `job register` and `job update`, with the word that the command takes.
_HINTS: Final = {
    "lambdas": ("LAMBDAS", "N", "how many functions the job runs at once"),
    "capacity": ("CAPACITY", "SIZE", "bytes that the job holds at its peak, such as 10gb"),
    "throughput": ("THROUGHPUT", "RATE", "bytes per second, or bits such as 8gbps"),
    "latency": ("LATENCY", "sensitive|tolerant", "whether the job waits for single requests"),
    "lease": ("LEASE", "SECONDS", "the job ends unless it is renewed within this time"),
}


def add_commands(commands: Any) -> None:
    """Add `job`, `tier`, `server`, `move` and `events` to the command line's subcommands."""
    job = _group(commands, "job", "register, look at and end jobs")
    for name in ("register", "update"):
        parser = _leaf(job, name, f"JOB.{name.upper()}", ["name" if name == "register" else "id"])
        for hint, (_, metavar, text) in _HINTS.items():
            parser.add_argument(f"--{hint}", metavar=metavar, help=text)
        parser.add_argument("--tiers", nargs="+", metavar="TIER", help="tiers that it may use")
    _leaf(job, "list", "JOB.LIST", [])
    for name in ("info", "renew", "deregister", "purge"):
        _leaf(job, name, f"JOB.{name.upper()}", ["id"])
    tier = _group(commands, "tier", "look at and scale tiers")
    _leaf(tier, "list", "TIER.LIST", [])
    _leaf(tier, "scale", "TIER.SCALE", ["tier", "servers"])
    server = _group(commands, "server", "look at and drain storage servers")
    _leaf(server, "list", "SERVER.LIST", [])
    _leaf(server, "drain", "SERVER.DRAIN", ["id"])
    _leaf(server, "undrain", "SERVER.UNDRAIN", ["id"])
    move = _group(commands, "move", "look at slots on their way between storage servers")
    _leaf(move, "list", "MOVE.LIST", [])
    _add_events(commands)


def _add_events(commands: Any) -> None:
    text = "show what the cluster has decided and seen lately, and why"
    parser = commands.add_parser("events", help=text, description=text.capitalize() + ".")
    parser.add_argument("--follow", action="store_true", help="go on with those to come")
    parser.add_argument("--since", metavar="ID", type=int, help="begin after the event of this id")
    parser.add_argument("--count", metavar="N", type=int, default=100, help="how many (100)")
    add_url_argument(parser)
    parser.add_argument("--json", action="store_true", help="print an object of JSON per line")
    parser.set_defaults(run=_events)


def _group(commands: Any, name: str, text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    return parser.add_subparsers(required=True, metavar="COMMAND")


def _leaf(group: Any, name: str, sent: str, positional: list[str]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = group.add_parser(name, help=f"send {sent}")
    for argument in positional:
        parser.add_argument(argument)
    add_url_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_send, sent=sent, positional=positional)
    return parser


def add_url_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says whom to ask."""
    parser.add_argument(
        "--url",
        default=os.environ.get(_URL_VARIABLE, _DEFAULT_URL),
        help=f"of a router (default: ${_URL_VARIABLE} or {_DEFAULT_URL}); where administration is"
        f" closed, ${PASSWORD_VARIABLE} holds its password",
    )


def request_of(namespace: argparse.Namespace) -> list[str]:
    """The command that a parsed command line stands for."""
    request = [namespace.sent, *(getattr(namespace, name) for name in namespace.positional)]
    for hint, (word, _, _) in _HINTS.items():
        value = getattr(namespace, hint, None)
        if value is not None:
            request += [word, value]
    tiers = getattr(namespace, "tiers", None)
    return request + (["TIERS", *tiers] if tiers else [])


def _send(namespace: argparse.Namespace) -> int:
    # redis-py takes a while to import; only these subcommands pay for it.
    import redis

    try:
        with _client(namespace.url) as client:
            reply = client.execute_command(*request_of(namespace))
    except (redis.RedisError, ValueError, OSError) as error:
        return _failed(namespace, error)
    print(json.dumps(reply, indent=2, default=sorted) if namespace.json else shown(reply))
    return 0


def _client(url: str) -> Any:
    """A client of a router, as administrator if the environment has the password."""
    import redis

    password = os.environ.get(PASSWORD_VARIABLE)
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        protocol=3,
        socket_timeout=_TIMEOUT_S,
        **({"username": "admin", "password": password} if password else {}),
    )


def _failed(namespace: argparse.Namespace, error: Exception) -> int:
    print(f"pocketkv {namespace.command}: {error}", file=sys.stderr)
    return 1


def _events(namespace: argparse.Namespace) -> int:
    import redis

    try:
        with _client(namespace.url) as client:
            found = _events_since(client, namespace.since, namespace.count)
            _show_events(found, as_json=namespace.json)
            if namespace.follow:
                newest = found[-1]["id"] if found else namespace.since or 0
                _show_events(_later_events(client, newest, namespace), as_json=namespace.json)
    except (redis.RedisError, ValueError, OSError) as error:
        return _failed(namespace, error)
    return 0


def _later_events(
    client: Any, newest: int, namespace: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the events after one, for ever; it is said once that nobody answers."""
    import redis
    from redis.exceptions import ClusterDownError

    is_away = False
    while True:
        time.sleep(_FOLLOW_INTERVAL_S)
        try:
            found = _events_since(client, newest, namespace.count)
            is_away = False
        # No router, or no controller behind it.
        except (redis.ConnectionError, redis.TimeoutError, ClusterDownError) as error:
            if not is_away:
                _failed(namespace, error)
            is_away, found = True, []
        for event in found:
            newest = event["id"]
            yield event


def _events_since(client: Any, since: int | None, count: int) -> list[dict[str, Any]]:
    request: list[str | int] = ["EVENTS.LIST", "COUNT", count]
    reply: list[dict[str, Any]] = client.execute_command(
        *request, *(() if since is None else ("SINCE", since))
    )
    return reply


def _show_events(events: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    for event in events:
        print(json.dumps(event) if as_json else shown_event(event), flush=True)


def shown_event(event: Mapping[str, Any]) -> str:
    """An event as a line: when, what, the fields that say of what, and why."""
    at = datetime.fromtimestamp(event["time_ms"] / 1000).astimezone()
    fields = dict(event["fields"])
    reason = fields.pop("reason", None)
    words = "".join(f" {name}={value}" for name, value in fields.items() if value != "")
    why = "" if reason is None else f": {reason}"
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}  {event['kind']}{words}{why}"


def shown(reply: Any, indent: int = 0) -> str:
    """A reply as an indented listing."""
    pad = "  " * indent
    if isinstance(reply, dict):
        return "\n".join(_shown_pair(str(k), v, indent) for k, v in reply.items())
    if isinstance(reply, list | tuple | set):
        if not reply:
            return f"{pad}(none)"
        if not any(isinstance(item, dict | list) for item in reply):
            return pad + " ".join(str(item) for item in reply)
        return "\n".join(pad + "- " + shown(item, indent + 1).lstrip() for item in reply)
    return f"{pad}{reply}"


def _shown_pair(key: str, value: Any, indent: int) -> str:
    pad = "  " * indent
    if isinstance(value, dict | list | set) and value:
        return f"{pad}{key}:\n{shown(value, indent + 1)}"
    return f"{pad}{key}: {value}"
