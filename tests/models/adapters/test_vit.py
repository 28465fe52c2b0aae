"""The adapter of timm's plain ViTs: against timm itself, and against a plain reference for what timm cannot do."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.vit import ViTAdapter
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan

MakeModel = Callable[..., nn.Module]

FAMILIES = {
    "vit_tiny_patch16_224": {},
    "vit_medium_patch16_reg4_gap_256": {},  # registers, no class token, average pooling
    "vit_small_patch14_reg4_dinov2": {},  # class token and registers, positions for neither
    "deit3_small_patch16_224": {},  # no position for the class token, layer scale
    "vit_base_patch32_clip_224": {},  # a norm before the blocks, no bias in the patch embedding
    "vit_base_patch16_rpn_224": {},  # norms after the branches
    "vit_base_patch16_siglip_224": {},  # attention pooling, no class token
    "vit_small_patch16_224": {"global_pool": "avg", "num_classes": 5},
    "vit_base_patch16_224": {"pos_embed": "none"},
}


def plan_of(seed: int = 0, batch: int = 3, grid: tuple[int, int] = (4, 4), visible: int = 5) -> MaskPlan:
    noise = torch.rand(batch, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed))
    return MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :visible], grid)


def repaint(images: Tensor, hidden: Tensor, patch: int) -> Tensor:
    """Images with wild values in the patches where `hidden` [B, L] is true."""
    side = images.shape[-1] // patch
    where = hidden.reshape(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return torch.where(where, torch.full_like(images, 1e6), images)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_full_mode_is_timms_own_forward(make_model: MakeModel, images: Tensor, name: str) -> None:
    model = make_model(name, **FAMILIES[name])
    features = adapt(model).forward(images, taps=(0, 1))
    expected: Tensor = model.forward_features(images)  # type: ignore[operator]
    # The same operations; only the order of one addition differs.
    torch.testing.assert_close(features.tokens, expected, rtol=1e-5, atol=1e-5)
    assert sorted(features.taps) == [0, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_patches_leave_no_trace_in_the_visible_mode(make_model: MakeModel, images: Tensor, name: str) -> None:
    model, plan = make_model(name, **FAMILIES[name]), plan_of()
    clean = adapt(model).forward(images, plan, mode="visible", taps=(0, 1))
    dirty = adapt(model).forward(repaint(images, plan.mask, 8), plan, mode="visible", taps=(0, 1))
    assert clean.tokens is not None
    assert dirty.tokens is not None
    assert torch.equal(clean.tokens, dirty.tokens)
    assert all(torch.equal(clean.taps[k], dirty.taps[k]) for k in (0, 1))
    seen = adapt(model).forward(repaint(images, ~plan.mask, 8), plan, mode="visible").tokens
    assert not torch.equal(clean.tokens, seen)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_patches_visible_is_the_full_mode(make_model: MakeModel, images: Tensor, name: str) -> None:
    adapter = adapt(make_model(name, **FAMILIES[name]))
    everything = MaskPlan(torch.zeros(3, 16, dtype=torch.int8), (4, 4))
    visible = adapter.forward(images, everything, mode="visible").tokens
    torch.testing.assert_close(visible, adapter.forward(images).tokens, rtol=1e-5, atol=1e-5)


class OtherEmbedding(PatchEmbed):
    """As timm's, but of a type that could do anything."""


@pytest.mark.parametrize("kind", ["a norm behind it", "another type", "overlapping patches"])
def test_an_embedding_of_another_kind_gives_what_it_gives_in_the_full_mode(
    make_model: MakeModel, images: Tensor, kind: str
) -> None:
    model: Any = make_model()
    if kind == "a norm behind it":
        model.patch_embed.norm = nn.LayerNorm(32)
    elif kind == "another type":
        model.patch_embed.__class__ = OtherEmbedding
    else:
        model.patch_embed.proj = nn.Conv2d(3, 32, 12, stride=8, padding=2)
    adapter, everything = adapt(model), MaskPlan(torch.zeros(3, 16, dtype=torch.int8), (4, 4))
    visible = adapter.forward(images, everything, mode="visible").tokens
    torch.testing.assert_close(visible, adapter.forward(images).tokens, rtol=1e-5, atol=1e-5)


def test_patches_that_are_not_seen_are_not_embedded(make_model: MakeModel, images: Tensor) -> None:
    model, plan = make_model(), plan_of()
    projected: list[int] = []
    model.patch_embed.proj.register_forward_hook(lambda *_: projected.append(1))  # type: ignore[union-attr,operator]
    adapt(model).forward(images, plan, mode="visible")
    assert not projected
    adapt(model).forward(images, plan)
    assert projected


