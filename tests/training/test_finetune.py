"""`finetune` end to end: a head on every kind of checkpoint, a few steps each, and every bad input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from edgemim.config import build, merge
from edgemim.data.open import open_splits
from edgemim.errors import ArtifactError, DataError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.convert import convert_file
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.finetune import FinetuneSettings, finetune, measure_top1
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import newest_state
from edgemim.training.settings.run import RunSettings

TRAINING = {
    "steps": 6, "batch_size": 8, "precision": "fp32", "base_lr": 1e-2, "lr_batch": 0, "layer_decay": 0.7,
    "label_smoothing": 0.1,
}  # fmt: skip
ImageFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, run_settings: Callable[..., RunSettings]) -> Path:
    out = tmp_path_factory.mktemp("runs") / "backbone"
    pretrain(run_settings(training={"steps": 2}), out, stage="pretrain")
    return out


@pytest.fixture
def settings(backbone: Path) -> Callable[..., FinetuneSettings]:
    """`settings(head={...})`: of a tiny fine-tuning run of the backbone."""
    values = {"data": "digits", "init": str(backbone), "training": TRAINING, "deterministic": True}
    return lambda **over: build(FinetuneSettings, merge(values, over))


MakeSettings = Callable[..., FinetuneSettings]


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convnet")
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t").state_dict(), folder / "weights.pth")
    values = {"backbone": {"name": "resnet10t"}, "preprocess": {"size": [32, 32], "crop_ratio": 1.0}}
    convert_file(folder / "weights.pth", folder / "out", layout="timm", settings=values)
    return folder / "out"


def test_a_backbone_becomes_a_classifier_with_names(tmp_path: Path, settings: MakeSettings) -> None:
    result = finetune(settings(), tmp_path / "out")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["stage"], result["steps"]) == ("finetune", 6)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.num_classes == 10
    assert loaded.class_names == tuple("0123456789")
    assert (loaded.info.stage, loaded.info.method) == ("finetune", "mae")
    assert [r["stage"] for r in loaded.artifact.provenance] == ["pretrain", "finetune"]
    assert loaded.artifact.provenance[-1]["scores"] == {"top1": result["top1"], "images": 360}
    # What was measured is what the folder holds.
    test = open_splits("digits").test
    assert measure_top1(loaded.model, test, test.labels, loaded.preprocess) == result["top1"]


def test_it_learns_to_tell_dark_from_bright(tmp_path: Path, settings: MakeSettings) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("bright", 130), ("dark", 0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(low, low + 120, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    result = finetune(settings(data=str(tmp_path / "data"), training={"steps": 40}), tmp_path / "out")
    assert result["top1"] == 1


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = settings(head={"drop_path": 0.3, "mixup": 0.8, "cutmix": 1.0})
    finetune(mixed, tmp_path / "whole")
    read, calls = AugmentedImages.__getitems__, []

    def read_and_interrupt(self: AugmentedImages, places: Any) -> Any:
        calls.append(places)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return read(self, places)

    with monkeypatch.context() as patch:
        patch.setattr(AugmentedImages, "__getitems__", read_and_interrupt)
        with pytest.raises(Interrupted):
            finetune(mixed, tmp_path / "parts")
    found = newest_state(tmp_path / "parts")
    assert found is not None
    assert 0 < found[1] < 6
    finetune(mixed, tmp_path / "parts", resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert finetune(mixed, tmp_path / "parts", resume=True)["finished_before"]


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_both_poolings(tmp_path: Path, settings: MakeSettings, pool: str) -> None:
    finetune(settings(head={"pool": pool}, training={"steps": 2}), tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.model.global_pool == pool
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    mine = loaded.model.state_dict()
    assert all(torch.equal(v, mine[k]) for k, v in theirs.state_dict().items())


def test_a_classifier_gets_the_classes_of_the_new_data(
    tmp_path: Path, settings: MakeSettings, imagefolder: ImageFolder
) -> None:
    finetune(settings(training={"steps": 1}), tmp_path / "digits")
    data = imagefolder(classes=3, each=8)
    again = settings(init=str(tmp_path / "digits"), data=str(data), training={"steps": 1})
    finetune(again, tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.class_names == ("class0", "class1", "class2")
    assert [r["stage"] for r in loaded.artifact.provenance] == ["pretrain", "finetune", "finetune"]


@pytest.mark.slow  # and tests/commands/test_students.py
def test_a_convnet_is_fine_tuned_too(tmp_path: Path, settings: MakeSettings, convnet: Path) -> None:
    result = finetune(settings(init=str(convnet), training={"steps": 2}), tmp_path / "out")
    assert 0 <= result["top1"] <= 1
    loaded = load_checkpoint(tmp_path / "out")
    assert (loaded.architecture, loaded.num_classes) == ("resnet10t", 10)
    assert loaded.preprocess.size == (32, 32)
    timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)


def test_the_embeddings_move_less_than_the_head(tmp_path: Path, settings: MakeSettings, backbone: Path) -> None:
    # Without warm-up, AdamW's first step moves each number by about its rate: 1e-2 * 0.1^3 below, 1e-2 on top.
    once = {"steps": 1, "layer_decay": 0.1, "weight_decay": 0.0, "warmup": 0.0}
    finetune(settings(training=once), tmp_path / "out")
    before, after = load_checkpoint(backbone).model.state_dict(), load_checkpoint(tmp_path / "out").model.state_dict()

    def moved(name: str) -> float:
        return float((after[name] - before[name]).abs().max())

    assert moved("patch_embed.proj.weight") == pytest.approx(1e-5, rel=0.05)
    assert moved("blocks.0.mlp.fc1.weight") == pytest.approx(1e-4, rel=0.05)
    assert moved("blocks.1.mlp.fc1.weight") == pytest.approx(1e-3, rel=0.05)


def test_data_without_labels_is_refused_before_anything_is_written(
    tmp_path: Path, settings: MakeSettings, imagefolder: ImageFolder
) -> None:
    with pytest.raises(DataError, match=r"finetune needs labels, .* has none; give a folder with one subfolder"):
        finetune(settings(data=str(imagefolder(classes=0, each=20))), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_class_is_nothing_to_learn(tmp_path: Path, settings: MakeSettings, imagefolder: ImageFolder) -> None:
    with pytest.raises(DataError, match=r"needs at least 2 classes; .* has 1"):
        finetune(settings(data=f"imagefolder:{imagefolder(classes=1, each=20)}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fewer_images_than_a_batch_are_refused_before_anything_is_lost(
    tmp_path: Path, settings: MakeSettings, imagefolder: ImageFolder
) -> None:
    finetune(settings(training={"steps": 1}), tmp_path / "out")
    few = settings(data=str(imagefolder(classes=2, each=3)))
    with pytest.raises(DataError, match="one batch takes 8; set --batch-size to at most"):
        finetune(few, tmp_path / "out", overwrite=True)
    load_checkpoint(tmp_path / "out")


def test_a_broken_test_image_is_found_before_the_run(
    tmp_path: Path, settings: MakeSettings, imagefolder: ImageFolder
) -> None:
    data = imagefolder("data/train", classes=2, each=6).parent
    imagefolder("data/test", classes=2, each=2)
    (data / "test" / "class1" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"class1.1\.png"):
        finetune(settings(data=str(data)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, settings: MakeSettings, backbone: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("manifest.json", "model.safetensors", "config.json", "predictor.safetensors"):
        (broken / name).write_bytes((backbone / name).read_bytes())
    data = bytearray((broken / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "model.safetensors").write_bytes(data if damage == "altered" else data[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors was altered"):
        finetune(settings(init=str(broken)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_top1_is_the_share_of_right_answers(settings: MakeSettings, backbone: Path) -> None:
    test = open_splits("digits").test.select(range(40))
    contract = load_checkpoint(backbone).preprocess

    class Zero(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(10)[0])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return self.weight.expand(len(images), -1)

    model = Zero().train()
    assert measure_top1(model, test, test.labels, contract) == pytest.approx(float(np.mean(test.labels == 0)))
    assert model.training


def test_nothing_is_left_beside_the_run(tmp_path: Path, settings: MakeSettings) -> None:
    finetune(settings(training={"steps": 1}), tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert {"model.safetensors", "config.json", "manifest.json", "last", "logs"} == set(os.listdir(tmp_path / "out"))
