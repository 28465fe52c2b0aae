"""`edgemim convert`: a state dict becomes a checkpoint that the other commands take, and the other way round."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.positions import sincos_positions
from edgemim.models.weights import read_state_dict

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


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining file of MAE with its decoder: the names that the authors' code gives it."""
    width, wide, patches = 32, 16, 192
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 17, width),
        "mask_token": (1, 1, wide),
        "decoder_pos_embed": (1, 17, wide),
        "patch_embed.proj.weight": (width, 3, 8, 8),
        "patch_embed.proj.bias": (width,),
    }
    layers = {
        "decoder_embed": (wide, width),
        "decoder_pred": (patches, wide),
        "norm": (width,),
        "decoder_norm": (wide,),
    }
    for block, size in {"blocks.0": width, "blocks.1": width, "decoder_blocks.0": wide}.items():
        layers |= {f"{block}.norm1": (size,), f"{block}.norm2": (size,), f"{block}.attn.proj": (size, size)}
        layers |= {f"{block}.attn.qkv": (3 * size, size)}
        layers |= {f"{block}.mlp.fc1": (4 * size, size), f"{block}.mlp.fc2": (size, 4 * size)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    state["decoder_pos_embed"] = sincos_positions(wide, (4, 4), 1)[None]
    file = tmp_path_factory.mktemp("official") / "mae.pth"
    torch.save({"model": state, "epoch": 799, "args": argparse.Namespace(model="mae_vit", blr=1.5e-4)}, file)
    return file


FROM_MAE = ["--from", "mae", "--backbone", "vit_tiny_patch16_224", "--set", "backbone.num_heads=2"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_mae_comes_back_as_it_was(cli: Any, tmp_path: Path, official: Path, suffix: str) -> None:
    done = cli("convert", official, *FROM_MAE, "--licence", "cc-by-nc-4.0", "--out", tmp_path / "folder", "--json")
    assert done.code == 0, done.err
    assert done.json["architecture"] == "vit_tiny_patch16_224"
    record = load_checkpoint(tmp_path / "folder").artifact.provenance[-1]
    assert (record["layout"], record["licence"]) == ("mae", "cc-by-nc-4.0")
    file = tmp_path / f"back{suffix}"
    done = cli("convert", tmp_path / "folder", "--to", "mae", "--out", file, "--json")
    assert done.code == 0, done.err
    before, after = read_state_dict(official), read_state_dict(file)
    assert done.json == {"file": str(file), "layout": "mae", "tensors": len(before), "left_out": []}
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_pretraining_goes_on_with_the_converted_decoder(
    cli: Any, tmp_path: Path, official: Path, options: SimpleNamespace, data: Path
) -> None:
    """One step at a learning rate of 0 changes nothing, so what comes out is what went in."""
    assert cli("convert", official, *FROM_MAE, "--out", tmp_path / "folder").code == 0
    decoder = ["--set", "method.decoder_width=16", "--set", "method.decoder_depth=1"]
    run = ["--recipe", "mae-small", *decoder, *options.short, "--set", "training.base_lr=0.0", "--set", "backbone={}"]
    done = cli("pretrain", "--data", data / "photos", *run, "--init", tmp_path / "folder", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    before, after = load_checkpoint(tmp_path / "folder"), load_checkpoint(tmp_path / "run")
    assert before.predictor().keys() == after.predictor().keys()
    assert all(torch.equal(after.predictor()[name], tensor) for name, tensor in before.predictor().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say either --from LAYOUT (a file becomes a folder) or --to LAYOUT"),
        (["--from", "mae", "--to", "mae"], "say either --from LAYOUT"),
        (["--from", "may"], "unknown layout 'may' for --from; did you mean 'mae'?"),
        (["--to", "swin"], "unknown layout 'swin' for --to"),
        (["--from", "mae"], "add --set backbone.num_heads=N"),
        (["--from", "simmim"], "is not of the layout 'simmim': it holds blocks.0.attn.qkv.bias"),
        (["--from", "beit", "--backbone", "beit_base_patch16_224"], "is not of the layout 'beit'"),
        ([*FROM_MAE, "--set", "backbone.depth=3"], "missing: blocks.2.norm1.weight"),
        (["--from", "timm"], "name its architecture with --backbone"),
        (["--to", "mae", "--set", "a.b=1"], "--set has no meaning with --to"),
        (["--to", "mae", "--backbone", "vit"], "--backbone has no meaning with --to"),
        (["--to", "mae", "--licence", "mit"], "--licence has no meaning with --to"),
        (["--to", "mae"], "must end in .pth or .safetensors"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_writes_nothing(
    cli: Any, tmp_path: Path, official: Path, arguments: list[str], message: str
) -> None:
    done = cli("convert", official, *arguments, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_one_line_and_writes_nothing(cli: Any, tmp_path: Path, official: Path) -> None:
    (tmp_path / "in").mkdir()
    broken = tmp_path / "in" / "broken.pth"
    broken.write_bytes(official.read_bytes()[:5000])
    done = cli("convert", broken, *FROM_MAE, "--out", tmp_path / "out")
    assert done.code == 2
    assert "are damaged or not a torch file" in done.err
    assert not (tmp_path / "out").exists()


def test_an_existing_file_is_kept_unless_it_may_be_replaced(cli: Any, tmp_path: Path, official: Path) -> None:
    assert cli("convert", official, *FROM_MAE, "--out", tmp_path / "folder").code == 0
    back = ["convert", tmp_path / "folder", "--to", "mae", "--out", tmp_path / "back.pth"]
    (tmp_path / "back.pth").write_text("mine")
    done = cli(*back)
    assert (done.code, (tmp_path / "back.pth").read_text()) == (2, "mine")
    assert "replace it with --overwrite" in done.err
    assert cli(*back, "--overwrite").code == 0
    assert read_state_dict(tmp_path / "back.pth")


def test_the_official_file_is_a_teacher_without_being_converted(
    cli: Any, tmp_path: Path, official: Path, options: SimpleNamespace, data: Path
) -> None:
    named = ["--set", "teacher.backbone=vit_tiny_patch16_224", "--set", "teacher.mean=[0.5,0.5,0.5]"]
    named += [word for k, v in ARGUMENTS.items() for word in ("--set", f"teacher.{k}={v}")]
    named += ["--set", "teacher.std=[0.5,0.5,0.5]", "--teacher", official]
    done = cli("distill", "--data", data / "photos", *options.distill, *named, "--out", tmp_path / "student")
    assert done.code == 0, done.err
    teacher = load_checkpoint(tmp_path / "student").artifact.provenance[-1]["teacher"]
    assert (teacher["mean"], teacher["architecture"]) == ([0.5, 0.5, 0.5], "vit_tiny_patch16_224")
