"""Parameter groups and the learning rate of each step, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgemim.methods._base import Method
from edgemim.models.build import build_backbone
from edgemim.training.loop.optimiser import build_optimiser, learning_rate_factor, parameter_groups
from edgemim.training.settings.training import TrainingSettings


def settings(**over: Any) -> TrainingSettings:
    return TrainingSettings(**{"steps": 100, "batch_size": 512, "base_lr": 1e-3, "lr_batch": 256, **over})


@pytest.fixture
def vit() -> nn.Module:
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return build_backbone("vit_tiny_patch16_224", {**shape, "reg_tokens": 1, "init_values": 0.1}, num_classes=3)


def by_name(module: nn.Module, given: TrainingSettings) -> dict[str, tuple[float, float]]:
    """Weight decay and learning rate of each parameter."""
    names = {id(p): n for n, p in module.named_parameters()}
    return {names[id(p)]: (g["weight_decay"], g["lr"]) for g in parameter_groups(module, given) for p in g["params"]}


def test_every_trainable_parameter_is_in_one_group(vit: nn.Module) -> None:
    vit.pos_embed.requires_grad_(False)  # type: ignore[union-attr,operator]
    groups = parameter_groups(vit, settings(layer_decay=0.5))
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in vit.parameters() if p.requires_grad}
    assert id(vit.pos_embed) not in ids


def test_vectors_and_biases_do_not_decay_and_all_else_does(vit: nn.Module) -> None:
    decay = {name: d for name, (d, _) in by_name(vit, settings(weight_decay=0.05)).items()}
    assert {
        decay[n] for n in ("blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "blocks.1.ls1.gamma", "head.bias")
    } == {0.0}
    # By that rule the class token and the positions, which are 3-D, do decay.
    kept = ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight", "cls_token", "reg_token", "pos_embed", "head.weight")
    assert {decay[n] for n in kept} == {0.05}


def test_a_worked_example_of_layer_decay(vit: nn.Module) -> None:
    # 2 blocks, factor 0.5, peak 1e-3 * 512 / 256 = 2e-3: embeddings 0.5^3, block 0 0.5^2, block 1 0.5, the rest 1.
    rate = {name: lr for name, (_, lr) in by_name(vit, settings(layer_decay=0.5)).items()}
    assert {rate[n] for n in ("patch_embed.proj.weight", "cls_token", "reg_token", "pos_embed")} == {2.5e-4}
    assert {lr for n, lr in rate.items() if n.startswith("blocks.0.")} == {5e-4}
    assert {lr for n, lr in rate.items() if n.startswith("blocks.1.")} == {1e-3}
    assert {rate[n] for n in ("norm.weight", "norm.bias", "head.weight", "head.bias")} == {2e-3}


def test_stages_are_counted_through_and_a_downsampling_belongs_to_the_block_before() -> None:
    shape = {"img_size": 32, "window_size": 2, "embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 2)}
    swin = build_backbone("swin_tiny_patch4_window7_224", shape, num_classes=3)
    rate = {name: lr for name, (_, lr) in by_name(swin, settings(layer_decay=0.5)).items()}
    # 4 blocks, peak 2e-3: embeddings 0.5^5, blocks 0.5^4 to 0.5, the rest 1.
    blocks = {"layers.0.blocks.0": 4, "layers.1.blocks.0": 3, "layers.1.blocks.1": 2, "layers.2.blocks.0": 1}
    leads = {"layers.1.downsample": 4, "layers.2.downsample": 2}
    for start, power in {"patch_embed": 5, **blocks, **leads, "norm": 0, "head": 0}.items():
        found = {lr for name, lr in rate.items() if name.startswith(f"{start}.")}
        assert found == {2e-3 * 0.5**power}, start


def test_without_layer_decay_there_is_one_rate(vit: nn.Module) -> None:
    assert {lr for _, lr in by_name(vit, settings()).values()} == {2e-3}
    assert len(parameter_groups(vit, settings())) == 2


def test_the_optimiser_is_adamw_with_the_settings(vit: nn.Module) -> None:
    optimiser = build_optimiser(vit, settings(betas=(0.8, 0.9)))
    assert isinstance(optimiser, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.9) for group in optimiser.param_groups)


def test_a_worked_example_of_the_schedule() -> None:
    # 100 steps, 20 of warm-up, peak 2e-3, floor 2e-4: a tenth of the peak.
    factor = learning_rate_factor(settings(warmup=0.2, min_lr=2e-4), 100)
    assert factor(0) == 0
    assert factor(1) == pytest.approx(0.05)
    assert factor(10) == pytest.approx(0.5)
    assert factor(20) == pytest.approx(1)
    assert factor(40) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert factor(60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(100) == pytest.approx(0.1)
    assert factor(150) == pytest.approx(0.1)


def test_a_line_falls_evenly_from_the_warm_up_to_the_floor() -> None:
    factor = learning_rate_factor(settings(schedule="linear", warmup=0.2, min_lr=2e-4), 100)
    assert factor(10) == pytest.approx(0.5)
    assert factor(20) == pytest.approx(1)
    assert factor(60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(100) == factor(150) == pytest.approx(0.1)


def test_a_step_falls_once() -> None:
    factor = learning_rate_factor(settings(schedule="step", warmup=0.1, step_at=0.7, step_factor=0.25), 100)
    assert factor(5) == pytest.approx(0.5)
    assert factor(10) == factor(69) == 1
    assert factor(70) == factor(100) == 0.25


def test_a_method_can_exempt_parameters_from_decay(make_mae: Callable[..., Method]) -> None:
    method = make_mae()
    name = "pixels.decoder.mask_token"
    assert by_name(method, settings())[name][0] == 0.05
    method.no_weight_decay = lambda: [name]  # type: ignore[method-assign]
    assert by_name(method, settings())[name][0] == 0


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_the_rate_rises_and_then_falls(warmup: float) -> None:
    factor = learning_rate_factor(settings(warmup=warmup), 50)
    values = [factor(step) for step in range(51)]
    top = values.index(max(values))
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)
    assert all(0 <= v <= 1 for v in values)


def test_a_rate_of_zero_trains_nothing() -> None:
    assert learning_rate_factor(settings(base_lr=0.0), 10)(5) >= 0
