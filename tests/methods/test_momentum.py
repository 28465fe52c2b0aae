"""Copies that follow: what they start as, how far they go at a step, and what never happens to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgemim.methods._momentum import Momentum
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.build import build_backbone

SIZE = (16, 24)


@pytest.fixture
def adapter() -> BackboneAdapter:
    torch.manual_seed(0)
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.5}
    return adapt(build_backbone("vit_tiny_patch16_224", shape), SIZE)


@pytest.fixture
def head() -> nn.Module:
    """With statistics: buffers, one of which counts."""
    return nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4))


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def move(*modules: nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(1.0)


def test_a_step_takes_weights_along_a_line_and_copies_buffers(adapter: BackboneAdapter, head: nn.Module) -> None:
    momentum = Momentum(adapter, {"head": head})
    before = everything(momentum)
    move(adapter.backbone, head)
    head(torch.randn(5, 16))  # moves the statistics
    momentum.follow(0.75)
    after, originals = everything(momentum), head.state_dict()
    for name in before:
        if "running" in name or "num_batches" in name:
            assert torch.equal(after[name], originals[name.removeprefix("heads.head.")]), name
        else:
            # A quarter of the way of 1; float32 numbers of up to 4.
            torch.testing.assert_close(after[name], before[name] + 0.25, rtol=1e-6, atol=1e-6, msg=name)
    assert int(after["heads.head.1.num_batches_tracked"]) == 1


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_the_ends_of_the_decay_are_the_original_and_no_step(adapter: BackboneAdapter, decay: float) -> None:
    momentum = Momentum(adapter)
    before = everything(momentum.backbone)
    move(adapter.backbone)
    momentum.follow(decay)
    expected = before if decay else adapter.backbone.state_dict()
    for name, value in everything(momentum.backbone).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_it_begins_as_the_originals_are_then(adapter: BackboneAdapter, head: nn.Module) -> None:
    momentum = Momentum(adapter, {"head": head})
    move(adapter.backbone, head)
    head(torch.randn(5, 16))
    momentum.begin()
    for copy, original in ((momentum.backbone, adapter.backbone), (momentum.heads["head"], head)):
        for name, value in original.state_dict().items():
            assert torch.equal(copy.state_dict()[name], value), name


def test_it_never_trains(adapter: BackboneAdapter, head: nn.Module) -> None:
    parent: Any = nn.Module()
    parent.momentum = Momentum(adapter, {"head": head})
    parent.train()
    assert not any(module.training for module in parent.momentum.modules())
    assert not any(p.requires_grad for p in parent.momentum.parameters())
    assert all(p.requires_grad for p in [*adapter.backbone.parameters(), *head.parameters()])
    images = torch.randn(2, 3, *SIZE)
    first, second = (parent.momentum.adapter.forward(images).final for _ in range(2))
    assert torch.equal(first, second)  # no drop path
    assert not first.requires_grad


def test_its_adapter_drives_the_copy(adapter: BackboneAdapter) -> None:
    momentum = Momentum(adapter)
    images = torch.randn(2, 3, *SIZE)
    before = momentum.adapter.forward(images).final
    adapter.backbone.eval()
    assert torch.equal(before, adapter.forward(images).final)
    move(adapter.backbone)
    assert torch.equal(momentum.adapter.forward(images).final, before)
    assert (momentum.adapter.size, momentum.adapter.grid) == (adapter.size, adapter.grid)


def test_the_originals_are_no_part_of_it(adapter: BackboneAdapter, head: nn.Module) -> None:
    momentum = Momentum(adapter, {"head": head})
    assert {name.split(".")[0] for name in momentum.state_dict()} == {"backbone", "heads"}
    own = {id(p) for p in momentum.parameters()}
    assert not own & {id(p) for p in [*adapter.backbone.parameters(), *head.parameters()]}


def test_it_goes_on_after_it_was_loaded_and_moved(adapter: BackboneAdapter) -> None:
    momentum = Momentum(adapter)
    state = everything(momentum)
    move(adapter.backbone)
    momentum.follow(0.5)
    momentum.load_state_dict(state)
    momentum.double()
    adapter.backbone.double()
    momentum.follow(0.5)
    for name, value in momentum.state_dict().items():
        torch.testing.assert_close(value, state[name].double() + 0.5, rtol=1e-6, atol=1e-6)
