"""Where in a Kubernetes cluster a controller's storage servers are: `--backend` and its flags."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Final

from pocketkv.options import ConfigError, Given, Option, parse_choice, parse_identifier


@dataclass(frozen=True)
class Release:
    """A release in a namespace: what the names and labels of its objects begin with."""

    namespace: str
    name: str


_BACKEND: Final = Option(
    "backend", parse_choice(("kubernetes",)), "what starts and stops storage servers", "NAME"
)
_NAMESPACE: Final = Option("namespace", parse_identifier, "of Kubernetes", "NAME")
_RELEASE: Final = Option(
    "release", parse_identifier, "what the names and labels of its objects begin with", "NAME"
)


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; all default to None, which means not given."""
    _BACKEND.add_to(parser, "none: storage servers are started by others")
    _NAMESPACE.add_to(parser, "needed with --backend kubernetes")
    _RELEASE.add_to(parser, "needed with --backend kubernetes")


def release(given: Given) -> Release | None:
    """Return the release; None without this backend.

    Raises:
        ConfigError: One of the options is missing, or there without the backend.
    """
    namespace, name = given(_NAMESPACE, None), given(_RELEASE, None)
    if given(_BACKEND, None) is None:
        for option, value in ((_NAMESPACE, namespace), (_RELEASE, name)):
            if value is not None:
                raise ConfigError(f"{given.source(option)} is for {_BACKEND.flag} kubernetes")
        return None
    if namespace is None or name is None:
        missing = _NAMESPACE if namespace is None else _RELEASE
        raise ConfigError(f"{given.source(_BACKEND)} kubernetes needs {missing.either}")
    return Release(namespace, name)
