"""Files of MAE: what goes where, what is computed, and what is refused."""

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
TINY = {"name": "vit_tiny_patch16_224", "num_heads": 2}


def test_the_encoder_keeps_its_names_and_values(mae: State, bring: Bring) -> None:
    found = bring(mae, "mae", backbone=TINY).model.state_dict()
    outside = ("decoder_", "mask_token")
    assert set(found) == {name for name in mae if not name.startswith(outside)}
    assert all(torch.equal(found[name], mae[name]) for name in found)


def test_the_decoder_gets_the_names_of_our_predictor(mae: State, bring: Bring) -> None:
    found = bring(mae, "mae", backbone=TINY).predictor()
    renamed = {"pixels.decoder.mask_token": "mask_token"}
    for what in ("weight", "bias"):
        renamed |= {
            f"pixels.decoder.embed.{what}": f"decoder_embed.{what}",
            f"pixels.decoder.norm.{what}": f"decoder_norm.{what}",
            f"pixels.decoder.predict.{what}": f"decoder_pred.{what}",
        }
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            renamed[f"pixels.decoder.blocks.0.{part}.{what}"] = f"decoder_blocks.0.{part}.{what}"
    assert set(found) == set(renamed)
    assert all(torch.equal(found[ours], mae[theirs]) for ours, theirs in renamed.items())


def test_the_method_takes_up_the_whole_decoder(mae: State, bring: Bring) -> None:
    checkpoint = bring(mae, "mae", backbone=TINY)
    settings = checkpoint.artifact.provenance[-1]["method"]
    cls = METHODS.get("mae")
    method = cls(adapt(checkpoint.model), RandomMasking(), build(cls.Settings, settings, "method"))
    assert method.load_predictor(checkpoint.predictor()) == sorted(method.predictor_state())


