"""Whole families of convnets on visible cells: nothing of a hidden cell is seen, and nothing stands there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from timm.layers import BlurPool2d
from torch import Tensor, nn

from edgemim.models.adapters import adapt
from edgemim.models.adapters.conv import ConvAdapter
from edgemim.models.mask_plan import DROPPED, MaskPlan

MakeModel = Callable[..., nn.Module]

# Name, timm arguments, and the size of images of 2 x 3 cells.
NETS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "resnet, basic blocks": ("resnet10t", {"stem_width": 8, "channels": (8, 8, 16, 16)}, (64, 96)),
    "resnet, bottlenecks": ("resnet26", {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}, (64, 96)),
    "resnet, both, deep stem": ("test_resnet", {}, (64, 96)),
    "resnet, squeeze-excite and blurred pools": (
        "resnet10t",
        {"stem_width": 8, "channels": (8, 8, 16, 16), "aa_layer": BlurPool2d, "block_args": {"attn_layer": "se"}},
        (64, 96),
    ),
    "convnext": ("test_convnext", {}, (64, 96)),
    "convnext v2": ("convnextv2_atto", {"depths": (1, 1, 2, 1), "dims": (8, 8, 16, 16)}, (64, 96)),
    "convnext v2, channels last": (
        "convnextv2_atto",
        {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16), "conv_mlp": False, "patch_size": 1},
        (16, 24),
    ),
    "mobilenet v4": ("mobilenetv4_conv_small_035", {}, (64, 96)),
    "mobilenet v3": ("mobilenetv3_small_050", {}, (64, 96)),
    "efficientnet": ("test_efficientnet", {}, (64, 96)),
    "efficientnet, group norm": ("test_efficientnet_gn", {}, (64, 96)),
    "efficientnet, layer norm": ("test_efficientnet_ln", {}, (64, 96)),
    "repvit": ("repvit_m0_9", {"embed_dim": (8, 16, 16), "depth": (1, 2, 1)}, (32, 48)),
}
PLAN = MaskPlan.from_keep_ids(torch.tensor([[0, 1, 5], [2, 3, 4]]), (2, 3))


@dataclass(frozen=True)
class Case:
    """A model, its adapter, and two batches that differ in hidden pixels alone."""

    model: nn.Module
    adapter: ConvAdapter
    images: Tensor
    dirty: Tensor

    def run(self, images: Tensor, model: nn.Module | None = None, plan: MaskPlan = PLAN) -> dict[str, Tensor]:
        """Every level, and the final tokens; of a copy where one is given."""
        adapter = self.adapter if model is None else ConvAdapter(model, self.adapter.size)
        levels = adapter.forward(images, plan, mode="sparse", taps=range(adapter.depth))
        return {f"level {block}": tap for block, tap in levels.taps.items()} | {"final": levels.final}


@pytest.fixture(params=NETS.values(), ids=NETS.keys())
def case(request: pytest.FixtureRequest, make_model: MakeModel) -> Case:
    name, arguments, size = request.param
    model = make_model(name, **arguments)
    adapter = adapt(model, size)
    assert isinstance(adapter, ConvAdapter)
    assert adapter.grid == (2, 3)
    rng = torch.Generator().manual_seed(1)
    images, others = (torch.randn(2, 3, *size, generator=rng) for _ in range(2))
    height, width = size[0] // 2, size[1] // 3
    hidden = PLAN.mask.view(2, 1, 2, 3).repeat_interleave(height, 2).repeat_interleave(width, 3)
    return Case(model, adapter, images, torch.where(hidden, others * 1e4, images))


def test_it_is_found_fit(case: Case) -> None:
    case.adapter.check_sparse()


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_changing_hidden_pixels_changes_nothing(case: Case, training: bool) -> None:
    twins = [copy.deepcopy(case.model).train(training) for _ in range(2)]
    clean, dirty = (case.run(x, t) for x, t in zip((case.images, case.dirty), twins, strict=True))
    assert all(torch.equal(clean[k], dirty[k]) for k in clean)
    # What is remembered of the images, too.
    clean_state, dirty_state = (t.state_dict() for t in twins)
    assert all(torch.equal(clean_state[k], dirty_state[k]) for k in clean_state)


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_hidden_cells_are_empty_at_every_stage_and_visible_ones_are_not(case: Case, training: bool) -> None:
    case.model.train(training)
    for name, tokens in case.run(case.images).items():
        side = round((tokens.shape[1] / 6) ** 0.5)
        hidden = PLAN.mask.view(2, 2, 3).repeat_interleave(side, 1).repeat_interleave(side, 2).flatten(1)
        assert (tokens[hidden] == 0).all(), name
        assert (tokens[~hidden] != 0).float().mean() > 0.2, name  # a ReLU empties some


def test_gradients_reach_visible_pixels_alone(case: Case) -> None:
    case.model.train()
    images = case.images.clone().requires_grad_()
    torch.stack([v.square().sum() for v in case.run(images).values()]).sum().backward()
    height, width = case.adapter.stride
    hidden = PLAN.mask.view(2, 1, 2, 3).repeat_interleave(height, 2).repeat_interleave(width, 3).expand_as(images)
    assert images.grad is not None
    assert (images.grad[hidden] == 0).all()
    assert (images.grad[~hidden] != 0).float().mean() > 0.9


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_without_hidden_cells_it_is_the_dense_model(case: Case, training: bool) -> None:
    dense, twin = (copy.deepcopy(case.model).train(training) for _ in range(2))
    plan = MaskPlan.from_mask(torch.zeros(2, 6, dtype=torch.bool), (2, 3))
    adapter = ConvAdapter(dense, case.adapter.size)
    whole = adapter.forward(case.images, taps=range(adapter.depth))
    found = case.run(case.images, twin, plan)
    for name, tokens in ({f"level {b}": t for b, t in whole.taps.items()} | {"final": whole.final}).items():
        # float32: the same sums in another order, through all layers; some levels have large numbers.
        torch.testing.assert_close(found[name], tokens, rtol=1e-3, atol=1e-3 * float(tokens.abs().max()), msg=name)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
def test_dropped_cells_are_not_seen_either(case: Case) -> None:
    role = PLAN.role.clone()
    role[role == 1] = DROPPED
    dropped = case.run(case.dirty, plan=MaskPlan(role, (2, 3)))
    assert all(torch.equal(v, dropped[k]) for k, v in case.run(case.images).items())
