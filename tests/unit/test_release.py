"""Where a controller's pods are, from flags and variables."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pocketkv.config import ControllerConfig, add_controller_arguments, controller_config
from pocketkv.options import ConfigError
from pocketkv.release import Release


def controller(*arguments: str, **environ: str) -> ControllerConfig:
    parser = argparse.ArgumentParser()
    add_controller_arguments(parser)
    return controller_config(
        parser.parse_args(arguments), {"POCKETKV_SECRET": "07" * 32, **environ}
    )


def test_none_is_none() -> None:
    assert controller().release is None


def test_flags_and_variables() -> None:
    flags = ("--backend", "kubernetes", "--namespace", "shuffles", "--release", "pk")
    expected = Release("shuffles", "pk")
    assert controller(*flags).release == expected
    variables = {"POCKETKV_BACKEND": "kubernetes", "POCKETKV_NAMESPACE": "shuffles"}
    assert controller(**variables, POCKETKV_RELEASE="pk").release == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "mesos"], "--backend: 'mesos' is none of kubernetes"),
        (["--backend", "kubernetes"], "needs --namespace or POCKETKV_NAMESPACE"),
        (["--backend", "kubernetes", "--namespace", "n"], "needs --release or POCKETKV_RELEASE"),
        (["--release", "pk"], "--release is for --backend kubernetes"),
        (["--namespace", "n"], "--namespace is for --backend kubernetes"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        controller(*arguments)


def test_there_is_no_file_beside_it(tmp_path: Path) -> None:
    flags = ("--backend", "kubernetes", "--namespace", "n", "--release", "pk")
    with pytest.raises(ConfigError, match="--state: on Kubernetes, the state is in its API"):
        controller(*flags, "--state", str(tmp_path / "state"))
