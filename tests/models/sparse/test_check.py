"""The trial of a convnet: what passes, and that what does not is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm.layers as layers
import torch
from timm.layers.filter_response_norm import FilterResponseNormAct2d
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.sparse.check import check_layers


class Gate(nn.Module):
    """Channels weighted by an average that a module of its own, of no known type, takes over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = x * self.pool(x).sigmoid()
        return weighted


class Offset(nn.Module):
    """Adds to every place."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5


class Zeroed(nn.Module):
    """A gate that a fresh model does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = layers.EcaModule(8)
        self.scale = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.gate(x * self.scale)
        return x + gated


class Net(nn.Module):
    """Two levels of stride 2 and 4, and something between them."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.between = nn.Sequential(*between)
        self.second = nn.Conv2d(8, 8, 2, 2)

    def forward_intermediates(self, x: Tensor, indices: list[int], **_: Any) -> list[Tensor]:
        x = self.between(self.first(x))
        return [x, self.second(x)] if 1 in indices else [x]


@pytest.mark.parametrize(
    "between",
    [
        [nn.BatchNorm2d(8), nn.ReLU(inplace=True)],
        [layers.SEModule(8, rd_channels=4), nn.GELU()],
        [nn.GroupNorm(2, 8), nn.Hardswish(), nn.Dropout2d(0.5)],
        [layers.RmsNorm2d(8), layers.LayerScale2d(8)],
        [nn.Conv2d(8, 8, 7, padding=3, groups=8), layers.LayerNorm2d(8), nn.SiLU()],
    ],
    ids=["batch norm", "squeeze-excite", "group norm", "rms norm", "layer norm"],
)
def test_layers_that_can_be_run_pass(between: list[nn.Module]) -> None:
    check_layers(Net(*between), (4, 4), [0, 1])


@pytest.mark.parametrize(
    ("module", "path", "kind", "reason"),
    [
        (Gate(), "between.0.pool", "AdaptiveAvgPool2d", "lets a visible cell depend on how many hidden ones there are"),
        (Offset(), "between.0", "Offset", "fills the places of hidden cells"),
        (nn.Sigmoid(), "between.0", "Sigmoid", "fills the places of hidden cells"),
        (nn.InstanceNorm2d(8, affine=True), "between.0", "InstanceNorm2d", "keeps statistics of all places"),
        (layers.EvoNorm2dB0(8), "between.0", "EvoNorm2dB0", "keeps statistics of all places"),
        (FilterResponseNormAct2d(8), "between.0", "", "fills the places of hidden cells"),
        (layers.EcaModule(8), "between.0", "EcaModule", "lets a visible cell depend on how many"),
        (Zeroed(), "between.0.gate", "EcaModule", "lets a visible cell depend on how many"),
        (layers.GatherExcite(8, use_mlp=False), "between.0", "", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_layer_that_cannot_is_named(module: nn.Module, path: str, kind: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_layers(Net(nn.BatchNorm2d(8), nn.Identity(), module), (4, 4), [0, 1])
    message = str(caught.value)
    assert f"'{path.replace('between.0', 'between.2')}" in message
    assert f"({kind}" in message or not kind
    assert reason in message
    assert "\n" not in message


def test_what_lies_behind_the_levels_is_not_looked_at() -> None:
    net = Net()
    net.second = nn.Sequential(net.second, Offset())  # type: ignore[assignment]
    check_layers(net, (4, 4), [0])
    with pytest.raises(ConfigError, match=r"'second.1' \(Offset\)"):
        check_layers(net, (4, 4), [0, 1])


def test_a_layer_whose_sides_do_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'between.0' \(Conv2d\) cannot be run on visible cells alone: its 4x4"):
        check_layers(Net(nn.Conv2d(8, 8, 3)), (4, 4), [0, 1])


def test_a_model_that_does_not_run_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"Net does not run on images of 12x12: .*8") as caught:
        check_layers(Net(nn.Conv2d(9, 8, 1)), (4, 4), [0, 1])
    assert "\n" not in str(caught.value)


def test_the_model_and_the_callers_random_numbers_are_not_touched() -> None:
    net = Net(nn.BatchNorm2d(8), nn.ReLU(inplace=True)).train()
    nn.init.zeros_(net.second.weight)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    check_layers(net, (4, 4), [0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(m.training and not m._forward_hooks and "forward" not in vars(m) for m in net.modules())
