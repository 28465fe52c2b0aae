"""The adapter of timm's BEiT, with each kind of position that SimMIM, BEiT and its fine-tuning use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.models.adapters import adapt
from edgemim.models.adapters.beit import BeitAdapter, unshare_bias
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

MakeModel = Callable[..., nn.Module]
NAME = "beit_base_patch16_224"
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
SHARED = {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False}

CASES: dict[str, dict[str, Any]] = {
    "a bias per block": {"global_pool": "token"},
    "one bias for all": {"global_pool": "token", **SHARED},
    "both": {"global_pool": "token", "use_shared_rel_pos_bias": True},
    "positions, no layer scale": {
        "global_pool": "token",
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "init_values": None,
    },
    "the norm behind the average": {},
    "no bias of queries and values": {"global_pool": "token", "qkv_bias": False},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def beit(request: pytest.FixtureRequest, make_model: MakeModel) -> BeitAdapter:
    adapter = adapt(make_model(NAME, **SHAPE, **request.param))
    assert isinstance(adapter, BeitAdapter)
    return adapter


@pytest.fixture
def plan() -> MaskPlan:
    """Five of sixteen patches visible, six masked, five dropped, for three images."""
    order = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)).argsort(dim=1)
    role = torch.full((3, 16), DROPPED, dtype=torch.int8)
    role.scatter_(1, order[:, :5], VISIBLE).scatter_(1, order[:, 5:11], MASKED)
    return MaskPlan(role, (4, 4))


def timms(adapter: BeitAdapter, images: Tensor) -> Tensor:
    features: Tensor = adapter.backbone.forward_features(images)  # type: ignore[operator]
    return features


def repaint(images: Tensor, where: Tensor) -> Tensor:
    """Images with wild values in the patches where `where` [B, L] is true."""
    squares = where.view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.where(squares, torch.full_like(images, 1e6), images)


def test_the_full_mode_is_timms_own_forward(beit: BeitAdapter, images: Tensor) -> None:
    assert torch.equal(beit.forward(images).final, timms(beit, images))  # the same operations


def test_a_tap_is_the_output_of_its_block(beit: BeitAdapter, images: Tensor) -> None:
    seen: list[Tensor] = []
    for block in beit.backbone.blocks:  # type: ignore[union-attr]
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    timms(beit, images)
    expected = list(seen)
    taps = beit.forward(images, taps=(0, 1, 2)).taps
    assert all(torch.equal(taps[index], expected[index]) for index in range(3))


def test_a_pass_that_is_stopped_runs_no_further_block(beit: BeitAdapter, images: Tensor) -> None:
    whole, calls = beit.forward(images, taps=(1,)), []
    for index, block in enumerate(beit.backbone.blocks):  # type: ignore[arg-type]
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = beit.forward(images, taps=(1,), stop_early=True)
    assert calls == [0, 1]
    assert features.tokens is None
    assert torch.equal(features.taps[1], whole.taps[1])


def test_the_mask_token_stands_where_patches_are_hidden(beit: BeitAdapter, images: Tensor, plan: MaskPlan) -> None:
    token = torch.randn(32, generator=torch.Generator().manual_seed(4))

    def put_token(module: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
        patches = patches.clone()
        for i, roles in enumerate(plan.role.tolist()):
            for patch, role in enumerate(roles):
                if role != VISIBLE:
                    patches[i, patch] = token
        return patches

    got = beit.forward(images, plan, mode="mask_token", mask_token=token).final
    beit.backbone.patch_embed.register_forward_hook(put_token)  # type: ignore[union-attr,operator]
    assert torch.equal(got, timms(beit, images))


def test_hidden_pixels_leave_no_trace(beit: BeitAdapter, images: Tensor, plan: MaskPlan) -> None:
    hidden, token = plan.role != VISIBLE, torch.ones(32)

    def tokens(pixels: Tensor) -> Tensor:
        return beit.forward(pixels, plan, mode="mask_token", mask_token=token).final

    assert torch.equal(tokens(images), tokens(repaint(images, hidden)))
    assert not torch.equal(tokens(images), tokens(repaint(images, ~hidden)))


def test_pooling_by_token_keeps_the_norm_of_the_final_tokens(make_model: MakeModel, images: Tensor) -> None:
    model: Any = make_model(NAME, **SHAPE, global_pool="token")
    features = adapt(model).forward(images, taps=(2,))
    tap = features.taps[2]
    expected = torch.nn.functional.layer_norm(tap, (32,), model.norm.weight, model.norm.bias, 1e-6)
    torch.testing.assert_close(features.final, expected)
    assert not torch.equal(features.final, tap)


def test_it_knows_the_models_shape(make_model: MakeModel) -> None:
    adapter = adapt(make_model(NAME, **SHAPE | {"img_size": (16, 24)}))
    assert isinstance(adapter, BeitAdapter)
    assert (adapter.size, adapter.grid, adapter.output_grid) == ((16, 24), (2, 3), (2, 3))
    assert (adapter.patch_size, adapter.stride) == ((8, 8), (8, 8))
    assert (adapter.width, adapter.width_of(0), adapter.depth, adapter.num_prefix) == (32, 32, 3, 1)


@pytest.mark.parametrize("name", ["a bias per block", "one bias for all", "both", "positions, no layer scale"])
def test_it_can_take_images_of_another_size(make_model: MakeModel, name: str) -> None:
    adapter = adapt(make_model(NAME, **SHAPE, **CASES[name]))
    resized = adapter.resize((48, 40))
    assert (resized.size, resized.grid) == ((48, 40), (6, 5))
    images = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(1))
    assert isinstance(resized, BeitAdapter)
    assert torch.equal(resized.forward(images).final, timms(resized, images))


def test_fresh_weights_are_timms_but_for_the_patch_projection(beit: BeitAdapter) -> None:
    before = {name: value.clone() for name, value in beit.backbone.state_dict().items()}
    beit.initialise()
    after = beit.backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert float(after["patch_embed.proj.weight"].std()) == pytest.approx(0.02, rel=0.05)  # of 6144 draws
    assert (after["patch_embed.proj.bias"] == 0).all()


@pytest.mark.parametrize("name", ["one bias for all", "both"])
def test_a_bias_of_each_blocks_own_computes_the_same(make_model: MakeModel, images: Tensor, name: str) -> None:
    shared = make_model(NAME, **SHAPE, **CASES[name])
    arguments, state = unshare_bias({**SHAPE, **CASES[name]}, shared.state_dict())
    own: Any = build_backbone(NAME, arguments)
    own.load_state_dict(state)
    assert own.rel_pos_bias is None
    expected: Tensor = shared.forward_features(images)  # type: ignore[operator]
    # One sum of two biases is done before the attention instead of within it.
    torch.testing.assert_close(own.eval().forward_features(images), expected, rtol=1e-5, atol=1e-5)
    tables = {own.get_parameter(f"blocks.{i}.attn.relative_position_bias_table").data_ptr() for i in range(3)}
    assert len(tables) == 3


@pytest.mark.parametrize("name", ["a bias per block", "positions, no layer scale"])
def test_weights_without_a_shared_bias_stay_as_they_are(make_model: MakeModel, name: str) -> None:
    given, before = {**SHAPE, **CASES[name]}, make_model(NAME, **SHAPE, **CASES[name]).state_dict()
    arguments, state = unshare_bias(given, before)
    assert arguments == given
    assert list(state) == list(before)
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_an_image_that_is_no_whole_number_of_patches_is_refused() -> None:
    model = build_backbone(NAME, {**SHAPE, "img_size": 33})
    with pytest.raises(ConfigError, match="images of 33x33 are no whole number of 8x8 patches"):
        adapt(model)


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_other_families_are_not_taken_for_it(name: str) -> None:
    with torch.device("meta"):
        assert not BeitAdapter.fits(build_backbone(name))
