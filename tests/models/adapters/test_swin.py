"""The adapter of timm's Swin: against timm itself, for grids that fit its windows and grids that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.swin import SwinAdapter
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

MakeModel = Callable[..., nn.Module]
NAME = "swin_tiny_patch4_window7_224"
SMALL = {"patch_size": 4, "embed_dim": 8, "depths": [2, 3, 2], "num_heads": [1, 2, 4], "window_size": 4}

# Image size, grid, grid of the last stage, and what else makes the model.
CASES: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int], dict[str, Any]]] = {
    "whole windows": ((32, 32), (8, 8), (2, 2), {}),
    "more rows than columns": ((48, 32), (12, 8), (3, 2), {}),
    "oblong windows": ((32, 48), (8, 12), (2, 3), {"window_size": [2, 3]}),
    "a window for each stage": ((32, 32), (8, 8), (2, 2), {"window_size": [8, 2, 1]}),
    "grids that end inside a window and inside a pair": ((36, 44), (9, 11), (3, 3), {}),
    "windows larger than the grid": ((32, 32), (8, 8), (2, 2), {"window_size": 7, "always_partition": True}),
    "four stages down to one token": (
        (32, 32),
        (8, 8),
        (1, 1),
        {"depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
    ),
    "patches of two pixels": ((16, 24), (8, 12), (2, 3), {"patch_size": 2}),
    "any size": ((32, 32), (8, 8), (2, 2), {"dynamic_img_size": True}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest, make_model: MakeModel) -> tuple[SwinAdapter, Tensor]:
    """An adapter and three images of its size."""
    size, _, _, arguments = request.param
    adapter = adapt(make_model(NAME, **{"img_size": size, **SMALL, **arguments}))
    assert isinstance(adapter, SwinAdapter)
    return adapter, torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def swin(make_model: MakeModel) -> SwinAdapter:
    adapter = adapt(make_model(NAME, img_size=32, **SMALL))
    assert isinstance(adapter, SwinAdapter)
    return adapter


def plan_of(adapter: SwinAdapter) -> MaskPlan:
    """A third of the patches visible, a third masked, the rest dropped, for three images."""
    patches = adapter.grid[0] * adapter.grid[1]
    order = torch.rand(3, patches, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    role = torch.full((3, patches), DROPPED, dtype=torch.int8)
    third = patches // 3
    role.scatter_(1, order[:, :third], VISIBLE).scatter_(1, order[:, third : 2 * third], MASKED)
    return MaskPlan(role, adapter.grid)


def repaint(images: Tensor, where: Tensor, adapter: SwinAdapter) -> Tensor:
    """Images with wild values in the patches where `where` [B, L] is true."""
    height, width = adapter.patch_size
    squares = where.view(-1, 1, *adapter.grid).repeat_interleave(height, 2).repeat_interleave(width, 3)
    return torch.where(squares, torch.full_like(images, 1e6), images)


def ran(adapter: SwinAdapter) -> list[str]:
    """The names of blocks, mergings and the norm, in the order in which they will have run."""
    calls: list[str] = []
    for name, module in adapter.backbone.named_modules():
        parts = name.split(".")
        if name == "norm" or parts[-1] == "downsample" or parts[-2:-1] == ["blocks"]:
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def test_the_full_mode_is_timms_own_forward(case: tuple[SwinAdapter, Tensor]) -> None:
    adapter, images = case
    expected: Tensor = adapter.backbone.forward_features(images)  # type: ignore[operator]
    assert torch.equal(adapter.forward(images).final, expected.flatten(1, 2))  # the same operations


@pytest.mark.parametrize("name", CASES)
def test_it_knows_the_models_shape(make_model: MakeModel, name: str) -> None:
    size, grid, output_grid, arguments = CASES[name]
    adapter = adapt(make_model(NAME, **{"img_size": size, **SMALL, **arguments}))
    patch = arguments.get("patch_size", 4)
    stages = len(arguments.get("depths", SMALL["depths"]))
    assert (adapter.size, adapter.grid, adapter.output_grid) == (size, grid, output_grid)
    assert adapter.patch_size == (patch, patch)
    assert adapter.stride == (patch * 2 ** (stages - 1), patch * 2 ** (stages - 1))
    assert (adapter.width, adapter.num_prefix) == (8 * 2 ** (stages - 1), 0)
    assert adapter.depth == sum(arguments.get("depths", SMALL["depths"]))
    features: Tensor = adapter.backbone.forward_features(torch.zeros(1, 3, *size))  # type: ignore[operator]
    assert features.shape == (1, *output_grid, adapter.width)


def test_a_tap_is_the_output_of_its_block_in_any_stage(case: tuple[SwinAdapter, Tensor]) -> None:
    adapter, images = case
    seen: list[Tensor] = []
    blocks = [block for stage in adapter.backbone.layers for block in stage.blocks]  # type: ignore[union-attr]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    adapter.backbone.forward_features(images)  # type: ignore[operator]
    expected = list(seen)
    taps = adapter.forward(images, taps=range(adapter.depth)).taps
    assert sorted(taps) == list(range(len(expected)))
    for index, block_output in enumerate(expected):
        assert torch.equal(taps[index], block_output.flatten(1, 2))
        assert adapter.width_of(index) == block_output.shape[-1]


def test_a_pass_that_is_stopped_runs_no_further_block_or_merging(swin: SwinAdapter, images: Tensor) -> None:
    whole = swin.forward(images, taps=(1, 3))
    calls = ran(swin)
    features = swin.forward(images, taps=(1, 3), stop_early=True)
    assert [name for name in calls if name != "layers.0.downsample"] == [
        "layers.0.blocks.0",
        "layers.0.blocks.1",
        "layers.1.downsample",
        "layers.1.blocks.0",
        "layers.1.blocks.1",
    ]
    assert features.tokens is None
    assert all(torch.equal(features.taps[index], whole.taps[index]) for index in (1, 3))
    calls.clear()
    swin.forward(images, taps=(1,), stop_early=True)  # the last block of its stage
    assert calls[-1] == "layers.0.blocks.1"


def test_the_mask_token_stands_where_patches_are_hidden(case: tuple[SwinAdapter, Tensor]) -> None:
    adapter, images = case
    plan, token = plan_of(adapter), torch.randn(8, generator=torch.Generator().manual_seed(4))

    def put_token(module: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
        patches = patches.clone()
        for i, roles in enumerate(plan.role.view(3, *adapter.grid).tolist()):
            for row, line in enumerate(roles):
                for column, role in enumerate(line):
                    if role != VISIBLE:
                        patches[i, row, column] = token
        return patches

    got = adapter.forward(images, plan, mode="mask_token", mask_token=token, taps=(0,))
    adapter.backbone.patch_embed.register_forward_hook(put_token)  # type: ignore[union-attr,operator]
    expected: Tensor = adapter.backbone.forward_features(images)  # type: ignore[operator]
    assert torch.equal(got.final, expected.flatten(1, 2))


def test_hidden_pixels_leave_no_trace(case: tuple[SwinAdapter, Tensor]) -> None:
    adapter, images = case
    plan, token = plan_of(adapter), torch.ones(8)
    hidden = plan.role != VISIBLE

    def tokens(pixels: Tensor) -> Tensor:
        return adapter.forward(pixels, plan, mode="mask_token", mask_token=token).final

    assert torch.equal(tokens(images), tokens(repaint(images, hidden, adapter)))
    assert not torch.equal(tokens(images), tokens(repaint(images, ~hidden, adapter)))


def test_nothing_hidden_is_the_full_mode(swin: SwinAdapter, images: Tensor) -> None:
    everything = MaskPlan(torch.zeros(3, 64, dtype=torch.int8), (8, 8))
    got = swin.forward(images, everything, mode="mask_token", mask_token=torch.ones(8)).final
    assert torch.equal(got, swin.forward(images).final)


def test_it_can_take_images_of_another_size(swin: SwinAdapter) -> None:
    resized = swin.resize((48, 64))
    assert (resized.size, resized.grid, resized.output_grid) == ((48, 64), (12, 16), (3, 4))
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    expected: Tensor = swin.backbone.forward_features(images)  # type: ignore[operator]
    assert torch.equal(resized.forward(images).final, expected.flatten(1, 2))


def test_fresh_weights_are_timms(swin: SwinAdapter) -> None:
    before = {name: value.clone() for name, value in swin.backbone.state_dict().items()}
    swin.initialise()
    assert all(torch.equal(before[name], value) for name, value in swin.backbone.state_dict().items())


def test_a_method_that_sees_visible_patches_only_is_told_what_it_can_do(swin: SwinAdapter) -> None:
    from edgemim.masking.random import RandomMasking
    from edgemim.methods.mae import MAE, MAESettings

    with pytest.raises(ConfigError, match=r"needs a backbone with the ability 'visible'; SwinTransformer can do full"):
        MAE(swin, RandomMasking(), MAESettings())


def test_an_image_that_is_no_whole_number_of_patches_is_refused() -> None:
    model = build_backbone(NAME, {**SMALL, "img_size": 34})
    with pytest.raises(ConfigError, match="images of 34x34 are no whole number of 4x4 patches"):
        adapt(model)


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "resnet18", "vit_tiny_patch16_224"])
def test_other_families_are_not_taken_for_it(name: str) -> None:
    with torch.device("meta"):
        assert not SwinAdapter.fits(build_backbone(name))
