"""The adapter of convnets: which models have it, the mode `sparse`, levels, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.conv import ConvAdapter, Level
from edgemim.models.adapters.general import GeneralAdapter
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan

MakeModel = Callable[..., nn.Module]
PLAN = MaskPlan.from_keep_ids(torch.tensor([[0, 4], [3, 5]]), (2, 3))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "arguments", "fits"),
    [
        ("test_resnet", {}, True),
        ("test_convnext", {}, True),
        ("test_efficientnet", {}, True),
        ("mobilenetv4_conv_small_035", {}, True),
        ("repvit_m0_9", {"embed_dim": (8, 16), "depth": (1, 1)}, True),
        ("test_mambaout", {}, True),
        ("eva02_tiny_patch14_224", {"embed_dim": 24, "depth": 1, "num_heads": 2}, False),
        ("gmlp_ti16_224", {}, False),  # patches become a sequence
        ("test_maxvit", {}, False),  # blocks of both kinds
        ("xcit_nano_12_p16_224", {}, False),
    ],
)
def test_it_is_for_models_in_which_nothing_attends(name: str, arguments: dict[str, Any], fits: bool) -> None:
    model = build_backbone(name, arguments)
    assert ConvAdapter.fits(model) == fits
    adapter = adapt(model)
    assert type(adapter) is (ConvAdapter if fits else GeneralAdapter)
    assert ("sparse" in adapter.abilities) == fits


def test_a_model_without_levels_is_not_one() -> None:
    assert not ConvAdapter.fits(nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_mambaout"])
def test_whole_images_are_run_as_the_general_adapter_runs_them(
    make_model: MakeModel, images: Tensor, name: str
) -> None:
    model = make_model(name)
    own, general = ConvAdapter(model, (64, 96)), GeneralAdapter(model, (64, 96))
    for attribute in ("size", "grid", "output_grid", "patch_size", "stride", "width", "depth", "num_prefix"):
        assert getattr(own, attribute) == getattr(general, attribute)
    assert torch.equal(own.forward(images).final, general.forward(images).final)
    stopped = [a.forward(images, taps=(1, 3), stop_early=True) for a in (own, general)]
    assert stopped[0].tokens is None
    assert all(torch.equal(stopped[0].taps[b], stopped[1].taps[b]) for b in (1, 3))
    assert type(own.resize((32, 64))) is ConvAdapter


def test_sparse_tokens_are_those_of_visible_cells_alone(make_model: MakeModel, images: Tensor) -> None:
    """Two visible cells that do not touch know nothing of each other: each is what it is in an image of its own."""
    model = make_model("test_resnet")
    adapter = ConvAdapter(model, (64, 96))
    plan = MaskPlan.from_keep_ids(torch.tensor([[0, 5], [2, 3]]), (2, 3))
    together = adapter.forward(images, plan, mode="sparse").final
    for cell, image in ((0, 0), (5, 0), (2, 1), (3, 1)):
        one = MaskPlan.from_keep_ids(torch.tensor([[cell]]), (2, 3))
        alone = adapter.forward(images[image : image + 1], one, mode="sparse").final
        # float32; a batch of another size is added up in another order.
        torch.testing.assert_close(together[image, cell], alone[0, cell], rtol=1e-4, atol=1e-4)
        assert alone.count_nonzero() == alone[0, cell].count_nonzero() > 0


def test_a_sparse_pass_stops_where_it_is_told(make_model: MakeModel, images: Tensor) -> None:
    model: Any = make_model("test_resnet")
    adapter, calls = ConvAdapter(model, (64, 96)), list[int]()
    for index, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        stage.register_forward_hook(lambda *_, index=index: calls.append(index))
    found = adapter.forward(images, PLAN, mode="sparse", taps=(2,), stop_early=True)
    assert calls == [0, 1]
    assert found.tokens is None
    assert found.taps[2].shape == (2, 8 * 12, 48)


def test_levels_are_the_deepest_of_each_stride_from_four_on() -> None:
    resnet = ConvAdapter(build_backbone("test_resnet"), (64, 96))
    widths = [32, 48, 192, 96]
    assert resnet.levels == tuple(Level(block=i + 1, stride=4 << i, width=w) for i, w in enumerate(widths))
    # Two stages of stride 8: the later one.
    shape = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 24), "output_stride": 8}
    dilated = ConvAdapter(build_backbone("convnext_atto", shape), (32, 32))
    assert dilated.levels == (Level(block=0, stride=4, width=8), Level(block=3, stride=8, width=24))


def test_levels_finer_than_four_are_left_out() -> None:
    shape = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 24), "patch_size": 1}
    adapter = ConvAdapter(build_backbone("convnext_atto", shape), (16, 24))
    assert adapter.levels == (Level(block=2, stride=4, width=16), Level(block=3, stride=8, width=24))
    assert adapter.grid == (2, 3)


def test_strides_that_no_decoder_can_double_are_refused() -> None:
    shape = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8), "patch_size": 3}
    adapter = ConvAdapter(build_backbone("convnext_atto", shape), (48, 48))
    with pytest.raises(ConfigError, match="lie at strides 3, 6, 12, 24, its last places at 24x24") as caught:
        adapter.check_sparse()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(64, 90), (33, 64)])
def test_images_that_are_no_whole_number_of_cells_are_refused(size: tuple[int, int]) -> None:
    adapter = ConvAdapter(build_backbone("test_resnet"), size)
    with pytest.raises(ConfigError, match=f"images of {size[0]}x{size[1]} are no whole number of the 32x32 pixels"):
        adapter.check_sparse()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_args": {"attn_layer": "eca"}}, r"'layer1.0.se' \(EcaModule\) lets a visible cell depend"),
        ({"act_layer": "sigmoid"}, r"\(Sigmoid\) fills the places of hidden cells"),
    ],
)
def test_a_module_that_cannot_be_mirrored_is_named(arguments: dict[str, Any], message: str) -> None:
    shape = {"stem_width": 8, "channels": (8, 8, 16, 16), **arguments}
    adapter = adapt(build_backbone("resnet10t", shape), (64, 64))
    assert isinstance(adapter, ConvAdapter)
    with pytest.raises(ConfigError, match=message) as caught:
        adapter.check_sparse()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "seresnext50_32x4d",
        "convnext_atto",
        "convnextv2_atto",
        "mobilenetv4_conv_small",
        "mobilenetv4_conv_medium",
        "mobilenetv3_small_050",
        "efficientnet_b0",
        "tf_efficientnet_b0",
        "regnety_002",
        "repvit_m0_9",
        "ghostnet_050",
        "mobileone_s0",
        "vgg11_bn",
        "densenet121",
        "poolformer_s12",
    ],
)
def test_most_convnets_of_timm_can_be_run_on_visible_cells(name: str) -> None:
    adapter = adapt(build_backbone(name), (224, 224))
    assert isinstance(adapter, ConvAdapter)
    adapter.check_sparse()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    plan = MaskPlan.from_keep_ids(torch.arange(20)[None], adapter.grid)
    for block, tokens in adapter.forward(images, plan, mode="sparse", taps=range(adapter.depth)).taps.items():
        rows = round(tokens.shape[1] ** 0.5)
        hidden = plan.at((rows, rows)).mask
        assert (tokens[hidden] == 0).all(), block
        assert tokens[~hidden].count_nonzero() > 0, block
