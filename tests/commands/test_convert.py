"""`edgemim convert --from timm`: a state dict becomes a checkpoint that the other commands take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from edgemim.models.checkpoint import load_checkpoint

ARGUMENTS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=7, **ARGUMENTS)


def arguments() -> list[str]:
    return [word for k, v in ARGUMENTS.items() for word in ("--set", f"backbone.{k}={v}")]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_tensors_arrive_with_their_head(cli: Any, tmp_path: Path, model: torch.nn.Module, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    save_file(model.state_dict(), file) if suffix == ".safetensors" else torch.save({"model": model.state_dict()}, file)
    base = ["convert", file, "--from", "timm", "--backbone", "vit_tiny_patch16_224", *arguments()]
    done = cli(*base, "--licence", "mit", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert done.json["checkpoint"] == str(tmp_path / "out")
    assert (done.json["stage"], done.json["num_classes"]) == ("convert", 7)
    checkpoint = load_checkpoint(tmp_path / "out")
    for name, tensor in model.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], tensor)
    (record,) = checkpoint.artifact.provenance
    assert (record["file"], record["licence"]) == (file.name, "mit")


def test_a_converted_checkpoint_is_a_teacher_whose_licence_is_passed_on(
    cli: Any, tmp_path: Path, model: torch.nn.Module, options: SimpleNamespace, data: Path
) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    base = ["convert", tmp_path / "weights.pth", "--from", "timm", "--backbone", "vit_tiny_patch16_224", *arguments()]
    assert cli(*base, "--licence", "cc-by-nc-4.0", "--out", tmp_path / "teacher").code == 0
    distill = ["distill", "--data", data / "photos", *options.distill, "--teacher", tmp_path / "teacher"]
    done = cli(*distill, "--out", tmp_path / "student")
    assert done.code == 0, done.err
    record = load_checkpoint(tmp_path / "student").artifact.provenance[-1]
    assert record["teacher"]["licence"] == "cc-by-nc-4.0"


def test_a_weights_file_is_a_teacher_when_its_architecture_is_named(
    cli: Any, tmp_path: Path, model: torch.nn.Module, options: SimpleNamespace, data: Path
) -> None:
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    named = ["--set", "teacher.backbone=vit_tiny_patch16_224"]
    named += [word for k, v in ARGUMENTS.items() for word in ("--set", f"teacher.{k}={v}")]
    distill = ["distill", "--data", data / "photos", *options.distill, *named]
    done = cli(*distill, "--teacher", tmp_path / "teacher.safetensors", "--out", tmp_path / "student")
    assert done.code == 0, done.err
