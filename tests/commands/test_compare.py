"""`edgemim compare`: the report is the result, and whatever it says the exit code is 0."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BRIEF = ["--runs", "32", "--seconds", "0.01", "--threads", "1"]


def test_two_candidates_are_compared_and_the_json_is_the_report(
    cli: Any, story: SimpleNamespace, tmp_path: Path
) -> None:
    both = [f"{story.bundle}:fp32@onnxruntime", f"{story.bundle}:int8-linear@onnxruntime"]
    done = cli("compare", *both, *BRIEF, "--out", tmp_path / "out", "--json", "--no-page")
    assert done.code == 0, done.err
    result = done.json
    assert result.pop("report") == str(tmp_path / "out")
    assert result == json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert [entry["label"] for entry in result["entries"]] == ["fp32 on onnxruntime", "int8-linear on onnxruntime"]
    (pair,) = result["pairs"]
    assert pair["low"] <= pair["ratio"] <= pair["high"]
    assert [entry["accuracy"]["n"] for entry in result["entries"]] == [20, 20]
    assert done.err.splitlines()[0] == result["verdict"]
    assert cli("inspect", tmp_path / "out").code == 0


@pytest.mark.slow
def test_without_out_the_report_lies_beside_the_first(cli: Any, story: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(story.bundle)
    both = [f"{tmp_path / 'mine'}:fp32@onnxruntime", story.report]
    done = cli("compare", *both, *BRIEF, "--no-page")
    assert done.code == 0, done.err
    assert done.out.strip() == (tmp_path / "mine-compare" / "report.md").read_text("utf-8").strip()


def test_the_folder_that_one_is_in_has_a_name_in_the_report_and_beside_it(
    cli: Any, story: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "other"):
        shutil.copytree(story.bundle, tmp_path / name)
    (tmp_path / "mine" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "mine" / "inner")
    both = ["..:fp32@onnxruntime", "../../other:fp32@onnxruntime"]
    done = cli("compare", *both, *BRIEF, "--latency-only", "--no-page", "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(tmp_path / "mine-compare")
    assert [entry["label"] for entry in done.json["entries"]] == [
        "mine: fp32 on onnxruntime",
        "other: fp32 on onnxruntime",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{bundle}:fp32"], "comparing takes two or more; got 1"),
        (["{bundle}:fp32", "{bundle}:fp33"], "the bundle has no candidate 'fp33'; did you mean 'fp32'"),
        (["{bundle}:fp32", "gone:fp32"], "neither gone:fp32 nor gone exists; give BUNDLE"),
        (["{bundle}:fp32", "{bundle}", "--mode", "fast"], "unknown mode 'fast'"),
        (["{bundle}:fp32", "{student}"], "is a checkpoint; here a bundle is needed"),
        (["{bundle}:fp32", "{bundle}:int8-linear", "--out", "{bundle}", "--overwrite"], "which this command reads"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    cli: Any, story: SimpleNamespace, tmp_path: Path, arguments: list[str], told: str
) -> None:
    filled = [word.format(bundle=story.bundle, student=story.student) for word in arguments]
    out = [] if "--out" in filled else ["--out", tmp_path / "out"]
    done = cli("compare", *filled, *out)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert told in line
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_which_nobody_chose_lists_its_candidates(cli: Any, story: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(story.bundle, tmp_path / "alone")
    done = cli("compare", tmp_path / "alone", f"{story.bundle}:fp32")
    assert done.code == 2
    assert "name one of its candidates (fp32, " in done.err
    assert "or run: edgemim check" in done.err
