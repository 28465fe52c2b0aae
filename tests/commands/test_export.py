"""`edgemim export`: other targets and precisions than the story's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from edgemim.artifact import load_artifact


def test_jetson_engines_are_built_on_the_device(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "jetson", "--precision", "fp32", "--evaluation", "none"]
    done = cli("export", story.classifier, *arguments, "--out", tmp_path / "jetson", "--json")
    assert done.code == 0, done.err
    assert done.json["target"] == "jetson"
    assert done.json["evaluation"] is None
    assert [c["name"] for c in done.json["candidates"]] == ["fp32"]
    assert done.json["calibration"] is None
    (line,) = done.err.splitlines()
    assert "engines are built on the device" in line
    assert "edgemim check jetson" in line
    checked = cli("check", tmp_path / "jetson", "--out", tmp_path / "report")
    assert checked.code == 2
    assert "its engines are built on the device itself" in checked.err
    assert not (tmp_path / "report").exists()


def test_a_backbone_without_a_head_gives_embeddings(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    arguments = ["--target", "x86", "--precision", "fp32", "--evaluation-count", "5"]
    done = cli("export", story.student, *arguments, "--out", tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    assert done.json["output"]["name"] == "embedding"
    assert load_artifact(tmp_path / "bundle", "bundle").content["num_classes"] == 0
