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
    images = torch.randn(1, 3, 32, 32)
    assert (contract.mean, contract.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert teacher.own_statistics(images) is images


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
    teacher = load_teacher(str(tmp_path / "teacher.pth"), weights_settings, student=contract)
    assert holds(teacher, model)


def test_it_is_frozen_and_stays_in_eval_mode(
    tmp_path: Path, make_model: MakeModel, contract: Preprocess, weights_settings: dict[str, Any]
) -> None:
    save_file(make_model().state_dict(), tmp_path / "teacher.safetensors")
    teacher = load_teacher(str(tmp_path / "teacher.safetensors"), weights_settings, student=contract)
    parent = nn.ModuleList([teacher]).train()
    assert parent.training
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())


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
    with pytest.raises(CheckpointError, match=r"pos_embed \[1, 5, 32\] instead of \[1, 17, 32\]"):
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


def test_an_argument_that_timm_does_not_know_is_one_line(contract: Preprocess) -> None:
    with pytest.raises(ConfigError, match=r"refuses \{'no_such': 1\}"):
        load_teacher(NAME, {"no_such": 1}, student=contract)


def test_a_convnet_cannot_teach_patches(tmp_path: Path, make_model: MakeModel, contract: Preprocess) -> None:
    save_file(make_model("resnet10t").state_dict(), tmp_path / "teacher.safetensors")
    with pytest.raises(ConfigError, match="is not a plain vision transformer"):
        load_teacher(str(tmp_path / "teacher.safetensors"), {"backbone": "resnet10t"}, student=contract)


def test_a_mistyped_folder_beside_existing_ones_is_not_asked_for_at_the_hub(
    contract: Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs/techer` has the form of a hub id, but `runs` is here."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="teacher runs/techer does not exist"):
        load_teacher("runs/techer", {}, student=contract)
