"""`edgemim export`: other targets and precisions than the story's."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import load_artifact
from edgemim.runtime.nvidia import host_check


def test_jetson_engines_are_built_on_the_device(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "jetson", "--precision", "fp32", "--evaluation", "none"]
    done = cli("export", story.classifier, *arguments, "--out", tmp_path / "jetson", "--json")
    assert done.code == 0, done.err
    assert done.json["target"] == "jetson-orin-nano"
    assert done.json["evaluation"] is None
    assert [c["name"] for c in done.json["candidates"]] == ["fp32", "fp16-opset17"]
    assert done.json["calibration"] is None
    (line,) = done.err.splitlines()
    assert "engines are built on the device" in line
    assert "edgemim check jetson" in line


@pytest.mark.parametrize("installed", [True, False])
def test_the_host_check_is_shown_by_export_and_by_inspect(
    cli: Any, story: SimpleNamespace, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if installed:
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    else:
        monkeypatch.setattr(host_check, "installed", lambda: ())
    arguments = ["--target", "jetson-thor", "--precision", "fp32", "--evaluation", "none"]
    done = cli("export", story.classifier, *arguments, "--out", tmp_path / "bundle")
    assert done.code == 0, done.err
    (row,) = cli("inspect", tmp_path / "bundle", "--json").json["host_check"]
    assert row["candidate"] == "fp32"
    named = ("compute_capability", "parsed", "kernels", "int8_gemms", "fused_mha", "unfused_softmax")
    if installed:
        assert [type(row[name]) for name in named] == [str, bool, int, int, int, int]
        expected = f"host check fp32 on 12.0 {row['kernels']} kernels, 0 INT8 GEMMs, "
    else:
        assert [row[name] for name in named] == [None] * len(named)
        expected = "host check fp32 not checked on the host: the package 'tensorrt_rtx' is not installed"
    shown = " ".join(expected.split())
    for out in (done.out, cli("inspect", tmp_path / "bundle").out):
        (line,) = [line for line in out.splitlines() if line.startswith("host check")]
        assert " ".join(line.split()).startswith(shown)


def test_input_output_and_batch_are_what_was_asked_for(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "x86", "--precision", "fp32", "--evaluation-count", "3"]
    kinds = ["--input", "float", "--output", "tokens", "--batch", "2"]
    done = cli("export", story.classifier, *arguments, *kinds, "--out", tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    assert done.json["input"]["shape"] == [2, 3, 32, 32]
    assert done.json["input"]["encoding"] == "normalised"
    assert done.json["tokens"]["shape"] == [2, 16, 32]
    checked = cli(
        "check", tmp_path / "bundle", "--runs", "1", "--seconds", "0.01", "--out", tmp_path / "report", "--json"
    )
    assert checked.code == 0, checked.err
    assert checked.json["protocol"]["batch"] == 2
    assert {row["accuracy"]["n"] for row in checked.json["candidates"] if row["disqualified"] is None} == {3}


def test_placement_and_ranges_are_what_was_asked_for(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "x86", "--evaluation", "none", "--calibration-count", "8", "--out", tmp_path / "bundle"]
    typo = cli("export", story.classifier, *arguments, "--ranges", "entropi")
    assert typo.code == 2
    assert "unknown range estimator 'entropi'; did you mean 'entropy'" in typo.err
    done = cli("export", story.classifier, *arguments, "--placement", "Linear", "--ranges", "ENTROPY", "--json")
    assert done.code == 0, done.err
    assert {c["file"] for c in done.json["candidates"]} == {"fp32.onnx", "int8-linear.onnx"}


def test_pixels_are_the_default(story: SimpleNamespace) -> None:
    assert story.export_done.json["input"]["encoding"] == "pixels"
    assert story.check_done.json["preprocessing"].items() >= {"exact": True, "max_levels": 0, "max_abs": None}.items()


def test_an_unknown_kind_of_input_says_what_is_known(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    done = cli("export", story.classifier, "--target", "x86", "--input", "bgr", "--out", tmp_path / "bundle")
    assert done.code == 2
    assert "'input' must be one of 'pixels', 'float'; got 'bgr'" in done.err


def test_a_backbone_without_a_head_gives_embeddings(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "x86", "--precision", "fp32", "--evaluation-count", "5"]
    done = cli("export", story.student, *arguments, "--out", tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    assert done.json["output"]["name"] == "embedding"
    assert load_artifact(tmp_path / "bundle", "bundle").content["num_classes"] == 0


def test_verify_compares_every_flavour_with_the_checkpoint(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "x86", "--precision", "fp32", "--evaluation", "none", "--verify"]
    done = cli("export", story.classifier, *arguments, "--out", tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    (step,) = done.json["ladder"]["steps"]
    assert (step["name"], step["against"], step["departs"]) == ("fp32", "torch", False)
    assert [row["name"] for row in step["blocks"]][:3] == ["patch_embed", "blocks.0", "blocks.1"]
    assert done.json["ladder"]["notes"] == []
    assert "fp32 follows torch in all " in done.err
    shown = cli("export", story.classifier, *arguments, "--out", tmp_path / "shown")
    assert shown.code == 0, shown.err
    assert "parity of fp32 with torch, 8 images" in shown.out
    assert "ladder" not in shown.out


@pytest.mark.parametrize("given", [".", "../bundle"])
def test_an_empty_folder_takes_the_bundle_by_its_dot(
    cli: Any, story: SimpleNamespace, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    arguments = ["--target", "x86", "--precision", "fp32", "--evaluation", "none"]
    done = cli("export", story.classifier, *arguments, "--out", given, "--json")
    assert done.code == 0, done.err
    assert os.listdir(tmp_path) == ["bundle"]
    assert load_artifact(tmp_path / "bundle", "bundle").content["candidates"] == done.json["candidates"]


def test_a_folder_with_something_in_it_is_refused_by_its_dot_before_any_work(
    cli: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    monkeypatch.chdir(tmp_path)
    done = cli("export", "no-such-checkpoint", "--target", "x86", "--out", ".")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"edgemim: {tmp_path} exists; choose another --out, or replace it with --overwrite\n"
