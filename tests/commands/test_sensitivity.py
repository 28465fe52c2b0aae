"""`edgemim sensitivity`: every layer of a small classifier, as numbers and as a picture."""

from __future__ import annotations

import io
import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from edgemim.artifact import load_artifact

FEW = ["--calibration-count", "8", "--images", "4"]


def test_every_layer_is_measured_alone_and_left_out(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    out = tmp_path / "sensitivity"
    done = cli("sensitivity", story.classifier, *FEW, "--out", out, "--json")
    assert done.code == 0, done.err
    kinds = {(entry["block"], entry["kind"]) for entry in done.json["units"]}
    per_block = {"qkv", "attention", "proj", "fc1", "fc2"}
    assert kinds == {(f"blocks.{i}", kind) for i in range(2) for kind in per_block} | {
        ("", "patch_embed"),
        ("", "head"),
    }
    assert all(entry[side]["noise"] > 0 for entry in done.json["units"] for side in ("enabled", "disabled"))
    artifact = load_artifact(out, "report")
    assert json.loads(artifact.file("sensitivity.json").read_text())["everything"] == done.json["everything"]
    picture = Image.open(io.BytesIO(artifact.file("sensitivity.png").read_bytes()))
    assert picture.size[0] > 400
    # Nothing of the unfinished state is left beside it.
    assert [path.name for path in tmp_path.iterdir()] == ["sensitivity"]


@pytest.mark.slow
def test_for_people_the_costliest_layers_come_first(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    done = cli("sensitivity", story.classifier, *FEW, "--placement", "linear", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    assert first.startswith("noise, all in INT8")
    noises = [float(line.split()[-1]) for line in rest]
    assert noises == sorted(noises)


def test_an_unknown_placement_says_which_there_are(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    done = cli("sensitivity", story.classifier, *FEW, "--placement", "linar", "--out", tmp_path / "out")
    assert done.code == 2
    assert "did you mean 'linear'" in done.err
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_takes_the_result_by_its_dot(
    cli: Any, story: SimpleNamespace, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sensitivity").mkdir()
    monkeypatch.chdir(tmp_path / "sensitivity")
    done = cli("sensitivity", story.classifier, *FEW, "--placement", "linear", "--out", ".", "--json")
    assert done.code == 0, done.err
    assert os.listdir(tmp_path) == ["sensitivity"]
    assert load_artifact(tmp_path / "sensitivity", "report").content["placement"] == "linear"
