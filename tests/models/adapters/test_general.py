"""The adapter of everything without one of its own: against timm's own forward pass, family by family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters.base import BackboneAdapter
from edgemim.models.adapters.general import GeneralAdapter
from edgemim.models.build import build_backbone

MakeModel = Callable[..., nn.Module]
Size = tuple[int, int]

_TRANSFORMER = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_SWINV2 = {"img_size": (64, 96), "window_size": 2, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}

# Name, timm arguments, size of the images, the grid that they end in. Not square, so that rows and columns cannot
# be confused; the second size of a convnet is no multiple of its stride.
SMALL: list[tuple[str, dict[str, Any], Size, Size]] = [
    ("test_resnet", {}, (64, 96), (2, 3)),
    ("test_resnet", {}, (33, 64), (2, 2)),  # a convolution with padding rounds up
    ("test_convnext", {}, (40, 72), (1, 2)),  # one without rounds down
    ("test_efficientnet", {}, (64, 96), (2, 3)),  # a convolution behind the last stage
    ("test_mambaout", {}, (64, 96), (2, 3)),  # channels last
    ("test_maxvit", {"img_size": (64, 96)}, (64, 96), (2, 3)),
    ("swinv2_tiny_window8_256", _SWINV2, (64, 96), (2, 3)),  # channels last, images of one size
    ("deit_tiny_distilled_patch16_224", _TRANSFORMER, (32, 48), (4, 6)),  # two prefix tokens
    ("eva02_tiny_patch14_224", _TRANSFORMER, (32, 48), (4, 6)),  # rotary positions
    ("vit_relpos_small_patch16_224", _TRANSFORMER, (32, 48), (4, 6)),  # a relative position bias
    ("xcit_nano_12_p16_224", {"img_size": (32, 48)}, (32, 48), (2, 3)),  # a class token from the last blocks on
]

WIDE: list[tuple[str, Size]] = [
    ("resnet18", (7, 7)),
    ("resnetv2_18", (7, 7)),
    ("mobilenetv4_conv_small", (7, 7)),
    ("mobilenetv3_small_050", (7, 7)),
    ("efficientnet_b0", (7, 7)),
    ("efficientvit_b0", (7, 7)),
    ("efficientvit_m0", (4, 4)),
    ("convnext_atto", (7, 7)),
    ("convnextv2_atto", (7, 7)),
    ("regnety_002", (7, 7)),
    ("repvit_m0_9", (7, 7)),
    ("ghostnet_050", (7, 7)),
    ("mobileone_s0", (7, 7)),
    ("vgg11", (7, 7)),
    ("densenet121", (7, 7)),
    ("nfnet_l0", (7, 7)),
    ("xception41", (10, 10)),
    ("convmixer_1024_20_ks9_p14", (16, 16)),
    ("swinv2_tiny_window8_256", (8, 8)),
    ("maxvit_tiny_rw_224", (7, 7)),
    ("levit_128s", (4, 4)),
    ("poolformer_s12", (7, 7)),
    ("caformer_s18", (7, 7)),
    ("fastvit_t8", (8, 8)),
    ("efficientformer_l1", (7, 7)),
    ("efficientformerv2_s0", (7, 7)),
    ("mobilevit_xxs", (8, 8)),
    ("edgenext_xx_small", (8, 8)),
    ("hiera_tiny_224", (7, 7)),
    ("mvitv2_small_cls", (7, 7)),
    ("twins_svt_small", (7, 7)),
    ("mixer_s32_224", (7, 7)),
    ("cait_xxs24_224", (14, 14)),
    ("volo_d1_224", (14, 14)),  # a class token that timm does not count
    ("coat_lite_tiny", (7, 7)),  # the same
    ("tiny_vit_5m_224", (7, 7)),
    ("vit_small_patch16_dinov3", (16, 16)),
]


def check_against_timm(model: nn.Module, adapter: BackboneAdapter, images: Tensor, grid: Size) -> None:
    """Final tokens with and without taps, each level's width and tokens, and the same from a pass that stops."""
    assert adapter.output_grid == adapter.grid == grid
    model.eval()
    blocks = tuple(range(adapter.depth))
    with torch.no_grad():
        final = adapter.forward(images).final
        whole = adapter.forward(images, taps=blocks)
        expected = patch_tokens(model, images, grid)
    assert final.shape == (len(images), grid[0] * grid[1], adapter.width)
    assert torch.equal(final, expected)
    assert torch.equal(whole.final, expected)
    assert sorted(whole.taps) == list(blocks)
    assert [whole.taps[b].shape[2] for b in blocks] == [adapter.width_of(b) for b in blocks]
    assert whole.taps[blocks[-1]].shape[1] == grid[0] * grid[1]
    for wanted in ((0,), (adapter.depth // 2,), blocks[-1:], (blocks[-1], 0)):
        with torch.no_grad():
            stopped = adapter.forward(images, taps=wanted, stop_early=True)
        assert stopped.tokens is None
        assert sorted(stopped.taps) == sorted(set(wanted))
        assert all(torch.equal(stopped.taps[b], whole.taps[b]) for b in wanted)


def patch_tokens(model: Any, images: Tensor, grid: Size) -> Tensor:
    """timm's features as [B, N, D] in row-major order: the last N of a sequence, or the places of a map one by one."""
    features: Tensor = model.forward_features(images)
    places = grid[0] * grid[1]
    if features.dim() == 3:
        return features[:, features.shape[1] - places :]
    if tuple(features.shape[1:3]) == grid:
        return torch.stack([features[:, i, j] for i in range(grid[0]) for j in range(grid[1])], dim=1)
    assert tuple(features.shape[2:]) == grid
    return torch.stack([features[:, :, i, j] for i in range(grid[0]) for j in range(grid[1])], dim=1)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "grid"), SMALL, ids=[f"{n}-{s[0]}x{s[1]}" for n, _, s, _ in SMALL]
)
def test_it_gives_timms_tokens_and_levels(
    make_model: MakeModel, name: str, arguments: dict[str, Any], size: Size, grid: Size
) -> None:
    model = make_model(name, **arguments)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    check_against_timm(model, GeneralAdapter(model, size), images, grid)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "grid"), WIDE, ids=[name for name, _ in WIDE])
