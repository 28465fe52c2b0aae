"""Teachers: every place that one may come from, and every way in which that goes wrong."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import timm.models
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemim.artifact import sha256_of, stage_record
from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.models.teachers import Teacher, load_teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeModel = Callable[..., nn.Module]
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment at import


@pytest.fixture
def weights_settings(tiny_arguments: dict[str, Any]) -> dict[str, Any]:
    return {"source": "x", "backbone": NAME, "licence": "MIT", **tiny_arguments}


def holds(teacher: Teacher, model: nn.Module) -> bool:
    mine, given = teacher.model.state_dict(), model.state_dict()
    return all(torch.equal(mine[k], given[k]) for k in mine)


def test_our_folder(tmp_path: Path, make_model: MakeModel, tiny_arguments: dict[str, Any]) -> None:
    model = make_model(num_classes=3)
    contract = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    info = CheckpointInfo(architecture=NAME, model_args=tiny_arguments, preprocess=contract, num_classes=3)
    record = stage_record("convert", licence="CC-BY-NC-4.0")
    save_checkpoint(tmp_path / "out", model, info, provenance=[record])
    teacher = load_teacher(str(tmp_path / "out"), {}, student=contract)
    assert holds(teacher, model)
    assert teacher.origin.architecture == NAME
    assert teacher.origin.licence == "CC-BY-NC-4.0"
    assert teacher.origin.sha256 == sha256_of(tmp_path / "out" / "model.safetensors")
    told = load_teacher(str(tmp_path / "out"), {"licence": "MIT"}, student=contract)
    assert told.origin.licence == "MIT"


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_that_timm_wrote(
    tmp_path: Path, contract: Preprocess, tiny_arguments: dict[str, Any], classes: int, safe: bool
) -> None:
    model = timm.create_model(NAME, num_classes=classes, **tiny_arguments)
    model.pretrained_cfg["mean"], model.pretrained_cfg["std"] = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=safe)
    teacher = load_teacher(str(tmp_path), {}, student=contract)
    assert holds(teacher, model)
    images = torch.rand(2, 3, 32, 32)
    normalise = [
        (images - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1)
        for m, s in ((contract.mean, contract.std), ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    ]
    # One multiplication and one addition in float32, on numbers up to 7.
    torch.testing.assert_close(teacher.own_statistics(normalise[0]), normalise[1], rtol=1e-5, atol=1e-5)


def test_a_safetensors_file(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    model = make_model(num_classes=4)
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    teacher = load_teacher(str(tmp_path / "teacher.safetensors"), weights_settings, student=contract)
    assert holds(teacher, model)
    assert teacher.origin.licence == "MIT"
    assert teacher.origin.sha256 == sha256_of(tmp_path / "teacher.safetensors")
    assert (teacher.origin.mean, teacher.origin.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_pth_file_of_a_pretraining_script(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    model = make_model()
    extra = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.zeros(8, 32),
        "decoder_blocks.0.norm1.bias": torch.zeros(8),
        "decoder_pred.bias": torch.zeros(192),
    }
    checkpoint = {"model": {**model.state_dict(), **extra}, "args": argparse.Namespace(model="mae"), "epoch": 7}
    torch.save(checkpoint, tmp_path / "teacher.pth")
    # An architecture of which timm has weights with ImageNet's statistics, MAE's among them.
    named = weights_settings | {"backbone": "vit_base_patch16_224"}
    teacher = load_teacher(str(tmp_path / "teacher.pth"), named, student=contract)
    assert holds(teacher, model)
    assert (teacher.origin.mean, teacher.origin.std) == (IMAGENET_MEAN, IMAGENET_STD)
    images = torch.randn(1, 3, 32, 32)
    assert teacher.own_statistics(images) is images


def test_a_weights_file_needs_the_name_of_its_backbone(tmp_path: Path, contract: Preprocess) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "teacher.pth")
    with pytest.raises(ConfigError, match=r"add --set teacher\.backbone=NAME"):
        load_teacher(str(tmp_path / "teacher.pth"), {}, student=contract)


def test_a_weights_file_of_another_shape_is_refused_by_its_names(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    state: dict[str, Tensor] = make_model(depth=1).state_dict()
    state["extra.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"missing: blocks\.1\.norm1\.weight, .* and 2 more") as caught:
        load_teacher(str(tmp_path / "teacher.pth"), weights_settings, student=contract)
    assert "unexpected: extra.weight" in str(caught.value)
    torch.save(make_model(patch_size=16).state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(
        CheckpointError, match=r"patch_embed\.proj\.weight \[32, 3, 16, 16\] instead of \[32, 3, 8, 8\]"
    ):
        load_teacher(str(tmp_path / "teacher.pth"), weights_settings, student=contract)


class Code:
    """Pickles to a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("where", ["teacher.pth", "folder"])
