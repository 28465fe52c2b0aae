"""Checkpoint folders: what is written comes back, here and in timm; what was altered is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from edgemim.artifact import load_artifact, stage_record
from edgemim.errors import ArtifactError, OutputError
from edgemim.models.checkpoint import CheckpointInfo, finish_run, load_checkpoint, read_info, save_checkpoint
from edgemim.preprocess import Preprocess

MakeModel = Callable[..., nn.Module]


@pytest.fixture
def info(tiny_arguments: dict[str, Any]) -> CheckpointInfo:
    return CheckpointInfo(
        architecture="vit_tiny_patch16_224",
        model_args=tiny_arguments,
        preprocess=Preprocess(size=(32, 32), crop_ratio=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        num_classes=3,
        class_names=("ape", "bee", "cat"),
        stage="finetune",
        method="mae",
    )


@pytest.fixture
def model(make_model: MakeModel) -> nn.Module:
    return make_model(num_classes=3)


def same(left: nn.Module, right: nn.Module) -> bool:
    mine, yours = left.state_dict(), right.state_dict()
    return mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)


def test_what_is_saved_comes_back(tmp_path: Path, model: nn.Module, info: CheckpointInfo, images: Tensor) -> None:
    predictor = {"pixels.decoder.weight": torch.randn(2, 3), "view": torch.arange(6.0).reshape(2, 3).T}
    records = [stage_record("pretrain", seed=0), stage_record("finetune", seed=1)]
    save_checkpoint(tmp_path / "out", model.train(), info, predictor=predictor, provenance=records)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.info == info
    assert same(loaded.model, model)
    assert not loaded.model.training
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    assert torch.equal(loaded.model(images), model.eval()(images))
    assert [r["stage"] for r in loaded.artifact.provenance] == ["pretrain", "finetune"]
    kept = loaded.predictor()
    assert kept.keys() == predictor.keys()
    assert all(torch.equal(kept[k], predictor[k]) for k in kept)
    assert (loaded.architecture, loaded.num_classes, loaded.class_names) == (
        "vit_tiny_patch16_224",
        3,
        ("ape", "bee", "cat"),
    )
    assert loaded.preprocess == info.preprocess


def test_the_content_is_what_other_stages_read(tmp_path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    artifact = save_checkpoint(tmp_path / "out", model, info)
    assert artifact.kind == "checkpoint"
    assert set(artifact.files) == {"model.safetensors", "config.json"}
    assert artifact.content == {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "class_names": ["ape", "bee", "cat"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "preprocess": info.preprocess.to_dict(),
        "stage": "finetune",
        "method": "mae",
    }
    assert read_info(artifact) == info


@pytest.mark.parametrize("classes", [3, 0])
def test_timm_loads_the_same_tensors_from_the_folder(
    tmp_path: Path, make_model: MakeModel, info: CheckpointInfo, images: Tensor, classes: int
) -> None:
    model = make_model(num_classes=classes)
    names = info.class_names if classes else None
    save_checkpoint(tmp_path / "out", model, replace(info, num_classes=classes, class_names=names))
    source = f"local-dir:{tmp_path / 'out'}"
    theirs = timm.create_model(source, pretrained=True).eval()
    assert same(theirs, model)
    assert torch.equal(theirs(images), model(images))
    assert not same(timm.create_model(source, pretrained=False), model)  # timm says nothing about random weights
    config = theirs.pretrained_cfg
    told = {name: tuple(config[name]) for name in ("input_size", "mean", "std")}
    assert told == {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    assert config["crop_pct"] == 1.0
    assert config["interpolation"] == "bicubic"
    assert config["num_classes"] == classes


def test_a_convnet_goes_the_same_way(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model("resnet10t", num_classes=4)
    info = CheckpointInfo(architecture="resnet10t", model_args={}, preprocess=Preprocess(size=(64, 64)), num_classes=4)
    save_checkpoint(tmp_path / "out", model, info)
    assert same(load_checkpoint(tmp_path / "out").model, model)
    assert same(timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True), model)


def test_the_folder_is_the_same_bytes_each_time(tmp_path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    first = save_checkpoint(tmp_path / "first", model, info)
    assert save_checkpoint(tmp_path / "second", model, info).fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "removed"])
def test_a_damaged_file_is_refused_before_it_is_parsed(
    tmp_path: Path, model: nn.Module, info: CheckpointInfo, name: str, damage: str
) -> None:
    save_checkpoint(tmp_path / "out", model, info)
    file = tmp_path / "out" / name
    data = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(ArtifactError, match=name):
        load_checkpoint(tmp_path / "out")


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        load_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="is not an edgemim artifact"):
        load_checkpoint(tmp_path / "empty")


def test_an_existing_folder_is_refused_and_replaced_on_request(
    tmp_path: Path, model: nn.Module, make_model: MakeModel, info: CheckpointInfo
) -> None:
    save_checkpoint(tmp_path / "out", model, info)
    other = make_model(num_classes=3, seed=1)
    with pytest.raises(OutputError, match="--overwrite"):
        save_checkpoint(tmp_path / "out", other, info)
    assert same(load_checkpoint(tmp_path / "out").model, model)
    save_checkpoint(tmp_path / "out", other, info, overwrite=True)
    assert same(load_checkpoint(tmp_path / "out").model, other)


def test_a_run_becomes_a_checkpoint_and_keeps_its_logs(tmp_path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "metrics.csv").write_text("loss\n1\n")
    finish_run(run, model, info, provenance=[stage_record("pretrain")])
    assert same(load_checkpoint(run).model, model)
    assert (run / "logs" / "metrics.csv").is_file()
    assert "logs/metrics.csv" not in load_artifact(run).files


def test_the_config_holds_what_people_look_for(tmp_path: Path, model: nn.Module, info: CheckpointInfo) -> None:
    save_checkpoint(tmp_path / "out", model, info)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["num_features"] == 32
    assert config["label_names"] == ["ape", "bee", "cat"]
