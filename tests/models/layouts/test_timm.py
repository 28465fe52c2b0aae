"""State dicts of timm's own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import CheckpointError
from edgemim.models.checkpoint import Checkpoint

State = dict[str, Tensor]
Bring = Callable[..., Checkpoint]
MakeModel = Callable[..., nn.Module]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto"])
def test_there_and_back_gives_the_same_file(
    make_model: MakeModel, tiny_arguments: dict[str, Any], bring: Bring, take_back: Any, assert_same: Any, name: str
) -> None:
    state = dict(make_model(name, num_classes=4).state_dict())
    arguments = tiny_arguments if name.startswith("vit") else {}
    assert_same(take_back(bring(state, "timm", backbone={"name": name, **arguments}), "timm"), state)


def test_a_decoder_is_left_out_in_both_directions(mae: State, bring: Bring, take_back: Any, assert_same: Any) -> None:
    encoder = {name: tensor for name, tensor in mae.items() if not name.startswith(("decoder_", "mask_token"))}
    vit = {"name": "vit_tiny_patch16_224", "num_heads": 2}
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2}
    checkpoint = bring(mae, "timm", backbone=vit | shape)
    assert checkpoint.predictor() == {}
    assert_same(take_back(checkpoint, "timm"), encoder)
    assert_same(take_back(bring(mae, "mae", backbone=vit), "timm"), encoder)


def test_a_norm_behind_the_average_decides_on_the_pooling(
    make_model: MakeModel, tiny_arguments: dict[str, Any], bring: Bring, images: Tensor
) -> None:
    model = make_model(num_classes=4, global_pool="avg")
    checkpoint = bring(dict(model.state_dict()), "timm", backbone={"name": "vit_tiny_patch16_224", **tiny_arguments})
    assert checkpoint.info.model_args["global_pool"] == "avg"
    assert torch.equal(checkpoint.model(images), model(images))


def test_an_encoder_in_front_of_the_names_goes(make_model: MakeModel, bring: Bring, assert_same: Any) -> None:
    state = dict(make_model("resnet10t").state_dict())
    named = {f"encoder.{name}": tensor for name, tensor in state.items()}
    found = bring(named, "timm", backbone={"name": "resnet10t"}).model.state_dict()
    assert_same(dict(found), state)


def test_two_tensors_of_one_name_are_not_mixed_up(make_model: MakeModel, bring: Bring) -> None:
    state = dict(make_model("resnet10t").state_dict())
    named = {f"encoder.{name}": tensor for name, tensor in state.items()}
    second = list(state)[1]
    with pytest.raises(CheckpointError, match=f"unexpected: encoder.{second}"):
        bring({**named, second: state[second]}, "timm", backbone={"name": "resnet10t"})
