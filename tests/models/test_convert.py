"""State dicts from elsewhere as checkpoint folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.artifact import sha256_of
from edgemim.errors import CheckpointError, ConfigError, OutputError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.convert import convert_file

MakeModel = Callable[..., nn.Module]


@pytest.fixture
def settings(tiny_arguments: dict[str, Any]) -> dict[str, Any]:
    return {"backbone": {"name": "vit_tiny_patch16_224", **tiny_arguments}}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def write(state: Any) -> Path:
        torch.save(state, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


Save = Callable[[Any], Path]


def test_an_encoder(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save, images: Tensor
) -> None:
    model = make_model()
    file = save({"model": {**model.state_dict(), "decoder_pred.weight": torch.ones(1)}})
    convert_file(file, tmp_path / "out", layout="timm", settings=settings, licence="MIT")
    loaded = load_checkpoint(tmp_path / "out")
    assert torch.equal(loaded.model(images), model(images))
    assert (loaded.num_classes, loaded.info.stage, loaded.info.method) == (0, "convert", None)
    assert loaded.preprocess.size == (32, 32)
    record = loaded.artifact.provenance[-1]
    assert (record["licence"], record["sha256"]) == ("MIT", sha256_of(file))


def test_a_classifier_keeps_its_head(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save, images: Tensor
) -> None:
    model = make_model(num_classes=6)
    convert_file(save(model.state_dict()), tmp_path / "out", layout="timm", settings=settings)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.num_classes == 6
    assert torch.equal(loaded.model(images), model(images))


def test_a_convnets_head_has_another_name(tmp_path: Path, make_model: MakeModel, save: Save) -> None:
    model = make_model("resnet10t", num_classes=4)
    settings = {"backbone": {"name": "resnet10t"}, "preprocess": {"size": [48, 64], "crop_ratio": 1.0}}
    convert_file(save(model.state_dict()), tmp_path / "out", layout="timm", settings=settings)
    loaded = load_checkpoint(tmp_path / "out")
    assert loaded.num_classes == 4
    assert (loaded.preprocess.size, loaded.preprocess.crop_ratio) == ((48, 64), 1.0)
    assert loaded.preprocess.mean == tuple(model.pretrained_cfg["mean"])  # type: ignore[index]


def test_another_architecture_is_refused_by_its_names(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save
) -> None:
    file = save(make_model("resnet10t").state_dict())
    with pytest.raises(
        CheckpointError, match=r"does not fit VisionTransformer; missing: cls_token, .*; unexpected: conv1"
    ):
        convert_file(file, tmp_path / "out", layout="timm", settings=settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {}}, "name its architecture with --backbone"),
        ({"backbone": {"name": "vit_tinny_patch16_224"}}, "did you mean 'vit_tiny_patch16_224'"),
        ({"data": "digits"}, "unknown setting 'data'"),
        ({"preprocess": {"crop": 1.0}}, r"unknown setting 'preprocess\.crop'; did you mean"),
        ({"preprocess": {"crop_ratio": 2.0}}, r"crop_ratio must lie in \(0, 1\]"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save, change: dict[str, Any], message: str
) -> None:
    file = save(make_model().state_dict())
    with pytest.raises(ConfigError, match=message):
        convert_file(file, tmp_path / "out", layout="timm", settings=settings | change)
    assert not (tmp_path / "out").exists()


def test_no_backbone_at_all_is_one_line(tmp_path: Path, make_model: MakeModel, save: Save) -> None:
    with pytest.raises(ConfigError, match="name its architecture with --backbone"):
        convert_file(save(make_model().state_dict()), tmp_path / "out", layout="timm", settings={})


def test_an_unknown_layout_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown layout 'tim' for --from; did you mean 'timm'"):
        convert_file(tmp_path / "x.pth", tmp_path / "out", layout="tim", settings=settings)


def test_an_existing_folder_is_refused(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"exists|was not written by edgemim"):
            convert_file(
                save(make_model().state_dict()), tmp_path / "out", layout="timm", settings=settings, overwrite=overwrite
            )
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