@pytest.mark.parametrize(
    ("arguments", "prefix"),
    [
        ({}, ["cls_token"]),
        ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
    ],
)
def test_visible_tokens_are_those_of_the_reference(
    make_model: MakeModel, reference: Callable[[str], ModuleType], arguments: dict[str, Any], prefix: list[str]
) -> None:
    # A grid of 2 x 3, so that rows and columns cannot be confused.
    model = make_model(img_size=(16, 24), **arguments)
    pixels = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    plan = plan_of(batch=2, grid=(2, 3), visible=3)
    features = adapt(model).forward(pixels, plan, mode="visible", taps=(0, 1))
    assert features.tokens is not None
    state = {k: v.double() for k, v in model.state_dict().items()}
    for i, keep in enumerate(plan.keep_ids.tolist()):
        plain = reference("masked_autoencoder").encode(
            pixels[i].double(), keep, state, patch=8, heads=2, blocks=2, prefix=prefix
        )
        for ours, expected in zip((features.taps[0], features.taps[1], features.tokens), plain, strict=True):
            # float32 against float64: some hundred roundings of 6e-8 each, of numbers of size 1.
            torch.testing.assert_close(ours[i].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_mask_token_stands_where_patches_are_hidden(make_model: MakeModel, images: Tensor) -> None:
    model, plan = make_model(), plan_of()
    token = torch.randn(32, generator=torch.Generator().manual_seed(4))

    def put_token(module: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
        patches = patches.clone()
        for i, hidden in enumerate(plan.mask_ids.tolist()):
            patches[i, hidden] = token
        return patches

    got = adapt(model).forward(images, plan, mode="mask_token", mask_token=token).tokens
    handle = model.patch_embed.register_forward_hook(put_token)  # type: ignore[union-attr,operator]
    expected: Tensor = model.forward_features(images)  # type: ignore[operator]
    handle.remove()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    dirty = adapt(model).forward(repaint(images, plan.mask, 8), plan, mode="mask_token", mask_token=token).tokens
    assert got is not None
    assert dirty is not None
    assert torch.equal(got, dirty)


def test_a_pass_that_is_stopped_runs_no_further_block(make_model: MakeModel, images: Tensor) -> None:
    model = make_model(depth=4)
    calls: list[int] = []
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = adapt(model).forward(images, taps=(1,), stop_early=True)
    assert calls == [0, 1]
    assert features.tokens is None
    assert list(features.taps) == [1]
    whole = adapt(model).forward(images, taps=(1,))
    assert torch.equal(features.taps[1], whole.taps[1])


def test_it_knows_the_models_shape(make_model: MakeModel) -> None:
    adapter = adapt(make_model("vit_small_patch14_reg4_dinov2", img_size=(16, 24), depth=12))
    assert (adapter.grid, adapter.patch_size, adapter.width) == ((2, 3), (8, 8), 32)
    assert (adapter.depth, adapter.num_prefix) == (12, 5)
    assert adapter.block_at(0.75) == 8  # the ninth of twelve
    assert adapter.block_at(0.0) == 0
    assert adapter.block_at(1.0) == 11


@pytest.mark.parametrize("name", FAMILIES)
def test_fresh_weights_are_those_that_mae_starts_from(make_model: MakeModel, name: str) -> None:
    model = make_model(name, **FAMILIES[name])
    adapt(model).initialise()
    vit: Any = model
    weight = vit.blocks[0].mlp.fc1.weight
    bound = (6 / (weight.shape[0] + weight.shape[1])) ** 0.5
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    kernel = vit.patch_embed.proj.weight
    bound = (6 / (32 + 3 * 8 * 8)) ** 0.5  # as a linear layer from 3 x 8 x 8 numbers to 32
    assert 0.99 * bound < kernel.abs().max() <= bound
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None)
    assert vit.patch_embed.proj.bias is None or (vit.patch_embed.proj.bias == 0).all()
    norms = [m for m in vit.blocks.modules() if isinstance(m, nn.LayerNorm)]
    assert norms
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)
    if vit.cls_token is not None:
        assert 0.005 < vit.cls_token.std() < 0.04
    assert vit.pos_embed is None or not vit.pos_embed.requires_grad


def test_fresh_positions_are_the_table_with_zeros_for_the_class_token(
    make_model: MakeModel, reference: Callable[[str], ModuleType]
) -> None:
    model = make_model(img_size=(16, 24), reg_tokens=2)
    adapt(model).initialise()
    table = torch.as_tensor(reference("positions").sincos_table(32, 2, 3, prefix=3)).float()
    torch.testing.assert_close(model.pos_embed.data[0], table)  # type: ignore[union-attr,index]


def test_positions_that_were_computed_stay_fixed_and_trained_ones_go_on(make_model: MakeModel) -> None:
    fixed, trained = make_model(img_size=(16, 24)), make_model(img_size=(16, 24))
    adapt(fixed).initialise()
    fixed.requires_grad_(True)
    for model in (fixed, trained):
        adapt(model).keep_computed()
    assert not fixed.pos_embed.requires_grad  # type: ignore[union-attr]
    assert trained.pos_embed.requires_grad  # type: ignore[union-attr]
    assert fixed.patch_embed.proj.weight.requires_grad  # type: ignore[union-attr]


def test_a_model_for_images_of_any_size_is_refused(tiny_arguments: dict[str, Any]) -> None:
    model = build_backbone("vit_tiny_patch16_224", tiny_arguments | {"dynamic_img_size": True})
    with pytest.raises(ConfigError, match=r"leave backbone\.dynamic_img_size false"):
        adapt(model)


def test_an_image_that_is_no_whole_number_of_patches_is_refused(tiny_arguments: dict[str, Any]) -> None:
    model = build_backbone("vit_tiny_patch16_224", tiny_arguments | {"img_size": 33})
    with pytest.raises(ConfigError, match="images of 33x33 are no whole number of 8x8 patches"):
        adapt(model)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "swin_tiny_patch4_window7_224", "deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224"],
)
def test_other_families_are_not_taken_for_it(name: str) -> None:
    assert not ViTAdapter.fits(build_backbone(name))


def test_a_hybrid_is_run_whole() -> None:
    # Its patches are places of a convnet's features, at stride 32: they cannot be shown one by one.
    adapter = adapt(build_backbone("vit_tiny_r_s16_p8_224", {"img_size": 64, "depth": 2}))
    assert "visible" not in adapter.abilities
    assert (adapter.output_grid, adapter.stride) == ((2, 2), (32, 32))
