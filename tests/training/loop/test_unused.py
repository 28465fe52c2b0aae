"""Which parameters a loss leaves out, found before the first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edgemim.methods._base import Batch, Method, Step
from edgemim.preprocess import Preprocess
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.unused import unused_parameters
from edgemim.training.settings.run import RunSettings


class Partly(nn.Module):
    """Uses one of two layers, behind a norm that keeps statistics; the used one is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.used = nn.Linear(3, 1, bias=False)
        self.left_out = nn.Linear(3, 1)
        nn.init.zeros_(self.used.weight)

    def forward(self, batch: Batch, rng: torch.Generator) -> Step:
        return Step(self.used(self.norm(batch.images).mean(dim=(2, 3))).square().mean())


def module(method: nn.Module, settings: RunSettings, contract: Preprocess) -> TrainingModule:
    return TrainingModule(method, settings.training, contract, steps=6, seed=0)


def test_what_the_loss_does_not_depend_on_is_named_and_a_zero_gradient_is_one(
    augmented: Callable[..., AugmentedImages], run_settings: Callable[..., RunSettings], contract: Preprocess
) -> None:
    found = unused_parameters(module(Partly(), run_settings(), contract), augmented(4))
    assert found == ["method.left_out.weight", "method.left_out.bias"]


def test_nothing_changes(
    augmented: Callable[..., AugmentedImages],
    make_mae: Callable[..., Method],
    run_settings: Callable[..., RunSettings],
    contract: Preprocess,
) -> None:
    for method in (Partly(), make_mae()):
        run = module(method, run_settings(), contract)
        before, drawn = {k: v.clone() for k, v in run.state_dict().items()}, torch.get_rng_state()
        unused_parameters(run, augmented(1))
        assert run.training
        assert method.training
        assert all(torch.equal(value, before[name]) for name, value in run.state_dict().items())
        assert torch.equal(torch.get_rng_state(), drawn)
        assert all(p.grad is None for p in run.parameters())


def test_a_whole_mae_is_used(
    augmented: Callable[..., AugmentedImages],
    make_mae: Callable[..., Method],
    run_settings: Callable[..., RunSettings],
    contract: Preprocess,
) -> None:
    assert unused_parameters(module(make_mae(), run_settings(), contract), augmented(4)) == []
