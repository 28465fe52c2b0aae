"""SimMIM on ViT, BEiT and Swin: against a second implementation, what it must not see, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from edgemim.config import build, load_recipe
from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch
from edgemim.methods.simmim import SimMIM, SimMIMSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import load_checkpoint
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan
from edgemim.training.assembly import make_method
from edgemim.training.finetune import FinetuneSettings, finetune
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

SIZE = (16, 24)
BLOCKS = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
VIT = {"name": "vit_tiny_patch16_224", **BLOCKS}
BEIT = {"name": "beit_base_patch16_224", "global_pool": "token", **BLOCKS}
SHARED = {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False}
SWIN = {
    "name": "swin_tiny_patch4_window7_224",
    "img_size": SIZE,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "drop_path_rate": 0.0,
}
# Grids of 8 x 12 and 4 x 6: windows that move in both stages, and one that holds all of the second stage.
SMALL, LARGE = {"window_size": [2, 3]}, {"window_size": [4, 6]}

CASES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit with registers": VIT | {"reg_tokens": 2},
    "vit without prefix": VIT | {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "beit, shared bias": BEIT | SHARED,
    "beit, bias per block": BEIT,
    "beit, positions and no layer scale": BEIT
    | {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "init_values": None},
    "swin": SWIN | SMALL,
    "swin, large windows": SWIN | LARGE,
}
FAMILIES = [CASES["vit"], CASES["beit, shared bias"], CASES["swin"]]


def simmim(backbone: dict[str, Any]) -> SimMIM:
    """With random weights everywhere, in train mode."""
    torch.manual_seed(3)
    arguments = dict(backbone)
    method = SimMIM(
        adapt(build_backbone(arguments.pop("name"), arguments)), RandomMasking(mask_ratio=0.5), SimMIMSettings()
    )
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return method


def a_plan(grid: tuple[int, int], images: int = 3) -> MaskPlan:
    """In each image a third of the patches visible, a third masked, the rest hidden and not asked for."""
    patches = grid[0] * grid[1]
    order = torch.rand(images, patches, generator=torch.Generator().manual_seed(5)).argsort(dim=1)
    third = patches // 3
    role = torch.full((images, patches), DROPPED, dtype=torch.int8)
    role.scatter_(1, order[:, :third], VISIBLE).scatter_(1, order[:, third : 2 * third], MASKED)
    return MaskPlan(role, grid)


def ids(rows: Tensor) -> list[list[int]]:
    return [[i for i, value in enumerate(row) if value] for row in rows.tolist()]


def repaint(images: Tensor, where: Tensor, method: SimMIM) -> Tensor:
    """Images with wild values in the patches where `where` [B, L] is true."""
    squares = where.view(len(images), 1, *method.adapter.grid)
    height, width = method.adapter.patch_size
    squares = squares.repeat_interleave(height, dim=2).repeat_interleave(width, dim=3)
    return torch.where(squares, torch.full_like(images, 1e4), images)


@pytest.mark.parametrize("backbone", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    backbone: dict[str, Any],
) -> None:
    method = simmim(backbone)
    plan = a_plan(method.adapter.grid)
    step = method(batch, rng, plan)
    step.loss.backward()

    plain, twins = reference("simmim"), leaves(method)
    state, token = part(twins, "model."), twins["mask_token"][0, 0]
    images = batch.images.double()
    predictions = []
    for image, hidden in zip(images, ids(plan.role != VISIBLE), strict=True):
        if "depths" in backbone:
            window = tuple(backbone["window_size"])
            tokens = plain.swin(
                image, hidden, state, token, patch=2, window=window, heads=backbone["num_heads"], blocks=(2, 2)
            )
        else:
            encode = plain.beit if backbone["name"].startswith("beit") else plain.vit
            tokens = encode(image, hidden, state, token, patch=8, heads=2, blocks=3)
        stride = 4 if "depths" in backbone else 8
        predictions.append(plain.predict(tokens, twins, stride, columns=SIZE[1] // stride))
    loss = plain.loss(predictions, images, ids(plan.mask), backbone["patch_size"])
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/pixels"].double(), loss.detach(), rtol=1e-5, atol=0)
    shown = method.reconstruct(batch, plan)
    assert shown is not None
    torch.testing.assert_close(shown.double(), torch.stack(predictions), rtol=1e-5, atol=1e-5)
    assert_same_gradients(method, twins)


@pytest.mark.parametrize("backbone", FAMILIES, ids=["vit", "beit", "swin"])
def test_the_loss_is_the_mean_over_pixels_and_channels_of_masked_patches(
    batch: Batch, rng: torch.Generator, backbone: dict[str, Any]
) -> None:
    # A head of zeros predicts 0 everywhere. All pixels of one masked patch of 2 are 6, those of a visible one 100:
    # the mean absolute error over the pixels of both masked patches is 3 for each channel, and so 3 for all.
    method = simmim(backbone)
    with torch.no_grad():
        method.head.weight.zero_()
        method.head.bias.zero_()  # type: ignore[union-attr]
    grid, (height, width) = method.adapter.grid, method.adapter.patch_size
    role = torch.full((1, grid[0] * grid[1]), VISIBLE, dtype=torch.int8)
    role[0, [1, grid[1]]] = MASKED  # the second of the first row, the first of the second row
    images = torch.zeros(1, 3, *SIZE)
    images[:, :, :height, width : 2 * width] = 6
    images[:, :, :height, :width] = 100
    step = method(Batch(images), rng, MaskPlan(role, grid))
    torch.testing.assert_close(step.loss, torch.tensor(3.0), rtol=1e-5, atol=0)  # 1e-5 is added to the count


@pytest.mark.parametrize("backbone", FAMILIES, ids=["vit", "beit", "swin"])
def test_hidden_pixels_change_nothing_in_the_prediction(batch: Batch, backbone: dict[str, Any]) -> None:
    method = simmim(backbone)
    plan = a_plan(method.adapter.grid)
    hidden = plan.role != VISIBLE
    with torch.no_grad():
        clean = method.reconstruct(batch, plan)
        dirty = method.reconstruct(Batch(repaint(batch.images, hidden, method)), plan)
        other = method.reconstruct(Batch(repaint(batch.images, ~hidden, method)), plan)
    assert clean is not None
    assert dirty is not None
    assert other is not None
    assert torch.equal(clean, dirty)
    assert not torch.equal(clean, other)


@pytest.mark.parametrize("backbone", FAMILIES, ids=["vit", "beit", "swin"])
def test_what_it_throws_away_has_the_names_and_shapes_that_files_are_converted_to(backbone: dict[str, Any]) -> None:
    method = simmim(backbone)
    staged = "depths" in backbone
    stride, width, embedded = (4, 16, 8) if staged else (8, 16, 16)
    assert {name: tuple(v.shape) for name, v in method.predictor_state().items()} == {
        "mask_token": (1, 1, embedded),
        "head.weight": (3 * stride**2, width, 1, 1),
        "head.bias": (3 * stride**2,),
    }


def test_weights_can_be_put_in_from_outside(batch: Batch, rng: torch.Generator) -> None:
    first, second = simmim(SWIN | SMALL), simmim(SWIN | SMALL)
    plan = a_plan(first.adapter.grid)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    second.backbone.load_state_dict(first.backbone.state_dict())
    assert second.load_predictor(first.predictor_state()) == ["head.bias", "head.weight", "mask_token"]
    assert torch.equal(first(batch, rng, plan).loss, second(batch, rng, plan).loss)


def test_a_fresh_mask_token_is_a_normal_cut_at_one_deviation() -> None:
    torch.manual_seed(0)
    model = build_backbone("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 768, "depth": 1})
    token = SimMIM(adapt(model), RandomMasking(), SimMIMSettings()).mask_token.detach()
    assert token.abs().max() <= 0.02
    # A standard normal cut at +-1 has the variance 1 - 2 * 0.24197 / 0.68269 = 0.2911; 5 % for 768 draws.
    assert float(token.std()) == pytest.approx(0.02 * 0.2911**0.5, rel=0.05)


def test_tokens_and_positions_are_not_decayed() -> None:
    method = simmim(BEIT | {"use_abs_pos_emb": True})
    names = {id(p): name for name, p in method.named_parameters()}
    groups = parameter_groups(method, TrainingSettings(steps=1, weight_decay=0.05))
    decayed = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] > 0}
    tokens = {"mask_token", "model.cls_token", "model.pos_embed"}
    assert tokens <= set(names.values())
    assert not tokens & decayed
    assert {"head.weight", "model.blocks.0.attn.relative_position_bias_table"} <= decayed


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            SWIN | {"img_size": 36, "patch_size": 4, "depths": [1, 1, 1], "num_heads": [1, 1, 1]},
            "images of 36x36 are no whole number of the 16x16 pixels that a final token of SwinTransformer stands "
            "for; choose backbone.img_size as a multiple of 16",
        ),
        (
            VIT | {"patch_size": [8, 4]},
            "method 'simmim' predicts squares, a final token of VisionTransformer stands for 8x4 pixels; "
            "choose a square backbone.patch_size",
        ),
        (
            {"name": "resnet10t"},
            "method 'simmim' needs a backbone with the ability 'mask_token'; ResNet can do full, blocks",
        ),
    ],
    ids=["size", "oblong", "convnet"],
)
def test_a_backbone_that_does_not_fit_is_refused_in_one_line(backbone: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        simmim(backbone)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "output", "cells", "masked", "shortened"),
    [
        ("simmim", (14, 14), 7, 30, {"depth": 1}),
        ("simmim-swin", (6, 6), 6, 22, {"depths": [1, 1, 1, 1]}),
        ("simmim-small", (8, 8), 4, 10, {"depth": 1}),
    ],
)
def test_the_recipes_hide_whole_cells(
    rng: torch.Generator, recipe: str, output: tuple[int, int], cells: int, masked: int, shortened: dict[str, Any]
) -> None:
    values = load_recipe(recipe)
    values["backbone"] |= shortened
    method = make_method(build(RunSettings, values))
    assert isinstance(method, SimMIM)
    assert method.adapter.output_grid == output
    plan = method.draw(Batch(torch.zeros(2, 3, *method.adapter.size)), rng)
    side = method.adapter.grid[0] // cells
    squares = plan.mask.view(2, cells, side, cells, side).float().mean(dim=(2, 4))
    assert set(squares.unique().tolist()) == {0.0, 1.0}
    assert squares.sum(dim=(1, 2)).tolist() == [masked, masked]


def test_the_papers_vit_shares_one_bias_and_has_its_norm_before_the_head() -> None:
    arguments = {**load_recipe("simmim")["backbone"], "depth": 1, "embed_dim": 24, "num_heads": 2}
    vit: Any = build_backbone(arguments.pop("name"), arguments)
    assert vit.rel_pos_bias is not None
    assert vit.pos_embed is None
    assert vit.blocks[0].attn.relative_position_bias_table is None
    assert (vit.blocks[0].gamma_1 == 0.1).all()
    assert isinstance(vit.norm, torch.nn.LayerNorm)
    assert vit.norm.eps == 1e-6
    assert isinstance(vit.fc_norm, torch.nn.Identity)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Noise in two classes, and no cache but the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("backbone", [SWIN | {"window_size": 2}, BEIT | SHARED], ids=["swin", "beit"])
def test_what_it_trained_is_fine_tuned(folder: Path, tmp_path: Path, backbone: dict[str, Any]) -> None:
    common = {"data": str(folder), "training": {"steps": 2, "batch_size": 4, "precision": "fp32"}}
    values = {**common, "backbone": backbone, "method": {"name": "simmim"}, "masking": {"mask_ratio": 0.5}}
    pretrained = pretrain(build(RunSettings, values), tmp_path / "pretrained", stage="pretrain")
    assert 0 <= pretrained["knn_top1"] <= 1
    before = load_checkpoint(tmp_path / "pretrained").model.state_dict()

    # At a rate of 0 nothing moves: what came over is what was trained.
    still = {**common, "init": str(tmp_path / "pretrained")}
    still["training"] = {**common["training"], "base_lr": 0.0}  # type: ignore[dict-item]
    result = finetune(build(FinetuneSettings, still), tmp_path / "classifier")
    assert 0 <= result["top1"] <= 1
    loaded = load_checkpoint(tmp_path / "classifier")
    after = loaded.model.state_dict()
    shared = "rel_pos_bias.relative_position_bias_table"
    # Average pooling has a norm of its own behind the pooling.
    gone = {shared, "norm.weight", "norm.bias"} if shared in before else set()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name not in gone)
    assert not gone & set(after)
    if gone:
        tables = [v for k, v in after.items() if k.endswith(".attn.relative_position_bias_table")]
        assert len(tables) == 3
        assert all(torch.equal(table, before[shared]) for table in tables)
    for run, weights in (("pretrained", before), ("classifier", after)):
        theirs = timm.create_model(f"local-dir:{tmp_path / run}", pretrained=True).state_dict()
        assert all(torch.equal(theirs[name], value) for name, value in weights.items())
