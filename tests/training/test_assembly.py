"""From settings to the objects of a run: whose weights, which size, which parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgemim.config import build, merge
from edgemim.errors import ConfigError
from edgemim.methods._base import Batch
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import Preprocess
from edgemim.training.assembly import make_method, starting_point
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]


def test_a_checkpoints_method_comes_back_with_its_decoder(run_values: Any, teacher: Path) -> None:
    values = merge(run_values(), {"init": str(teacher)})
    method = make_method(build(RunSettings, {**values, "backbone": {}})).eval()
    checkpoint = load_checkpoint(teacher)
    assert all(torch.equal(v, checkpoint.predictor()[k]) for k, v in method.predictor_state().items())
    assert all(torch.equal(v, checkpoint.model.state_dict()[k]) for k, v in method.backbone.state_dict().items())
    # With a plan of one's own the loss is a function of weights and images alone.
    batch = Batch(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    plan = MaskPlan.from_keep_ids(torch.tensor([[0, 5, 10, 15], [3, 6, 9, 12]]), (4, 4))
    losses = [method(batch, torch.Generator().manual_seed(seed), plan).loss for seed in (0, 1)]
    assert torch.equal(*losses)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generator(run_settings: MakeSettings) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (make_method(run_settings()).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = make_method(run_settings(seed=1)).state_dict()
    assert not torch.equal(first["model.blocks.0.attn.qkv.weight"], other["model.blocks.0.attn.qkv.weight"])


CONVNET = "a convnet in which nothing attends (ResNet, ConvNeXt, MobileNetV4, EfficientNet, RepViT)"
SMALL = {"depth": 1, "embed_dim": 16, "num_heads": 2}


@pytest.mark.parametrize(
    ("method", "masking", "backbone", "can", "fits", "kind"),
    [
        # Its masking would find fault with the grid of 1 x 1.
        ("mixedae", "mixture", {"name": "test_resnet"}, "ResNet can do full, blocks, sparse", "spark", "a plain ViT"),
        (
            "simmim",
            "random",
            {"name": "test_resnet"},
            "ResNet can do full, blocks, sparse",
            "spark",
            "a ViT, BEiT or Swin",
        ),
        (
            "spark",
            "random",
            {"name": "beit_base_patch16_224", "img_size": 32, **SMALL},
            "Beit can do full, mask_token, blocks, uniform (no convnet: 'patch_embed' (PatchEmbed))",
            "simmim",
            CONVNET,
        ),
        (
            "spark",
            "random",
            {"name": "vit_tiny_patch16_224", **SMALL},  # that it takes no images of 32 pixels is the smaller mistake
            "VisionTransformer can do full, visible, mask_token, blocks, uniform, qkv, tokens "
            "(no convnet: 'patch_embed' (PatchEmbed))",
            "mae",
            CONVNET,
        ),
        (
            "spark",
            "random",
            {"name": "skresnet18"},
            "ResNet can do full, blocks (no convnet: 'layer1.0.conv1.attn' (SelectiveKernelAttn))",
            "feature",
            CONVNET,
        ),
    ],
    ids=["mixedae", "simmim", "a beit", "a vit", "a convnet that attends"],
)
def test_a_backbone_of_the_wrong_kind_is_refused_with_what_fits_before_its_grid_is(
    run_values: Any, method: str, masking: str, backbone: dict[str, Any], can: str, fits: str, kind: str
) -> None:
    values = {**run_values(), "backbone": backbone, "method": {"name": method}, "masking": {"name": masking}}
    with pytest.raises(ConfigError) as caught:
        make_method(build(RunSettings, merge(values, {"preprocess": {"size": 32}})))
    need, rest = str(caught.value).split("; ", 1)
    assert need.startswith(f"method {method!r} needs a backbone with the ability ")
    able, named = rest.split(", which is enough for the methods ")
    methods, others = named.split("; choose one of these, or as backbone ")
    assert (able, others) == (can, kind)
    assert fits in methods.split(", ")
    assert method not in methods.split(", ")


def test_a_convnet_takes_images_of_the_size_that_is_asked_for(run_values: Any, tmp_path: Path) -> None:
    values = {**run_values(), "backbone": {"name": "resnet10t"}}
    assert starting_point(build(RunSettings, merge(values, {"preprocess": {"size": 64}}))).contract.size == (64, 64)
    assert starting_point(build(RunSettings, values)).contract.size == (176, 176)  # timm's own size of it
    info = CheckpointInfo(architecture="resnet10t", model_args={}, preprocess=Preprocess(size=(96, 96)))
    save_checkpoint(tmp_path / "convnet", build_backbone("resnet10t"), info)
    going_on = {**values, "backbone": {}, "init": str(tmp_path / "convnet")}
    assert starting_point(build(RunSettings, going_on)).contract.size == (96, 96)
