"""`edgemim inspect`: what every kind of artifact says about itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import create_artifact, load_artifact

KINDS = {
    "teacher": "checkpoint",
    "student": "checkpoint",
    "classifier": "checkpoint",
    "bundle": "bundle",
    "report": "report",
}


@pytest.mark.parametrize("name", KINDS)
def test_json_is_the_manifest_verified(cli: Any, story: SimpleNamespace, name: str) -> None:
    path = getattr(story, name)
    done = cli("inspect", path, "--json")
    assert (done.code, done.err) == (0, "")
    artifact = load_artifact(path, KINDS[name])
    assert done.json == {
        "path": str(path),
        "kind": KINDS[name],
        "fingerprint": artifact.fingerprint,
        "size_bytes": sum((path / file).stat().st_size for file in artifact.files),
        "files": {file: {"sha256": r.sha256, "size": r.size} for file, r in artifact.files.items()},
        "content": artifact.content,
        "provenance": artifact.provenance,
    }


@pytest.mark.parametrize("name", KINDS)
def test_people_see_the_kind_the_files_and_the_stages(cli: Any, story: SimpleNamespace, name: str) -> None:
    done = cli("inspect", getattr(story, name))
    assert (done.code, done.err) == (0, "")
    artifact = load_artifact(getattr(story, name))
    assert done.out.splitlines()[0].split() == ["kind", KINDS[name]]
    assert [file for file in artifact.files if f"file {file} " not in done.out] == []
    stages = [line.split()[2] for line in done.out.splitlines() if line.startswith("stage ")]
    assert stages == [record["stage"] for record in artifact.provenance]


def test_a_stage_tells_its_data_its_teacher_and_its_scores(cli: Any, story: SimpleNamespace) -> None:
    out = cli("inspect", story.classifier).out
    stages = [line for line in out.splitlines() if line.startswith("stage ")]
    for line, record in zip(stages, load_artifact(story.classifier).provenance, strict=True):
        assert f"data digits (1437 images, {record['data']['fingerprint'][:16]})" in line
        assert f"seed {record['settings']['seed']}; 3 steps on cpu in " in line
        assert f"torch {record['versions']['torch']}, timm {record['versions']['timm']}, lightning " in line
    assert "; method dmae, seed 0; " in stages[0]
    assert "; seed 0; " in stages[1]  # fine-tuning has no method
    assert f"teacher {story.teacher} (licence " in out
    assert f"top1 {story.finetune_done.json['top1']:.4g}" in out


def test_parity_shows_every_flavour_block_by_block(cli: Any, story: SimpleNamespace) -> None:
    done = cli("inspect", story.bundle, "--parity", "--against", story.classifier)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    steps = [line for line in lines if line.startswith("parity of ")]
    assert steps[0] == "parity of fp32 with torch, 8 images"
    assert all(line.endswith(" with fp32, 8 images") for line in steps[1:])
    names = {entry["name"] for entry in load_artifact(story.bundle).content["flavours"]}
    assert {line.split()[2] for line in steps} == names
    # One row per block and step.
    rows = [line.split()[0] for line in lines if line.startswith("  ")]
    assert [rows.count(block) for block in ("patch_embed", "blocks.0", "blocks.1", "head")] == [len(steps)] * 4
    assert any(line.startswith("  fp32 follows torch in all ") for line in lines)
    # What to look at first.
    assert done.err.count("\n") == 1


def test_parity_as_json_says_the_same_without_torch(cli: Any, story: SimpleNamespace) -> None:
    done = cli("inspect", story.bundle, "--parity", "--json")
    assert done.code == 0, done.err
    plain = cli("inspect", story.bundle, "--json").json
    ladder = done.json["ladder"]
    assert done.json == plain | {"ladder": ladder}
    first, *others = ladder["steps"]
    assert (first["name"], first["against"], first["departs"]) == ("fp32", "torch's outputs", False)
    assert others
    for step in others:
        assert (step["against"], step["refusal"], step["unmatched"]) == ("fp32", None, 0)
        assert {"patch_embed", "blocks.0", "blocks.1", "head"} <= {row["name"] for row in step["blocks"]}
        assert step["modules"] == [], "nothing departs, so nothing is opened"
    assert ladder["images"] == 8


def test_every_module_is_compared_on_request(cli: Any, story: SimpleNamespace) -> None:
    done = cli("inspect", story.bundle, "--parity", "--modules", "--json")
    for step in done.json["ladder"]["steps"][1:]:
        assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc2", "blocks.1.attn before proj"} <= {
            row["name"] for row in step["modules"]
        }


def test_a_damaged_flavour_is_named_by_block_and_module(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    import onnx
    from onnx import numpy_helper

    bundle = load_artifact(story.bundle)
    name = next(entry["name"] for entry in bundle.content["flavours"] if entry["precision"] == "int8")
    with create_artifact(tmp_path / "damaged", "bundle") as draft:
        draft.copy_from(bundle)
        draft.content = bundle.content
        model = onnx.load(draft.path(f"{name}.onnx"))
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        scale = next(
            tensors[node.input[1]]
            for node in model.graph.node
            if node.op_type == "QuantizeLinear" and any(e.value == "blocks.1.mlp.fc2" for e in node.metadata_props)
        )
        scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1e-4), scale.name))
        onnx.save(model, draft.path(f"{name}.onnx"))
    done = cli("inspect", tmp_path / "damaged", "--parity", "--json")
    assert done.code == 0, "a ladder shows, a gate decides"
    step = next(step for step in done.json["ladder"]["steps"] if step["name"] == name)
    assert (step["first_block"], step["culprit"]) == ("blocks.1", "blocks.1.mlp.fc2")
    assert done.err.strip() == done.json["ladder"]["worst"] == step["verdict"]


def test_parity_of_anything_else_is_refused(cli: Any, story: SimpleNamespace) -> None:
    done = cli("inspect", story.classifier, "--parity")
    assert (done.code, done.out) == (2, "")
    assert "is a checkpoint; parity is that of an onnx artifact or a bundle" in done.err


def test_a_checkpoint_that_it_cannot_come_from_is_refused(cli: Any, story: SimpleNamespace) -> None:
    done = cli("inspect", story.bundle, "--parity", "--against", story.student)
    assert (done.code, done.out) == (2, "")
    assert "with 10 classes" in done.err
    assert "with 0; name the checkpoint that it came from" in done.err


def test_a_checkpoint_that_it_does_not_come_from_is_noted(cli: Any, story: SimpleNamespace, tmp_path: Any) -> None:
    classifier = load_artifact(story.classifier)
    with create_artifact(tmp_path / "other", "checkpoint") as draft:
        draft.copy_from(classifier)
        draft.content = classifier.content | {"stage": "convert"}
    done = cli("inspect", story.bundle, "--parity", "--against", tmp_path / "other")
    assert done.code == 0
    (note,) = [line for line in done.out.splitlines() if line.startswith("note: ")]
    assert "is not the checkpoint that this was exported from" in note


@pytest.mark.parametrize("option", [("--modules",), ("--against", "checkpoint")])
def test_an_option_of_parity_alone_is_refused(cli: Any, story: SimpleNamespace, option: tuple[str, ...]) -> None:
    done = cli("inspect", story.bundle, *option)
    assert (done.code, done.out) == (2, "")
    assert "add --parity" in done.err


@pytest.mark.parametrize("package", ["onnxruntime", "onnx_ir"])
def test_a_missing_package_is_named_with_its_extra(
    cli: Any, story: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    ladder = [name for name in sys.modules if name.startswith("edgemim.export.ladder")]
    for name in ladder:
        monkeypatch.delitem(sys.modules, name)
    hidden = [name for name in sys.modules if name.split(".")[0] == package]
    for name in [*hidden, package]:
        monkeypatch.setitem(sys.modules, name, None)
    done = cli("inspect", story.bundle, "--parity")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert f"the parity ladder needs the package {package!r}" in done.err
    assert "pip install 'edgemim[export]'" in done.err
