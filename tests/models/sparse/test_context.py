"""The context in which a model sees visible cells only, and that nothing of it is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.sparse.context import sparse

MakeModel = Callable[..., nn.Module]
PLAN = MaskPlan.from_keep_ids(torch.tensor([[0, 4], [3, 5]]), (2, 3))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "types": [(name, type(module)) for name, module in model.named_modules()],
        "own": [(name, sorted(vars(module))) for name, module in model.named_modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "objects": [id(p) for p in model.parameters()],
    }


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_the_dense_model_is_the_same_before_and_after(make_model: MakeModel, images: Tensor, name: str) -> None:
    model = make_model(name)
    before, dense = everything(model), model(images)
    with sparse(model, PLAN) as active:
        masked = model(active.clear(images))
    after = everything(model)
    assert not torch.equal(masked, dense)
    assert torch.equal(model(images), dense)
    assert all(torch.equal(before["tensors"][k], v) for k, v in after.pop("tensors").items())
    before.pop("tensors")
    assert after == before


def test_an_error_inside_leaves_a_dense_model(make_model: MakeModel, images: Tensor) -> None:
    model = make_model("test_resnet")
    dense = model(images)
    with pytest.raises(KeyError), sparse(model, PLAN):
        raise KeyError
    assert torch.equal(model(images), dense)


def test_two_models_have_masks_of_their_own(make_model: MakeModel, images: Tensor) -> None:
    one, other = make_model("test_resnet"), make_model("test_resnet", seed=1)
    plan = MaskPlan.from_keep_ids(torch.tensor([[1, 2], [0, 1]]), (2, 3))

    def alone(model: nn.Module, own: MaskPlan) -> Tensor:
        with sparse(model, own) as active:
            out: Tensor = model(active.clear(images))
        return out

    with sparse(one, PLAN) as first, sparse(other, plan) as second:
        both = one(first.clear(images)), other(second.clear(images))
    assert torch.equal(both[0], alone(one, PLAN))
    assert torch.equal(both[1], alone(other, plan))


def test_all_hooks_of_a_module_run(make_model: MakeModel, images: Tensor) -> None:
    model: Any = make_model("test_resnet")
    seen: list[Tensor] = []
    handle = model.layer1[0].conv1.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with sparse(model, PLAN) as active:
        model(active.clear(images))
    handle.remove()
    assert len(seen) == 1
    hidden = active.hidden(*seen[0].shape[2:]).expand_as(seen[0])
    assert (seen[0][hidden] == 0).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(3, 4, 3)], r"'0' \(Conv2d\) cannot .* alone: its 62x94 places are no whole multiple of 2x3 cells"),
        ([nn.Conv2d(3, 4, 2, 2), nn.MaxPool2d(3, 5)], r"'1' \(MaxPool2d\)"),
        ([nn.Conv2d(3, 4, 1), nn.ZeroPad2d(1), nn.BatchNorm2d(4)], r"'2' \(BatchNorm2d\)"),
    ],
    ids=["no padding", "odd stride", "a padded map"],
)
def test_a_map_whose_places_are_of_no_one_cell_is_refused_by_the_name_of_its_layer(
    images: Tensor, layers: list[nn.Module], message: str
) -> None:
    model = nn.Sequential(*layers)
    with pytest.raises(ConfigError, match=message) as caught, sparse(model, PLAN) as active:
        model(active.clear(images))
    assert "choose images that are a multiple of the backbone's stride" in str(caught.value)
    assert "\n" not in str(caught.value)
