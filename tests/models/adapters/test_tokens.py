"""The parts in which a plain ViT can be run: they are the whole, and another attention can be put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import QKV, TokenAdapter
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan, gather_tokens

MakeModel = Callable[..., nn.Module]

# Everything between the embedding and the last norm that timm's plain ViTs vary.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 2},
    "no class token": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "no position of the prefix": {"no_embed_class": True, "reg_tokens": 2},
    "no positions": {"pos_embed": "none"},
    "layer scale": {"init_values": 0.1},
    "norms of queries and keys": {"qk_norm": True},
    "norms inside the branches": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "a norm in front": {"pre_norm": True},
    "no bias": {"qkv_bias": False},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def make(make_model: MakeModel) -> Callable[[str], TokenAdapter]:
    """`make("layer scale")`: an adapter in eval mode, with random weights."""

    def of(kind: str, **arguments: Any) -> TokenAdapter:
        adapter = adapt(make_model(**KINDS[kind], **arguments))
        assert isinstance(adapter, TokenAdapter)
        assert "tokens" in adapter.abilities
        return adapter

    return of


@pytest.fixture
def plan() -> MaskPlan:
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    return MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :5], (4, 4))


def plain_attention(block: int, qkv: QKV) -> Tensor:
    return F.scaled_dot_product_attention(qkv.queries, qkv.keys, qkv.values)


def tokens_of(adapter: TokenAdapter, images: Tensor, ids: Tensor | None = None) -> Tensor:
    """What goes into the first block, of all patches or of some."""
    patches, positions = adapter.embed(images, ids), adapter.positions(ids)
    return adapter.with_prefix(patches if positions is None else patches + positions)


@each_kind
def test_the_parts_are_the_whole(make: Callable[..., TokenAdapter], images: Tensor, kind: str) -> None:
    adapter = make(kind)
    whole = adapter.forward(images, taps=(0, 1), qkv=(1,))
    parts = adapter.run(tokens_of(adapter, images), taps=(0, 1), qkv=(1,))
    assert torch.equal(parts.final, whole.final)
    assert all(torch.equal(parts.taps[block], whole.taps[block]) for block in (0, 1))
    assert torch.equal(parts.qkv[1].values, whole.qkv[1].values)


@each_kind
def test_the_parts_of_visible_patches_are_the_visible_mode(
    make: Callable[..., TokenAdapter], images: Tensor, plan: MaskPlan, kind: str
) -> None:
    adapter = make(kind)
    whole = adapter.forward(images, plan, mode="visible").final
    assert torch.equal(adapter.run(tokens_of(adapter, images, plan.keep_ids)).final, whole)


@each_kind
def test_the_usual_attention_in_place_of_the_own_changes_nothing(
    make: Callable[..., TokenAdapter], images: Tensor, plan: MaskPlan, kind: str
) -> None:
    adapter = make(kind)
    for ids in (None, plan.keep_ids):
        tokens = tokens_of(adapter, images, ids)
        own = adapter.run(tokens, taps=(0, 1), qkv=(0, 1))
        put = adapter.run(tokens, taps=(0, 1), qkv=(0, 1), attend=plain_attention)
        assert torch.equal(put.final, own.final)
        assert sorted(put.taps) == sorted(put.qkv) == [0, 1]
        for block in (0, 1):
            assert torch.equal(put.taps[block], own.taps[block])
            for part in ("queries", "keys", "values"):
                assert torch.equal(getattr(put.qkv[block], part), getattr(own.qkv[block], part))


def test_gradients_go_through_an_attention_that_was_put_in(make: Callable[..., TokenAdapter], images: Tensor) -> None:
    adapter = make("layer scale")
    gradients = []
    for attend in (None, plain_attention):
        adapter.backbone.zero_grad()
        adapter.run(tokens_of(adapter, images), attend=attend).final.square().mean().backward()
        gradients.append({name: p.grad for name, p in adapter.backbone.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 20
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_whole_branches_are_left_out_as_the_blocks_do(make_model: MakeModel, images: Tensor) -> None:
    adapter = adapt(make_model(drop_path_rate=0.5, init_values=0.1).train())
    assert isinstance(adapter, TokenAdapter)
    tokens = tokens_of(adapter, images)
    found = []
    for attend in (None, plain_attention):
        torch.manual_seed(2)
        found.append(adapter.run(tokens, attend=attend).final)
    assert torch.equal(*found)
    torch.manual_seed(3)
    assert not torch.equal(adapter.run(tokens, attend=plain_attention).final, found[0])


def test_the_attention_is_told_which_block_asks_and_its_answer_is_taken(
    make: Callable[..., TokenAdapter], images: Tensor
) -> None:
    adapter = make("plain")
    tokens = tokens_of(adapter, images)
    asked: list[int] = []

    def silent(block: int, qkv: QKV) -> Tensor:
        asked.append(block)
        assert qkv.queries.shape == (3, 2, 17, 16)
        return torch.zeros_like(qkv.queries)

    # Without an answer, what is left of the attention is the bias of its projection.
    first: Any = adapter.backbone.blocks[0]  # type: ignore[index]
    x = tokens + first.attn.proj.bias
    wanted = x + first.mlp(first.norm2(x))
    torch.testing.assert_close(adapter.run(tokens, taps=(0,), attend=silent).taps[0], wanted, rtol=1e-5, atol=1e-6)
    assert asked == [0, 1]


def test_a_pass_with_an_attention_stops_where_it_is_asked_to(make: Callable[..., TokenAdapter], images: Tensor) -> None:
    adapter = make("plain")
    features = adapter.run(tokens_of(adapter, images), taps=(0,), stop_early=True, attend=plain_attention)
    assert features.tokens is None
    assert list(features.taps) == [0]


@each_kind
def test_patches_and_positions_can_be_had_one_by_one(
    make: Callable[..., TokenAdapter], images: Tensor, kind: str
) -> None:
    adapter, ids = make(kind), torch.tensor([[3, 1], [0, 15], [7, 7]])
    # The same products, gathered before or after they are taken.
    torch.testing.assert_close(
        adapter.embed(images, ids), gather_tokens(adapter.embed(images), ids), rtol=1e-5, atol=1e-5
    )
    table = adapter.positions()
    if table is None:
        assert adapter.positions(ids) is None
        return
    assert table.shape == (1, 16, 32)
    assert torch.equal(adapter.positions(ids), table[0][ids])


@each_kind
def test_the_prefix_stands_in_front_of_as_many_patches_as_there_are(
    make: Callable[..., TokenAdapter], kind: str
) -> None:
    adapter = make(kind)
    patches = torch.randn(2, 3, 32)
    tokens = adapter.with_prefix(patches)
    assert tokens.shape == (2, adapter.num_prefix + 3, 32)
    assert torch.equal(tokens[:1, : adapter.num_prefix], tokens[1:, : adapter.num_prefix])
    if kind != "a norm in front":
        assert torch.equal(tokens[:, adapter.num_prefix :], patches)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_base_patch16_rpn_224", {}),  # norms after the branches
        ("vit_base_patch16_xp_224", {}),  # attention and MLP side by side
        ("vit_tiny_patch16_224", {"attn_layer": "diff"}),  # differences of two attentions
    ],
)
def test_other_blocks_cannot_be_given_another_attention(
    make_model: MakeModel, name: str, arguments: dict[str, Any]
) -> None:
    adapter = adapt(make_model(name, **arguments))
    assert "full" in adapter.abilities
    assert "tokens" not in adapter.abilities


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10t", {}),
        ("beit_base_patch16_224", {"embed_dim": 32, "depth": 1, "num_heads": 2}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}),
    ],
)
def test_other_families_are_not_run_in_parts(name: str, arguments: dict[str, Any]) -> None:
    adapter = adapt(build_backbone(name, arguments))
    assert "tokens" not in adapter.abilities
    assert not isinstance(adapter, TokenAdapter)
