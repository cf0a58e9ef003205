"""The `pocketkv` command: parses arguments and starts what they ask for; no logic of its own.

Planes are imported by the subcommand that needs them, since a storage server must start quickly
and only the controller may pay for the packages of its backends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

import trio

from pocketkv import __version__, config
from pocketkv.observability import log as logs
from pocketkv.serving.shell import Ready, StartError

USAGE_ERROR = 2
INTERRUPTED = 130
# What a shell reports of a process that SIGPIPE ended.
PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the process's exit status."""
    parser = _parser()
    namespace = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = namespace.run
    status = USAGE_ERROR
    try:
        status = run(namespace)
    except* (config.ConfigError, StartError) as errors:
        print(f"pocketkv {namespace.command}: {_first(errors)}", file=sys.stderr)
    except* KeyboardInterrupt:
        status = INTERRUPTED
    except* BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; Python must not flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = PIPE_CLOSED
    return status


def _first(error: BaseException) -> BaseException:
    """The first plain exception of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pocketkv",
        description="Elastic, tiered, ephemeral storage for serverless analytics.",
    )
    parser.add_argument("--version", action="version", version=f"pocketkv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run a whole cluster on this machine")
    config.add_serve_arguments(serve)
    serve.set_defaults(run=_serve)

    storage = commands.add_parser("storage", help="run one storage server")
    config.add_storage_arguments(storage)
    storage.set_defaults(run=_storage)

    router = commands.add_parser("router", help="run one router")
    config.add_router_arguments(router)
    router.set_defaults(run=_router)

    controller = commands.add_parser("controller", help="run one controller")
    config.add_controller_arguments(controller)
    controller.set_defaults(run=_controller)

    from pocketkv import admin, calibrate, demo, simulate, top

    admin.add_commands(commands)

    live = commands.add_parser("top", help="watch a cluster live")
    top.add_arguments(live)
    live.set_defaults(run=top.run)

    measured = commands.add_parser("calibrate", help="measure a medium for the catalog")
    calibrate.add_arguments(measured)
    measured.set_defaults(run=calibrate.run)

    simulated = commands.add_parser("simulate", help="see what a trace of jobs would cost")
    simulate.add_arguments(simulated)
    simulated.set_defaults(run=simulate.run)

    shown = commands.add_parser("demo", help="run an inverted index through PocketKV")
    demo.add_arguments(shown)
    shown.set_defaults(run=demo.run)
    return parser


def _announcer(settings: config.ProcessConfig) -> Callable[[Ready], None]:
    """Tells a parent process where this one can be reached."""
    fd = settings.announce_fd

    def announce(ready: Ready) -> None:
        if fd is None:
            return
        try:
            os.write(fd, json.dumps(ready.as_json()).encode() + b"\n")
            os.close(fd)
        except OSError as error:
            raise StartError(f"--announce-fd {fd}: {error.strerror}") from error

    return announce


def _storage(namespace: argparse.Namespace) -> int:
    from pocketkv.observability.process import machine_memory_bytes
    from pocketkv.tiers.storage import run_storage

    settings = config.storage_config(
        namespace, os.environ, machine_memory_bytes=machine_memory_bytes()
    )
    log = logs.configure("storage", settings.log_level, settings.log_format, sys.stderr)
    trio.run(run_storage, settings, log, _announcer(settings))
    return 0


def _router(namespace: argparse.Namespace) -> int:
    from pocketkv.router.service import run_router

    settings = config.router_config(namespace, os.environ)
    log = logs.configure("router", settings.log_level, settings.log_format, sys.stderr)
    trio.run(run_router, settings, log, _announcer(settings))
    return 0


def _controller(namespace: argparse.Namespace) -> int:
    from pocketkv.controller.service import run_controller

    settings = config.controller_config(namespace, os.environ)
    log = logs.configure("controller", settings.log_level, settings.log_format, sys.stderr)
    trio.run(run_controller, settings, log, _announcer(settings))
    return 0


def _serve(namespace: argparse.Namespace) -> int:
    from pocketkv.controller.serve import run_serve
    from pocketkv.observability.process import machine_memory_bytes

    settings = config.serve_config(
        namespace, os.environ, machine_memory_bytes=machine_memory_bytes()
    )
    log = logs.configure("serve", settings.log_level, settings.log_format, sys.stderr)
    trio.run(run_serve, settings, log, _print_line)
    return 0


def _print_line(line: str) -> None:
    print(line, flush=True)
