"""Parameters without a gradient: found by name, and made to do nothing in what ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings
from edgemim.training.untrained import neutralise, without_gradient

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
# What lies behind the queries, keys and values of the last block.
TAIL = ["attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_tiny_patch16_224", TINY)


def test_missing_and_zero_gradients_are_found_and_teachers_left_out() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.zero, self.unused, self.teacher = (nn.Linear(2, 1) for _ in range(4))
            self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    both = Both()
    (both.used(torch.ones(1, 2)) + 0 * both.zero(torch.ones(1, 2))).sum().backward()
    assert without_gradient(both) == ("zero.weight", "zero.bias", "unused.weight", "unused.bias")


def test_an_untrained_branch_adds_nothing(vit: nn.Module) -> None:
    untrained = [n for n, _ in vit.named_parameters() if any(n.startswith(f"blocks.1.{part}.") for part in TAIL)]
    before = {n: p.detach().clone() for n, p in vit.named_parameters()}
    assert neutralise(vit, [*untrained, "norm.weight", "norm.bias"]) == [
        "blocks.1.attn.proj",
        "blocks.1.norm2",
        "blocks.1.mlp.fc2",
        "norm",
    ]
    tokens = torch.randn(1, 5, 8)
    assert torch.equal(vit.blocks[1](tokens), tokens)  # type: ignore[index,operator]
    for name, parameter in vit.named_parameters():
        if not name.startswith(("blocks.1.attn.proj", "blocks.1.norm2", "blocks.1.mlp.fc2", "norm.")):
            assert torch.equal(parameter, before[name]), name


def test_a_layer_that_was_trained_in_part_is_left_alone(vit: nn.Module) -> None:
    before = vit.blocks[1].mlp.fc2.weight.detach().clone()  # type: ignore[index,union-attr]
    assert neutralise(vit, ["blocks.1.mlp.fc2.weight", "norm.bias"]) == []
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, before)  # type: ignore[index,union-attr]


@pytest.fixture
def tinymim(run_settings: Callable[..., RunSettings], teacher: Path) -> RunSettings:
    settings = run_settings(
        backbone={"embed_dim": 24, "num_heads": 3}, teacher={"source": str(teacher)}, training={"steps": 3}
    )
    # `merge` cannot take a table away: the method has no decoder.
    object.__setattr__(settings, "method", {"name": "tinymim"})
    return settings


def test_a_run_lists_what_it_did_not_train_and_ships_it_neutral(tmp_path: Path, tinymim: RunSettings) -> None:
    result = pretrain(tinymim, tmp_path / "out", stage="distill")
    expected = {f"model.blocks.1.{part}.{kind}" for part in TAIL for kind in ("weight", "bias")}
    assert set(result["untrained"]) == expected | {"model.norm.weight", "model.norm.bias"}
    checkpoint = load_checkpoint(tmp_path / "out")
    last = checkpoint.artifact.provenance[-1]
    assert last["result"]["untrained"] == result["untrained"]
    assert last["neutralised"] == ["blocks.1.attn.proj", "blocks.1.norm2", "blocks.1.mlp.fc2", "norm"]
    assert not checkpoint.model.blocks[1].mlp.fc2.weight.any()  # type: ignore[index,union-attr]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))


def test_weights_that_came_with_the_start_are_kept(
    tmp_path: Path, tinymim: RunSettings, run_settings: Callable[..., RunSettings]
) -> None:
    first = run_settings(backbone={"embed_dim": 24, "num_heads": 3}, training={"steps": 2})
    pretrain(first, tmp_path / "first", stage="pretrain")
    object.__setattr__(tinymim, "init", str(tmp_path / "first"))
    object.__setattr__(tinymim, "backbone", {})
    result = pretrain(tinymim, tmp_path / "out", stage="distill")
    assert "model.blocks.1.mlp.fc2.weight" in result["untrained"]
    kept, given = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("out", "first"))
    assert torch.equal(kept["blocks.1.mlp.fc2.weight"], given["blocks.1.mlp.fc2.weight"])
    assert not torch.equal(kept["blocks.0.mlp.fc2.weight"], given["blocks.0.mlp.fc2.weight"])