def test_code_in_a_teacher_is_refused_and_does_not_run(
    tmp_path: Path, contract: Preprocess, weights_settings: dict[str, Any], where: str
) -> None:
    proof, source = tmp_path / "code-ran", tmp_path / where
    file = source
    if where == "folder":
        source.mkdir()
        (source / "config.json").write_text(json.dumps({"architecture": NAME}))
        file = source / "pytorch_model.bin"
    torch.save({"model": {"a": torch.ones(1)}, "hook": Code(proof)}, file)
    with pytest.raises(CheckpointError, match="could run code, so they were not loaded"):
        load_teacher(str(source), weights_settings, student=contract)
    assert not proof.exists()


def test_a_config_cannot_point_to_weights_elsewhere(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess
) -> None:
    proof = tmp_path / "code-ran"
    torch.save({"a": Code(proof)}, tmp_path / "evil.pth")
    config = {"architecture": NAME, "model_args": {"checkpoint_path": str(tmp_path / "evil.pth")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(make_model().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="'checkpoint_path' is not an argument"):
        load_teacher(str(tmp_path), {}, student=contract)
    assert not proof.exists()


def test_a_truncated_file_is_one_line(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    file = tmp_path / "teacher.pth"
    torch.save(make_model().state_dict(), file)
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match="are damaged or not a torch file") as caught:
        load_teacher(str(file), weights_settings, student=contract)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, "", "{}", "[]", "{", "\udcff"])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, contract: Preprocess, config: str | None) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_bytes(config.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_teacher(str(tmp_path), {}, student=contract)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no_such_model", ConfigError, "is neither a folder, a weights file, a timm model nor a hub id"),
        ("missing.pth", CheckpointError, "teacher missing.pth does not exist"),
        ("no/such/folder", ConfigError, "'no/such/folder' is no folder or weights file that exists, and no hub id"),
        ("hf-hub:a/b/c", ConfigError, "no hub id"),
        ("~/teacher", CheckpointError, "teacher ~/teacher does not exist; give a folder or weights file that does"),
        ("./teacher", CheckpointError, "teacher ./teacher does not exist"),
        ("/no-such-teacher", CheckpointError, "does not exist"),
        (f"{NAME}.no_such_tag", CheckpointError, "Invalid pretrained tag"),
        (NAME, CheckpointError, "check the name and the network, or give a local folder or file"),
        ("hf-hub:nobody/nothing", CheckpointError, "cannot fetch the weights of teacher 'hf-hub:nobody/nothing'"),
        ("nobody/nothing", CheckpointError, "cannot fetch the weights"),
    ],
)
def test_a_source_that_is_none_is_one_line(
    contract: Preprocess, source: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load_teacher(source, {}, student=contract)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k", "timm/test_vit.r160_in1k"])
@pytest.mark.parametrize("with_head", [False, True])
def test_a_name_of_timm_whose_weights_were_fetched_before(
    tmp_path: Path, contract: Preprocess, monkeypatch: pytest.MonkeyPatch, source: str, with_head: bool
) -> None:
    """The smallest model that timm has weights of, random here, where the hub's client keeps what it fetched."""
    model = timm.create_model("test_vit")
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    model.pretrained_cfg["license"] = "apache-2.0"
    timm.models.save_for_hf(model, snapshot, safe_serialization=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fixed = {"dynamic_img_size": False}  # timm lets this one take images of any size
    teacher = load_teacher(source, fixed, student=contract, with_head=with_head)
    assert holds(teacher, model)
    assert (teacher.num_classes, teacher.class_names) == (1000 if with_head else 0, None)
    assert (teacher.origin.architecture, teacher.origin.licence) == ("test_vit", "apache-2.0")
    assert (teacher.origin.mean, teacher.adapter.size) == ((0.5, 0.5, 0.5), (160, 160))
    teacher.match((4, 4))
    assert teacher.adapter.size == (64, 64)


def test_an_argument_that_timm_does_not_know_is_one_line(contract: Preprocess) -> None:
    with pytest.raises(ConfigError, match=r"refuses \{'no_such': 1\}"):
        load_teacher(NAME, {"no_such": 1}, student=contract)


def test_a_mistyped_folder_beside_existing_ones_is_not_asked_for_at_the_hub(
    contract: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs/techer` has the form of a hub id, but `runs` is here."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="teacher runs/techer does not exist"):
        load_teacher("runs/techer", {}, student=contract)


@pytest.mark.parametrize(("tag", "mean"), [("", IMAGENET_MEAN), (".augreg_in21k", (0.5, 0.5, 0.5))])
def test_the_tag_of_a_weights_file_says_its_statistics(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, tiny_arguments: dict[str, Any], tag: str, mean: Any
) -> None:
    save_file(make_model().state_dict(), tmp_path / "teacher.safetensors")
    settings = {"backbone": f"vit_base_patch16_224{tag}", **tiny_arguments}
    teacher = load_teacher(str(tmp_path / "teacher.safetensors"), settings, student=contract)
    assert (teacher.origin.mean, teacher.origin.architecture) == (mean, "vit_base_patch16_224")


@pytest.mark.parametrize("kind", ["ours", "timm", "weights"])
def test_a_classifier_is_kept_on_demand(
    tmp_path: Path,
    make_model: MakeModel,
    contract: Preprocess,
    weights_settings: dict[str, Any],
    kind: str,
    images: Tensor,
) -> None:
    model = make_model(num_classes=3, global_pool="avg")
    arguments = {k: v for k, v in weights_settings.items() if k not in ("source", "backbone", "licence")}
    names = ("ant", "bee", "cat") if kind == "ours" else None
    given = weights_settings if kind == "weights" else {}
    source = tmp_path / "teacher"
    if kind == "ours":
        info = CheckpointInfo(
            architecture=NAME,
            model_args={**arguments, "global_pool": "avg"},
            preprocess=contract,
            num_classes=3,
            class_names=names,
        )
        save_checkpoint(source, model, info)
    elif kind == "timm":
        timm.models.save_for_hf(model, source, safe_serialization=True)
    else:
        source = tmp_path / "teacher.pth"
        torch.save(model.state_dict(), source)
    teacher = load_teacher(str(source), given, student=contract, with_head=True)
    assert (teacher.num_classes, teacher.class_names) == (3, names)
    assert torch.equal(teacher.model(images), model(images))
    assert not any(p.requires_grad for p in teacher.parameters())
    without = load_teacher(str(source), given, student=contract)
    assert (without.num_classes, without.class_names) == (0, None)
    assert not any(name.startswith("head.") for name in without.model.state_dict())
    features = teacher(images).final
    assert torch.equal(without(images).final, features)


def test_a_classifier_under_another_name_is_kept_or_dropped(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, images: Tensor
) -> None:
    model = make_model("resnet10t", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    given = {"backbone": "resnet10t"}
    teacher = load_teacher(str(tmp_path / "teacher.pth"), given, student=contract, with_head=True)
    assert torch.equal(teacher.model(images), model(images))
    assert load_teacher(str(tmp_path / "teacher.pth"), given, student=contract).num_classes == 0


@pytest.mark.parametrize("kind", ["timm", "weights"])
def test_a_classifier_that_is_not_there_is_one_line(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any], kind: str
) -> None:
    model = make_model()
    source = tmp_path / ("timm" if kind == "timm" else "teacher.pth")
    timm.models.save_for_hf(model, tmp_path / "timm", safe_serialization=True)
    torch.save(model.state_dict(), tmp_path / "teacher.pth")
    given = weights_settings if kind == "weights" else {}
    with pytest.raises(CheckpointError, match="has no classifier; give one that was fine-tuned"):
        load_teacher(str(source), given, student=contract, with_head=True)


def mae_shapes() -> dict[str, tuple[int, ...]]:
    """A pretraining file of MAE: encoder of width 16, decoder of width 32, patches of 8 pixels on a 2 x 2 grid."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 5, 16),
        "patch_embed.proj.weight": (16, 3, 8, 8),
        "mask_token": (1, 1, 32),
        "decoder_pos_embed": (1, 5, 32),
        "decoder_embed.weight": (32, 16),
        "decoder_pred.weight": (192, 32),
    }
    for block, width in {"blocks.0": 16, "blocks.1": 16, "decoder_blocks.0": 32}.items():
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            shapes[f"{block}.{name}.weight"] = (rows * width, columns * width)
        shapes |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
    shapes |= {"norm.weight": (16,), "decoder_norm.weight": (32,)}
    return shapes | {k.replace(".weight", ".bias"): v[:1] for k, v in shapes.items() if k.endswith(".weight")}


@pytest.mark.parametrize("tuned", ["no", "class token", "average"])
def test_the_official_mae_file(tmp_path: Path, contract: Preprocess, tuned: str) -> None:
    shapes = mae_shapes()
    if tuned != "no":
        shapes = {k: v for k, v in shapes.items() if not k.startswith(("decoder_", "mask_token"))}
        shapes |= {"head.weight": (5, 16), "head.bias": (5,)}
    if tuned == "average":
        shapes = {k: v for k, v in shapes.items() if not k.startswith("norm.")}
        shapes |= {"fc_norm.weight": (16,), "fc_norm.bias": (16,)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    checkpoint = {"model": state, "optimizer": {"state": {}}, "args": argparse.Namespace(blr=1e-3), "epoch": 799}
    torch.save(checkpoint, tmp_path / "mae.pth")
    given = {"backbone": "vit_large_patch16_224", "img_size": 16, "patch_size": 8, **SMALL}
    for with_head in (False, True) if tuned != "no" else (False,):
        teacher = load_teacher(str(tmp_path / "mae.pth"), given, student=contract, with_head=with_head)
        assert teacher.num_classes == (5 if with_head else 0)
        held = teacher.model.state_dict()
        outside = ("decoder_", "mask_token") if with_head else ("decoder_", "mask_token", "head.")
        assert set(held) == {name for name in state if not name.startswith(outside)}
        assert all(torch.equal(held[name], state[name]) for name in held)
        assert teacher(torch.randn(2, 3, 16, 16)).final.shape == (2, 5, 16)


def test_positions_that_are_no_square_are_refused(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    torch.save(make_model(img_size=(24, 40)).state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed \[1, 16, 32\] instead of \[1, 17, 32\]"):
        load_teacher(str(tmp_path / "teacher.pth"), weights_settings, student=contract)


def test_a_timm_folder_may_say_its_image_size_beside_the_arguments(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, tiny_arguments: dict[str, Any]
) -> None:
    """Folders that older versions of timm wrote."""
    model = make_model(img_size=48)
    config = {
        "architecture": NAME,
        "model_args": {k: v for k, v in tiny_arguments.items() if k != "img_size"},
        "pretrained_cfg": {"input_size": [3, 48, 48], "fixed_input_size": True},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    teacher = load_teacher(str(tmp_path), {}, student=contract)
    assert (teacher.adapter.size, teacher.origin.resampled_from) == ((48, 48), None)
    assert holds(teacher, model)


def test_a_convnet_of_ours_sees_images_of_its_contract(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess
) -> None:
    own = Preprocess(size=(64, 96))
    info = CheckpointInfo(architecture="resnet10t", model_args={}, preprocess=own, num_classes=3)
    save_checkpoint(tmp_path / "out", make_model("resnet10t", num_classes=3), info)
    teacher = load_teacher(str(tmp_path / "out"), {}, student=contract, with_head=True)
    assert (teacher.adapter.size, teacher.adapter.output_grid) == ((64, 96), (2, 3))
    assert teacher.prepare(torch.randn(1, 3, 32, 32)).shape == (1, 3, 64, 96)


def test_a_convnet_of_timms_sees_images_of_its_folder(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess
) -> None:
    config = {"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 96, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(make_model("resnet10t").state_dict(), tmp_path / "model.safetensors")
    teacher = load_teacher(str(tmp_path), {}, student=contract)
    assert (teacher.adapter.size, teacher.adapter.output_grid) == ((96, 64), (3, 2))


def test_another_backbone_than_the_folders_is_refused(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess
) -> None:
    timm.models.save_for_hf(make_model(), tmp_path, safe_serialization=True)
    with pytest.raises(ConfigError, match=f"is a {NAME}, teacher.backbone says vit_small_patch16_224; leave"):
        load_teacher(str(tmp_path), {"backbone": "vit_small_patch16_224"}, student=contract)
    assert load_teacher(str(tmp_path), {"backbone": NAME}, student=contract).origin.architecture == NAME


@pytest.mark.parametrize("name", ["encoder.cls_token", "lm_head.weight", "rel_pos_bias.relative_position_index"])
def test_files_of_simmim_and_beit_are_sent_to_convert(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any], name: str
) -> None:
    torch.save({**make_model().state_dict(), name: torch.ones(1)}, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match=f"unexpected: {name}; .* make a folder of it with edgemim convert"):
        load_teacher(str(tmp_path / "teacher.pth"), weights_settings, student=contract)