def test_it_gives_the_tokens_and_levels_of_most_of_timm(name: str, grid: Size) -> None:
    torch.manual_seed(0)
    model = build_backbone(name)
    adapter = GeneralAdapter(model)
    images = torch.randn(1, 3, *adapter.size, generator=torch.Generator().manual_seed(1))
    check_against_timm(model, adapter, images, grid)


def test_the_last_tap_is_where_the_level_ends_and_not_what_a_head_makes_of_it(make_model: MakeModel) -> None:
    adapter = GeneralAdapter(make_model("test_efficientnet"), (64, 96))
    assert adapter.width != adapter.width_of(adapter.depth - 1)


def test_looking_at_a_model_leaves_its_mode_and_its_running_statistics(make_model: MakeModel) -> None:
    model = make_model("test_resnet").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    GeneralAdapter(model, (64, 64))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_pass_that_is_stopped_leaves_the_rest_alone(make_model: MakeModel) -> None:
    model: Any = make_model("test_resnet")
    calls: list[int] = []
    for index, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        stage.register_forward_hook(lambda *_, index=index: calls.append(index))
    adapter = GeneralAdapter(model, (64, 64))
    calls.clear()
    adapter.forward(torch.zeros(1, 3, 64, 64), taps=(2,), stop_early=True)  # the stem is level 0
    assert calls == [0, 1]


def test_gradients_reach_the_model_through_taps_and_final_tokens(make_model: MakeModel) -> None:
    model = make_model("test_convnext")
    features = GeneralAdapter(model, (64, 64)).forward(torch.randn(1, 3, 64, 64), taps=(1,))
    (features.final.square().sum() + features.taps[1].square().sum()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("head."))


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        ("test_resnet", (64, 96), (32, 32)),
        ("test_resnet", (299, 299), (32, 32)),  # ten places, of 29.9 pixels if they were shared out
        ("test_convnext", (40, 72), (32, 32)),
    ],
)
def test_a_place_stands_for_the_stride_that_timm_states(
    make_model: MakeModel, name: str, size: Size, stride: Size
) -> None:
    assert GeneralAdapter(make_model(name), size).stride == stride


def test_a_convnet_sees_images_of_another_size_through_another_adapter(make_model: MakeModel) -> None:
    model = make_model("test_resnet")
    resized = GeneralAdapter(model, (299, 299)).resize((96, 64))
    assert resized.backbone is model
    assert (resized.size, resized.output_grid) == ((96, 64), (3, 2))


def test_a_transformer_with_a_fixed_size_gets_its_positions_resampled(make_model: MakeModel) -> None:
    resized = GeneralAdapter(make_model("deit_tiny_distilled_patch16_224", **_TRANSFORMER)).resize((48, 40))
    assert resized.output_grid == (6, 5)
    images = torch.randn(1, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    check_against_timm(resized.backbone, resized, images, (6, 5))


def test_images_that_the_model_does_not_take_are_refused_in_one_line(make_model: MakeModel) -> None:
    model = make_model("deit_tiny_distilled_patch16_224", **_TRANSFORMER)
    expected = r"VisionTransformerDistilled does not run on images of 40x72: .*40.*32"
    with pytest.raises(ConfigError, match=expected) as refusal:
        GeneralAdapter(model, (40, 72))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pit_ti_224", "ends in a sequence of length 1, which is no grid of patches"),  # its class token alone
        ("coat_tiny", "gives no tokens and no feature map"),
        ("crossvit_9_240", "gives no tokens and no feature map"),
    ],
)
def test_a_model_without_a_grid_of_features_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        GeneralAdapter(build_backbone(name))
    assert "\n" not in str(refusal.value)


class Bare(nn.Module):
    """A model without levels, as some of timm's are; `tokens` are cut from a map of 8-pixel places."""

    def __init__(self, tokens: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.tokens = tokens

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.conv(images)
        return features if self.tokens is None else features.flatten(2).transpose(1, 2)[:, : self.tokens]


def test_a_model_without_levels_has_final_tokens_alone() -> None:
    for model in (Bare(), Bare(tokens=24)):
        adapter = GeneralAdapter(model, (32, 48))
        assert adapter.abilities == ("full",)
        assert (adapter.grid, adapter.stride, adapter.depth) == ((4, 6), (8, 8), 0)
        images = torch.randn(2, 3, 32, 48)
        assert torch.equal(adapter.forward(images).final, model.conv(images).flatten(2).transpose(1, 2))
    with pytest.raises(ConfigError, match="a sequence of length 23, which is no grid"):
        GeneralAdapter(Bare(tokens=23), (32, 48))


def test_it_has_neither_attention_nor_masked_modes(make_model: MakeModel) -> None:
    adapter = GeneralAdapter(make_model("test_resnet"), (64, 64))
    assert adapter.abilities == ("full", "blocks")
    with pytest.raises(ConfigError, match="ResNet has no attention heads"):
        adapter.heads_of(0)
