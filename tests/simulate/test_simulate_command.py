"""`pocketkv simulate` as a user runs it: what it prints, writes, and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pocketkv.cli import USAGE_ERROR, main
from pocketkv.simulate.comparing import POLICIES

SHORT = ["simulate", "--generate", "300", "0.05", "2"]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_table_names_all_policies_and_says_what_is_cheaper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(SHORT) == 0
    shown = capsys.readouterr().out
    assert all(f"\n {name}" in shown or f"\n{name}" in shown for name in POLICIES)
    assert "made up: 300 jobs per hour, seed 2" in shown
    assert "PocketKV is " in shown
    assert "than static dram" in shown


def test_json_is_one_object_with_all_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["policy"] for one in found["policies"]] == list(POLICIES)
    assert all(one["cost_usd"] > 0 for one in found["policies"])
    assert found["trace"]["jobs"] == sum(found["trace"]["kinds"].values())


def test_a_trace_that_was_written_has_the_same_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "trace.csv")
    assert main([*SHORT, "--json", "--write-trace", path]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["simulate", path, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    for found in (first, second):
        for one in found["policies"]:
            del one["duration_s"]
    assert first["policies"] == second["policies"]
    assert second["trace"]["origin"] == path


def test_the_picture_has_a_line_for_each_way_and_a_bar_for_each_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "picture.svg"
    assert main([*SHORT, "--plot", str(path)]) == 0
    capsys.readouterr()
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 3
    for line in lines:
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert all(name in texts for name in POLICIES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such.csv"], "'no-such.csv': No such file or directory"),
        (["--generate", "0", "1", "1"], "--generate: '0' is not a number of jobs per hour"),
        (["--generate", "nan", "1", "1"], "--generate: 'nan' is not a number of jobs per hour"),
        (["--generate", "9", "1", "-1"], "--generate: '-1' is not a seed"),
        (["x.csv", "--generate", "9", "1", "1"], "either read or made up"),
        (["--autoscale", "dram=2"], "'dram=2' is not tier=least..most"),
        (["--servers-max", "1"], "1 is less than the 2 servers"),
        (["--move-percent", "0"], "'0' is not a percentage"),
        (["--catalog", "no-such.toml"], "no-such.toml: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", *arguments]) == USAGE_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "missing" / "picture.svg")
    assert main([*SHORT, "--plot", path]) == USAGE_ERROR
    assert "--plot: " in capsys.readouterr().err


def test_a_bad_trace_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("start_s,duration_s,name,written\n0,1,x,lots\n")
    assert main(["simulate", str(path)]) == USAGE_ERROR
    assert f"{path}, line 2, written: " in capsys.readouterr().err
