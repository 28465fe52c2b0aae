"""State dicts from elsewhere as checkpoint folders, and back; tests of single layouts are in `layouts/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.artifact import sha256_of
from edgemim.errors import ArtifactError, CheckpointError, ConfigError, OutputError
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.models.convert import convert_file, convert_folder
from edgemim.models.weights import read_state_dict
from edgemim.preprocess import IMAGENET_MEAN, Preprocess

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
        ({"backbone": 3}, "setting 'backbone' is a table; got 3"),
        ({"preprocess": "x"}, "setting 'preprocess' is a table; got 'x'"),
        ({"method": {"decoder_heads": 4}}, "'method.decoder_heads'; files of the layout 'timm' have no decoder"),
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


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"decoder_head": 4}, r"unknown setting 'method\.decoder_head'; did you mean 'decoder_heads'"),
        ({"decoder_heads": 0}, r"method\.decoder_heads must be a whole number of at least 1; got 0"),
        ({"decoder_heads": True}, r"method\.decoder_heads must be a whole number .* got True"),
        ({"decoder_heads": "4"}, r"method\.decoder_heads must be a whole number .* got '4'"),
    ],
)
def test_wrong_settings_of_a_decoder_are_one_line(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save, method: dict[str, Any], message: str
) -> None:
    file = save(make_model().state_dict())
    with pytest.raises(ConfigError, match=message):
        convert_file(file, tmp_path / "out", layout="mae", settings=settings | {"method": method})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["x", [16], [16, 24, 8], 0, -16, 15, True, None])
def test_a_size_that_is_none_is_one_line(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save, size: Any
) -> None:
    for layout in ("mae", "timm"):
        given = {"backbone": {**settings["backbone"], "img_size": size}}
        with pytest.raises((ConfigError, CheckpointError)) as caught:
            convert_file(save(make_model().state_dict()), tmp_path / "out", layout=layout, settings=given)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_an_unknown_layout_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown layout 'tim' for --from; did you mean 'timm'"):
        convert_file(tmp_path / "x.pth", tmp_path / "out", layout="tim", settings=settings)
    with pytest.raises(ConfigError, match="unknown layout 'simmin' for --to; did you mean 'simmim'"):
        convert_folder(tmp_path / "x", tmp_path / "out.pth", layout="simmin")


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


def test_a_contract_of_a_layout_gives_way_to_the_users(
    tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save
) -> None:
    """timm normalises this architecture by 0.5, the authors of MAE theirs by ImageNet's numbers."""
    file = save(make_model().state_dict())
    for layout, mean in (("timm", (0.5, 0.5, 0.5)), ("mae", IMAGENET_MEAN)):
        convert_file(file, tmp_path / layout, layout=layout, settings=settings)
        assert load_checkpoint(tmp_path / layout).preprocess.mean == mean
    given = settings | {"preprocess": {"mean": [0.1, 0.2, 0.3]}}
    convert_file(file, tmp_path / "given", layout="mae", settings=given)
    assert load_checkpoint(tmp_path / "given").preprocess.mean == (0.1, 0.2, 0.3)


@pytest.fixture
def folder(tmp_path: Path, make_model: MakeModel, settings: dict[str, Any], save: Save) -> Path:
    """A checkpoint of a classifier."""
    convert_file(save(make_model(num_classes=3).state_dict()), tmp_path / "folder", layout="timm", settings=settings)
    return tmp_path / "folder"


@pytest.mark.parametrize(("layout", "nested"), [("timm", False), ("mae", True)])
def test_a_pth_file_holds_the_tensors_where_the_authors_put_them(
    tmp_path: Path, make_model: MakeModel, folder: Path, layout: str, nested: bool
) -> None:
    done = convert_folder(folder, tmp_path / "new" / "out.pth", layout=layout)
    state = torch.load(tmp_path / "new" / "out.pth", weights_only=True)
    assert isinstance(state, dict)
    tensors = state["model"] if nested else state
    own = make_model(num_classes=3).state_dict()
    assert list(tensors) == list(own)
    assert all(torch.equal(tensors[name], own[name]) for name in own)
    assert done == {
        "file": str(tmp_path / "new" / "out.pth"),
        "layout": layout,
        "tensors": len(own),
        "left_out": [],
    }


@pytest.mark.parametrize("layout", ["timm", "mae"])
def test_a_safetensors_file_holds_the_tensors_themselves(
    tmp_path: Path, make_model: MakeModel, folder: Path, layout: str
) -> None:
    convert_folder(folder, tmp_path / "out.safetensors", layout=layout)
    tensors, own = read_state_dict(tmp_path / "out.safetensors"), make_model(num_classes=3).state_dict()
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[name], own[name]) for name in own)


def test_what_has_no_place_is_told(tmp_path: Path, make_model: MakeModel, tiny_arguments: dict[str, Any]) -> None:
    model = make_model()
    info = CheckpointInfo(
        architecture="vit_tiny_patch16_224", model_args=tiny_arguments, preprocess=Preprocess(size=(32, 32))
    )
    predictor = {"projectors.0.weight": torch.ones(4, 32), "projectors.0.bias": torch.ones(4), "scale": torch.ones(1)}
    save_checkpoint(tmp_path / "folder", model, info, predictor=predictor)
    left_out = {"mae": sorted(predictor), "timm": sorted(predictor), "dmae": ["scale"]}
    for layout, names in left_out.items():
        done = convert_folder(tmp_path / "folder", tmp_path / f"{layout}.pth", layout=layout)
        assert done["left_out"] == names
        assert not any(name in read_state_dict(tmp_path / f"{layout}.pth") for name in names)


def test_an_existing_file_is_replaced_only_on_demand(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "out.pth"
    file.write_text("mine")
    with pytest.raises(OutputError, match=r"out\.pth exists; choose another --out, or replace it with --overwrite"):
        convert_folder(folder, file, layout="timm")
    assert file.read_text() == "mine"
    convert_folder(folder, file, layout="timm", overwrite=True)
    assert "head.weight" in read_state_dict(file)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, folder: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    file = tmp_path / "out.pth"
    with pytest.raises(CheckpointError, match="hold a Beit"):
        convert_folder(folder, file, layout="beit")
    assert sorted(tmp_path.rglob("*")) == before
    file.write_text("mine")
    with pytest.raises(CheckpointError, match="hold a Beit"):
        convert_folder(folder, file, layout="beit", overwrite=True)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("out", ConfigError, r"must end in \.pth or \.safetensors"),
        ("out.onnx", ConfigError, r"must end in \.pth or \.safetensors"),
        ("folder/model.safetensors", OutputError, "lies in .*folder, which this command reads"),
        ("folder/more/out.pth", OutputError, "lies in .*folder, which this command reads"),
        ("dir.pth", OutputError, "is a folder"),
        ("weights.pth/out.pth", OutputError, "a part of the path is a file"),
    ],
)
def test_a_place_that_is_none_is_one_line(
    tmp_path: Path, folder: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "dir.pth").mkdir()
    for overwrite in (False, True):
        with pytest.raises(error, match=message):
            convert_folder(folder, tmp_path / name, layout="timm", overwrite=overwrite)
    load_checkpoint(folder)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        convert_folder(tmp_path / "none", tmp_path / "out.pth", layout="mae")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="is not an edgemim artifact"):
        convert_folder(tmp_path / "empty", tmp_path / "out.pth", layout="mae")
    assert not (tmp_path / "out.pth").exists()


def test_an_altered_folder_is_refused(tmp_path: Path, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="was altered"):
        convert_folder(folder, tmp_path / "out.pth", layout="timm")
