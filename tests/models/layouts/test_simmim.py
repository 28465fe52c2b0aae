"""Files of SimMIM: its ViT and its Swin, pretrained and fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build
from edgemim.errors import CheckpointError, ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.models.adapters import adapt
from edgemim.models.checkpoint import Checkpoint
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

State = dict[str, Tensor]
Bring = Callable[..., Checkpoint]
TABLE = "relative_position_bias_table"


def test_the_vit_needs_nothing_said(simmim_vit: State, bring: Bring) -> None:
    info = bring(simmim_vit, "simmim").info
    assert info.architecture == "beit_base_patch16_224"
    assert info.model_args == {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "init_values": 0.1,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "global_pool": "token",
    }
    # timm's numbers for this architecture are BEiT's, 0.5 each.
    assert (info.preprocess.mean, info.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_swin_needs_nothing_said(simmim_swin: State, bring: Bring) -> None:
    info = bring(simmim_swin, "simmim").info
    assert info.architecture == "swin_base_patch4_window7_224"
    assert info.model_args == {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [1, 2],
        "window_size": 4,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
    }


@pytest.mark.parametrize("file", ["simmim_vit", "simmim_swin"])
def test_encoder_mask_token_and_head_arrive(file: str, request: pytest.FixtureRequest, bring: Bring) -> None:
    state = request.getfixturevalue(file)
    checkpoint = bring(state, "simmim")
    held = checkpoint.predictor()
    theirs = {"mask_token": "encoder.mask_token", "head.weight": "decoder.0.weight", "head.bias": "decoder.0.bias"}
    assert set(held) == set(theirs)
    assert all(torch.equal(held[name], state[theirs[name]]) for name in held)
    encoder = checkpoint.model.state_dict()
    for name, tensor in encoder.items():
        there = name.replace("layers.1.downsample", "layers.0.downsample")
        assert torch.equal(tensor, state[f"encoder.{there}"]), name
    computed = ("relative_position_index", "attn_mask", "mask_token")
    assert len(encoder) == sum(k.startswith("encoder.") and not k.endswith(computed) for k in state)


def test_the_step_between_stages_moves_to_the_next_one(simmim_swin: State, bring: Bring) -> None:
    encoder = bring(simmim_swin, "simmim").model.state_dict()
    reduction = simmim_swin["encoder.layers.0.downsample.reduction.weight"]
    assert torch.equal(encoder["layers.1.downsample.reduction.weight"], reduction)
    assert not any(name.startswith("layers.0.downsample") for name in encoder)


@pytest.mark.parametrize("file", ["simmim_vit", "simmim_swin"])
def test_the_method_takes_up_mask_token_and_head(file: str, request: pytest.FixtureRequest, bring: Bring) -> None:
    checkpoint = bring(request.getfixturevalue(file), "simmim")
    cls = METHODS.get("simmim")
    method = cls(adapt(checkpoint.model), RandomMasking(), build(cls.Settings, {}, "method"))
    assert method.load_predictor(checkpoint.predictor()) == sorted(method.predictor_state())


@pytest.mark.parametrize("file", ["simmim_vit", "simmim_swin", "swin", "beit_pooled"])
def test_there_and_back_gives_the_same_file(
    file: str, request: pytest.FixtureRequest, bring: Bring, take_back: Any, assert_same: Any
) -> None:
    state = request.getfixturevalue(file)
    assert_same(take_back(bring(state, "simmim"), "simmim"), state)


def test_a_fine_tuned_swin_keeps_its_head(swin: State, bring: Bring, take_back: Any, assert_same: Any) -> None:
    state = swin | {"head.weight": torch.randn(5, 16), "head.bias": torch.randn(5)}
    checkpoint = bring(state, "simmim")
    assert checkpoint.num_classes == 5
    assert torch.equal(checkpoint.model.state_dict()["head.fc.weight"], state["head.weight"])
    assert_same(take_back(checkpoint, "simmim"), state)


def test_the_shared_table_is_given_to_each_block_on_demand(
    simmim_vit: State, bring: Bring, take_back: Any, images: Tensor
) -> None:
    shared = bring(simmim_vit, "simmim")
    before = shared.model(images[:, :, :16, :16])
    checkpoint = bring(simmim_vit, "simmim", backbone={"use_rel_pos_bias": True})
    arguments, encoder = checkpoint.info.model_args, checkpoint.model.state_dict()
    assert (arguments["use_rel_pos_bias"], arguments["use_shared_rel_pos_bias"]) == (True, False)
    table = simmim_vit[f"encoder.rel_pos_bias.{TABLE}"]
    assert all(torch.equal(encoder[f"blocks.{i}.attn.{TABLE}"], table) for i in (0, 1))
    assert f"rel_pos_bias.{TABLE}" not in encoder
    # The same sums of the same numbers.
    torch.testing.assert_close(checkpoint.model(images[:, :, :16, :16]), before)
    back = take_back(checkpoint, "simmim")
    assert torch.equal(back[f"encoder.blocks.1.attn.{TABLE}"], table)
    assert f"encoder.rel_pos_bias.{TABLE}" not in back


def test_an_index_that_is_another_one_is_refused(simmim_vit: State, bring: Bring) -> None:
    simmim_vit["encoder.rel_pos_bias.relative_position_index"][1, 2] += 1
    for settings in ({}, {"backbone": {"use_rel_pos_bias": True}}):
        with pytest.raises(CheckpointError, match=r"rel_pos_bias\.relative_position_index is not the table"):
            bring(simmim_vit, "simmim", **settings)


def test_a_mask_of_another_shift_is_refused(simmim_swin: State, bring: Bring) -> None:
    simmim_swin["encoder.layers.0.blocks.1.attn_mask"][3, 0, 1] = -100
    with pytest.raises(CheckpointError, match=r"layers\.0\.blocks\.1\.attn_mask is not the table"):
        bring(simmim_swin, "simmim")


def test_a_swin_without_its_masks_must_be_told_its_size(
    swin: State, bring: Bring, take_back: Any, assert_same: Any
) -> None:
    computed = ("relative_position_index", "attn_mask")
    bare = {name: tensor for name, tensor in swin.items() if not name.endswith(computed)}
    with pytest.raises(ConfigError, match=r"does not say how large its images are; add --set backbone\.img_size="):
        bring(bare, "simmim")
    assert_same(take_back(bring(bare, "simmim", backbone={"img_size": 32}), "simmim"), swin)


@pytest.mark.parametrize(
    ("file", "remove", "add", "message"),
    [
        ("simmim_vit", "decoder.0.bias", {}, r"missing: decoder\.0\.bias"),
        ("simmim_vit", "encoder.blocks.1.gamma_2", {}, r"missing: blocks\.1\.gamma_2"),
        ("simmim_vit", "", {"decoder.0.bias": torch.ones(3)}, r"decoder\.0\.bias \[3\] instead of \[192\]"),
        ("simmim_vit", "encoder.cls_token", {}, "it lacks cls_token; it holds "),
        ("simmim_swin", "", {"encoder.absolute_pos_embed": torch.ones(1, 64, 8)}, "unexpected: absolute_pos_embed"),
        ("simmim_swin", "encoder.layers.1.blocks.1.norm1.bias", {}, r"missing: layers\.1\.blocks\.1\.norm1\.bias"),
        ("simmim_swin", "encoder.layers.0.downsample.norm.bias", {}, r"missing: layers\.0\.downsample\.norm\.bias"),
        ("mae", "", {}, r"is not of the layout 'simmim': it holds blocks\.0\.attn\.qkv\.bias"),
    ],
)
def test_a_file_that_is_none_is_named(
    request: pytest.FixtureRequest, bring: Bring, file: str, remove: str, add: State, message: str
) -> None:
    state = request.getfixturevalue(file)
    state.pop(remove, None)
    with pytest.raises(CheckpointError, match=message) as caught:
        bring(state | add, "simmim")
    assert "\n" not in str(caught.value)


def test_another_backbone_is_refused(mae: State, simmim_swin: State, bring: Bring, take_back: Any) -> None:
    vit = bring(mae, "mae", backbone={"name": "vit_tiny_patch16_224", "num_heads": 2})
    with pytest.raises(CheckpointError, match=r"layout 'simmim' hold a Beit; .* holds a VisionTransformer"):
        take_back(vit, "simmim")
    with pytest.raises(ConfigError, match="hold a SwinTransformer; swinv2_tiny_window8_256 is a SwinTransformerV2"):
        bring(simmim_swin, "simmim", backbone={"name": "swinv2_tiny_window8_256"})
