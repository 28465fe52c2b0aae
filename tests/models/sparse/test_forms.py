"""Each kind of layer on visible cells: against what it makes of the visible places alone, computed place by place."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import timm.layers as layers
import torch
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm_act import GroupNormAct
from timm.layers.squeeze_excite import SqueezeExciteCl
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.context import sparse
from edgemim.models.sparse.forms import form_of

GRID = (2, 3)
KEEPS = [[0, 5, 3], [1, 2, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), GRID)


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return module


def maps_of(channels: int, size: tuple[int, int]) -> Tensor:
    """Maps that are empty at hidden places, as everything between two sparse layers is."""
    maps = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(3))
    with sparse(nn.Identity(), PLAN) as active:
        return active.clear(maps)


def run(module: nn.Module, x: Tensor) -> Tensor:
    # Inside of something: a context looks at the modules of a model.
    model = nn.Sequential(module)
    with sparse(model, PLAN):
        out: Tensor = model(x)
    return out


def visible(reference: Callable[[str], ModuleType], image: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = reference("spark").visible_places(KEEPS[image], GRID, *size)
    return found


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"kernel_size": 3, "padding": 1}, (4, 6)),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (8, 12)),
        ({"kernel_size": 2, "stride": 2, "bias": False}, (8, 12)),
        ({"kernel_size": 7, "padding": 3, "groups": 6}, (8, 6)),
        ({"kernel_size": 1}, (2, 3)),
    ],
    ids=["3", "3 by 2", "2 by 2", "7, depth-wise", "1"],
)
def test_a_convolution_computes_each_visible_place_from_visible_places(
    reference: Callable[[str], ModuleType], arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    out_channels = 6 if arguments.get("groups") else 4
    conv: Any = randomised(nn.Conv2d(6, out_channels, **arguments))
    x = maps_of(6, size).requires_grad_()
    out = run(conv, x)
    stride, padding = arguments.get("stride", 1), arguments.get("padding", 0)
    plain = reference("spark")
    expected = torch.zeros(out.shape, dtype=torch.float64)
    twin = x.detach().double().requires_grad_()
    for image in range(2):
        seen = {(r, c): twin[image, :, r, c] for r, c in visible(reference, image, size)}
        places = plain.convolve(
            seen,
            conv.weight.detach().double(),
            None if conv.bias is None else conv.bias.detach().double(),
            visible(reference, image, (out.shape[2], out.shape[3])),
            stride=stride,
            padding=padding,
        )
        for (r, c), value in places.items():
            expected[image, :, r, c] = value
    # float32 against float64, sums of at most 6 * 49 products.
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)
    assert ((out == 0) == (expected == 0)).all()
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    (out * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert x.grad is not None
    assert twin.grad is not None
    # At hidden places the input is zero whatever the weights, so nothing asks for its gradient there.
    with sparse(nn.Identity(), PLAN) as active:
        torch.testing.assert_close(active.clear(x.grad).double(), twin.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "with activation"])
def test_a_batch_norm_knows_visible_places_only(reference: Callable[[str], ModuleType], kind: str) -> None:
    act = kind != "plain"
    norm: Any = randomised(layers.BatchNormAct2d(5) if act else nn.BatchNorm2d(5))
    with torch.no_grad():
        norm.running_mean.copy_(torch.randn(5))
        norm.running_var.copy_(torch.rand(5) + 0.5)
    before = {k: v.clone().double() for k, v in norm.state_dict().items()}
    size = (4, 6)
    x = maps_of(5, size).requires_grad_()
    out = run(norm.train(), x)
    twin = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (norm.weight, norm.bias))
    images = [{(r, c): twin[i, :, r, c] for r, c in visible(reference, i, size)} for i in range(2)]
    normed, mean, variance = reference("spark").batch_norm(images, weight, bias)
    expected = torch.zeros(out.shape, dtype=torch.float64)
    for image, places in enumerate(normed):
        for (r, c), value in places.items():
            expected[image, :, r, c] = value.clamp(min=0) if act else value
    # float32 against float64, one mean and one variance of 24 numbers each.
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    mixed = {"running_mean": mean, "running_var": variance}
    for name, new in mixed.items():
        follows = 0.9 * before[name] + 0.1 * new.detach()
        torch.testing.assert_close(norm.state_dict()[name].double(), follows, rtol=1e-5, atol=1e-6)
    assert norm.num_batches_tracked == 1
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
    (out * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for own, other in ((x, twin), (norm.weight, weight), (norm.bias, bias)):
        torch.testing.assert_close(own.grad.double(), other.grad, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_in_eval_mode_uses_its_running_statistics_and_leaves_them() -> None:
    norm: Any = randomised(nn.BatchNorm2d(5)).eval()
    with torch.no_grad():
        norm.running_mean.copy_(torch.randn(5))
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = maps_of(5, (4, 6))
    with sparse(nn.Identity(), PLAN) as active:
        expected = active.clear(norm(x))
    torch.testing.assert_close(run(norm, x), expected)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


# Layers that average over places or over channels of each image by itself; the same on a "map" of one row that holds
# the visible places and no others.
OF_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.GroupNorm(2, 8),
    "timm's group norm": lambda: layers.GroupNorm(8, 4),
    "group norm of all channels": lambda: layers.GroupNorm1(8),
    "group norm with activation": lambda: GroupNormAct(8, 2),
    "squeeze-excite": lambda: layers.SEModule(8, rd_channels=4),
    "squeeze-excite with maximum and norm": lambda: layers.SEModule(
        8, rd_channels=4, add_maxpool=True, norm_layer=layers.LayerNorm2d
    ),
    "squeeze-excite of EfficientNet": lambda: SqueezeExcite(8),
    "effective squeeze-excite": lambda: layers.EffectiveSEModule(8),
    "response norm": lambda: GlobalResponseNorm(8, channels_last=False),
    "layer norm": lambda: layers.LayerNorm2d(8),
}


@pytest.mark.parametrize("make", OF_IMAGES.values(), ids=OF_IMAGES.keys())
@pytest.mark.parametrize("size", [(2, 3), (4, 9)])
def test_what_averages_over_an_image_averages_over_its_visible_places(
    reference: Callable[[str], ModuleType], make: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    module = randomised(make())
    x = maps_of(8, size)
    out = run(module, x)
    for image in range(2):
        places = visible(reference, image, size)
        row = torch.stack([x[image, :, r, c] for r, c in places], dim=1)[None, :, None]
        expected = module(row)[0, :, 0]
        for index, (r, c) in enumerate(places):
            # float32: the same numbers, added up in another order.
            torch.testing.assert_close(out[image, :, r, c], expected[:, index], rtol=1e-5, atol=1e-6)
        assert out[image].count_nonzero() <= 8 * len(places)
    assert_empty(out)


LAST: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8),
    "layer norm": lambda: nn.LayerNorm(8),
    "timm's layer norm": lambda: layers.LayerNorm(8),
    "response norm": lambda: GlobalResponseNorm(8),
    "squeeze-excite": lambda: SqueezeExciteCl(8, rd_channels=4),
}


@pytest.mark.parametrize("make", LAST.values(), ids=LAST.keys())
def test_layers_with_channels_last_do_the_same(
    reference: Callable[[str], ModuleType], make: Callable[[], nn.Module]
) -> None:
    module = randomised(make())
    x = maps_of(8, (4, 9)).movedim(1, 3)
    out = run(module, x)
    for image in range(2):
        places = visible(reference, image, (4, 9))
        row = torch.stack([x[image, r, c] for r, c in places])[None, None]
        expected = module(row)[0, 0]
        for index, (r, c) in enumerate(places):
            torch.testing.assert_close(out[image, r, c], expected[index], rtol=1e-5, atol=1e-6)
    assert_empty(out.movedim(3, 1))


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2), layers.BlurPool2d(8), layers.AvgPool2dSame(2, 2)]
)
def test_pools_leave_hidden_places_empty(pool: nn.Module) -> None:
    x = maps_of(8, (8, 12)).abs()
    out = run(pool, x)
    with sparse(nn.Identity(), PLAN) as active:
        assert torch.equal(out, active.clear(pool(x)))
    assert_empty(out)
    assert out.count_nonzero() > 0


def test_an_average_of_an_image_is_left_alone() -> None:
    conv, norm, linear = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 8)
    point = torch.randn(2, 8, 1, 1)
    assert torch.equal(run(conv, point), conv(point))
    assert torch.equal(run(norm.eval(), point), norm(point))
    assert torch.equal(run(nn.GroupNorm(2, 8), point), nn.GroupNorm(2, 8)(point))
    assert torch.equal(run(linear, point.flatten(1)), linear(point.flatten(1)))


def test_a_subclass_of_a_norm_is_not_taken_for_it() -> None:
    class Other(nn.BatchNorm2d):
        """Whatever it does."""

    assert form_of(Other(3)) is None
    assert form_of(nn.ReLU()) is None
    assert form_of(layers.StdConv2d(3, 4, 3)) is not None  # another weight, but a convolution


def assert_empty(maps: Tensor) -> None:
    with sparse(nn.Identity(), PLAN) as active:
        hidden = active.hidden(maps.shape[2], maps.shape[3]).expand_as(maps)
    assert (maps[hidden] == 0).all()
