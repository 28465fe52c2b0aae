"""Files of BEiT and BEiT v2, pretrained and fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import CheckpointError, ConfigError
from edgemim.models.checkpoint import Checkpoint
from edgemim.preprocess import IMAGENET_MEAN

State = dict[str, Tensor]
Bring = Callable[..., Checkpoint]


def test_encoder_mask_token_and_token_classifier_arrive(beit: State, bring: Bring) -> None:
    checkpoint = bring(beit, "beit")
    encoder, held = checkpoint.model.state_dict(), checkpoint.predictor()
    assert set(held) == {"mask_token", "lm_head.weight", "lm_head.bias"}
    assert {*encoder, *held, "rel_pos_bias.relative_position_index"} == set(beit)
    assert all(torch.equal(tensor, beit[name]) for name, tensor in {**encoder, **held}.items())
    assert checkpoint.architecture == "beit_base_patch16_224"
    assert checkpoint.preprocess.mean == (0.5, 0.5, 0.5)


def test_a_fine_tuned_file_averages_its_patches(beit_pooled: State, bring: Bring, images: Tensor) -> None:
    checkpoint = bring(beit_pooled, "beit")
    model: Any = checkpoint.model
    assert (checkpoint.num_classes, checkpoint.info.model_args["global_pool"]) == (5, "avg")
    tokens = model.forward_features(images[:, :, :16, :16])[:, 1:].mean(dim=1)
    normed = torch.nn.functional.layer_norm(
        tokens, (16,), beit_pooled["fc_norm.weight"], beit_pooled["fc_norm.bias"], eps=1e-6
    )
    wanted = normed @ beit_pooled["head.weight"].T + beit_pooled["head.bias"]
    # The same operations in float32, in another order.
    torch.testing.assert_close(model(images[:, :, :16, :16]), wanted)


def without_extras(state: State) -> State:
    """Positions in the place of biases, no layer scale, no biases of queries and values."""
    left_out = ("relative_position", "gamma_", "q_bias", "v_bias")
    bare = {name: tensor for name, tensor in state.items() if not any(part in name for part in left_out)}
    return {**bare, "pos_embed": torch.randn(1, 5, 16)}


def second_version(state: State) -> State:
    """BEiT v2: layers of its own for the class token, beside those of BEiT."""
    extra = {name.replace("blocks.1", "cls_pt_layers.0"): t.clone() for name, t in state.items() if "blocks.1" in name}
    return {**state, **extra}


def same(state: State) -> State:
    return state


@pytest.mark.parametrize("file", ["beit", "beit_pooled"])
@pytest.mark.parametrize("change", [same, without_extras, second_version])
def test_there_and_back_gives_the_same_file(
    file: str,
    change: Callable[[State], State],
    request: pytest.FixtureRequest,
    bring: Bring,
    take_back: Any,
    assert_same: Any,
) -> None:
    state = change(request.getfixturevalue(file))
    backbone = {"name": "beit_base_patch16_224", "num_heads": 2} if change is without_extras else {}
    assert_same(take_back(bring(state, "beit", backbone=backbone), "beit"), state)


def test_the_second_version_is_known_by_its_extra_layers(beit: State, bring: Bring) -> None:
    checkpoint = bring(second_version(beit), "beit")
    assert checkpoint.architecture == "beitv2_base_patch16_224"
    assert checkpoint.preprocess.mean == IMAGENET_MEAN
    assert any(name.startswith("cls_pt_layers.0.") for name in checkpoint.predictor())


def test_heads_that_no_table_shows_must_be_told(beit: State, bring: Bring) -> None:
    with pytest.raises(ConfigError, match=r"2 blocks of width 16, .*--set backbone\.num_heads=N"):
        bring(without_extras(beit), "beit")


def test_a_method_of_ours_leaves_its_mask_token_there(
    simmim_vit: State, bring: Bring, take_back: Any, beit: State
) -> None:
    """SimMIM's linear head predicts pixels, for which BEiT has no place."""
    back = take_back(bring(simmim_vit, "simmim"), "beit")
    assert set(back) == {name for name in beit if not name.startswith("lm_head.")}
    assert torch.equal(back["mask_token"], simmim_vit["encoder.mask_token"])


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        ("blocks.1.attn.q_bias", {}, r"missing: blocks\.1\.attn\.q_bias"),
        ("norm.bias", {}, r"missing: norm\.bias"),
        ("", {"blocks.0.mlp.w12.weight": torch.ones(1)}, r"unexpected: blocks\.0\.mlp\.w12\.weight"),
        ("blocks.0.mlp.fc1.weight", {}, r"lacks blocks\.0\.mlp\.fc1\.weight"),
        ("", {"rel_pos_bias.relative_position_index": torch.zeros(3, 3)}, r"has the shape \[3, 3\], here \[5, 5\]"),
    ],
)
def test_a_file_that_is_none_is_named(beit: State, bring: Bring, remove: str, add: State, message: str) -> None:
    beit.pop(remove, None)
    with pytest.raises(CheckpointError, match=message) as caught:
        bring(beit | add, "beit")
    assert "\n" not in str(caught.value)


def test_a_backbone_that_beit_cannot_hold_is_refused(beit: State, bring: Bring, take_back: Any) -> None:
    from edgemim.models.build import build_backbone

    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "swiglu_mlp": True}
    model = build_backbone("beit_base_patch16_224", arguments)
    checkpoint = bring(dict(model.state_dict()), "timm", backbone={"name": "beit_base_patch16_224", **arguments})
    with pytest.raises(CheckpointError, match=r"no names for these tensors of a Beit: blocks\.0\.mlp\.fc1_g\.weight"):
        take_back(checkpoint, "beit")