def test_what_the_tensors_tell_need_not_be_said(mae: State, bring: Bring) -> None:
    info = bring(mae, "mae", backbone=TINY).info
    told = {"patch_size": 8, "embed_dim": 16, "depth": 2, "img_size": 16, "num_heads": 2}
    assert (info.architecture, info.model_args) == ("vit_tiny_patch16_224", told)
    assert (info.preprocess.size, info.preprocess.crop_ratio) == ((16, 16), 0.875)
    assert (info.preprocess.mean, info.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_published_size_need_not_be_named(bring: Bring) -> None:
    """ViT-Tiny of 12 blocks: small enough for a test, and named by its width, depth and patch."""
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    info = bring(dict(model.state_dict()), "mae").info
    assert info.architecture == "vit_tiny_patch16_224"
    assert "num_heads" not in info.model_args


def test_another_size_must_be_named(mae: State, bring: Bring) -> None:
    with pytest.raises(ConfigError, match=r"2 blocks of width 16 and patches of 8 pixels.*--set backbone\.num_heads=N"):
        bring(mae, "mae")


@pytest.mark.parametrize(("given", "heads"), [({}, 16), ({"method": {"decoder_heads": 4}}, 4)])
def test_the_decoders_settings_are_recorded(mae: State, bring: Bring, given: dict[str, Any], heads: int) -> None:
    record = bring(mae, "mae", backbone=TINY, **given).artifact.provenance[-1]
    assert record["method"] == {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": heads}
    assert record["layout"] == "mae"


def test_heads_that_do_not_divide_the_width_are_refused(mae: State, bring: Bring) -> None:
    with pytest.raises(ConfigError, match=r"width 32 is not a multiple of its 5 heads.*method\.decoder_heads=N"):
        bring(mae, "mae", backbone=TINY, method={"decoder_heads": 5})


def test_an_encoder_alone_has_no_predictor(mae: State, bring: Bring) -> None:
    encoder = {name: tensor for name, tensor in mae.items() if not name.startswith(("decoder_", "mask_token"))}
    checkpoint = bring(encoder, "mae", backbone=TINY)
    assert checkpoint.predictor() == {}
    assert "method" not in checkpoint.artifact.provenance[-1]


def test_a_fine_tuned_file_keeps_its_head_and_averages(mae_pooled: State, bring: Bring) -> None:
    checkpoint = bring(mae_pooled, "mae", backbone=TINY)
    model: Any = checkpoint.model
    assert (checkpoint.num_classes, checkpoint.info.model_args["global_pool"]) == (5, "avg")
    x = torch.randn(2, 3, 16, 16)
    tokens = model.forward_features(x)[:, 1:].mean(dim=1)
    wanted = torch.nn.functional.layer_norm(
        tokens, (16,), mae_pooled["fc_norm.weight"], mae_pooled["fc_norm.bias"], eps=1e-6
    )
    # The same operations in float32, in another order.
    torch.testing.assert_close(model(x), wanted @ mae_pooled["head.weight"].T + mae_pooled["head.bias"])


@pytest.mark.parametrize("change", [1e-4, float("nan")])
def test_another_table_of_decoder_positions_is_refused(mae: State, bring: Bring, change: float) -> None:
    mae["decoder_pos_embed"][0, 2, 3] += change
    with pytest.raises(CheckpointError, match="decoder_pos_embed is not the table that is computed"):
        bring(mae, "mae", backbone=TINY)


def test_rounding_in_the_decoders_positions_is_none(mae: State, bring: Bring) -> None:
    mae["decoder_pos_embed"] += 1e-6
    assert bring(mae, "mae", backbone=TINY).predictor()


def test_positions_of_another_grid_are_refused(mae: State, bring: Bring) -> None:
    mae["decoder_pos_embed"] = torch.zeros(1, 10, 32)
    with pytest.raises(CheckpointError, match=r"decoder_pos_embed has the shape \[1, 10, 32\], here \[1, 5, 32\]"):
        bring(mae, "mae", backbone=TINY)


def test_a_grid_that_is_no_square_must_be_told(mae: State, bring: Bring) -> None:
    encoder = {name: tensor for name, tensor in mae.items() if not name.startswith(("decoder_", "mask_token"))}
    encoder["pos_embed"] = torch.randn(1, 7, 16)
    with pytest.raises(ConfigError, match=r"6 patches, which are no square; add --set 'backbone\.img_size"):
        bring(encoder, "mae", backbone=TINY)
    checkpoint = bring(encoder, "mae", backbone={**TINY, "img_size": [16, 24]})
    assert checkpoint.preprocess.size == (16, 24)


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        ("decoder_pred.bias", {}, "missing: decoder_pred.bias"),
        ("blocks.0.attn.qkv.bias", {}, "missing: blocks.0.attn.qkv.bias"),
        ("", {"decoder_pred.bias": torch.zeros(9)}, r"decoder_pred\.bias \[9\] instead of \[192\]"),
        ("", {"aligned_feature_projection_heads.0.bias": torch.zeros(9)}, "unexpected: aligned_feature_projection"),
        ("", {"blocks.0.ls1.gamma": torch.ones(16)}, r"unexpected: blocks\.0\.ls1\.gamma"),
        ("cls_token", {}, "has not the names of the layout 'mae': it lacks cls_token; it holds pos_embed, "),
        ("", {"cls_token": torch.zeros(16)}, r"is not of the layout 'mae': cls_token has the shape \[16\]"),
    ],
)
def test_a_file_that_is_none_is_named(mae: State, bring: Bring, remove: str, add: State, message: str) -> None:
    mae.pop(remove, None)
    with pytest.raises(CheckpointError, match=message) as caught:
        bring(mae | add, "mae", backbone=TINY)
    assert "\n" not in str(caught.value)


def test_a_backbone_of_another_family_is_refused(mae: State, bring: Bring) -> None:
    with pytest.raises(ConfigError, match="hold a VisionTransformer; beit_base_patch16_224 is a Beit"):
        bring(mae, "mae", backbone={"name": "beit_base_patch16_224", "num_heads": 2})


@pytest.mark.parametrize("file", ["mae", "mae_pooled"])
def test_there_and_back_gives_the_same_file(
    file: str, request: pytest.FixtureRequest, bring: Bring, take_back: Any, assert_same: Any
) -> None:
    state = request.getfixturevalue(file)
    assert_same(take_back(bring(state, "mae", backbone=TINY), "mae"), state)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"name": "vit_tiny_patch16_224", "init_values": 0.1}, r"no names for.*: blocks\.0\.ls1\.gamma"),
        ({"name": "vit_tiny_patch16_224", "no_embed_class": True}, "has a class token and a position for it"),
        ({"name": "vit_tiny_patch16_224", "class_token": False, "global_pool": "avg"}, "has a class token"),
        ({"name": "resnet10t"}, "hold a VisionTransformer; .* holds a ResNet"),
    ],
)
def test_a_backbone_that_mae_cannot_hold_is_refused(
    bring: Bring, take_back: Any, backbone: dict[str, Any], message: str
) -> None:
    from edgemim.models.build import build_backbone

    if backbone["name"].startswith("vit"):
        backbone |= {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = build_backbone(backbone["name"], {k: v for k, v in backbone.items() if k != "name"})
    checkpoint = bring(dict(model.state_dict()), "timm", backbone=backbone)
    with pytest.raises(CheckpointError, match=message):
        take_back(checkpoint, "mae")
