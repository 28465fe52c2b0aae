"""What the relation methods share: products of tokens, heads cut anew, prefix tokens left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from edgemim.methods._relations import comparable, relation
from edgemim.models.adapters.base import QKV, BackboneAdapter


def with_prefix(tokens: int) -> BackboneAdapter:
    return cast(BackboneAdapter, SimpleNamespace(num_prefix=tokens))


@pytest.fixture
def joint() -> Tensor:
    """Of a projection: [B, N, 3, heads, d]."""
    return torch.randn(2, 7, 3, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def qkv(joint: Tensor) -> QKV:
    return QKV(*joint.permute(2, 0, 3, 1, 4).unbind(0))


def test_a_relation_worked_by_hand() -> None:
    rows = torch.tensor([[[[1.0, 2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 4.0]]]])
    columns = torch.tensor([[[[3.0, 1.0, 5.0, 0.0], [0.0, 0.0, 7.0, 1.0]]]])
    # (3 + 2) / 2, 2 / 2;  0, 4 / 2: the root of 4 channels is 2.
    assert relation(rows, columns).tolist() == [[[[2.5, 1.0], [0.0, 2.0]]]]


def test_a_relation_of_halves_is_that_of_the_same_numbers_in_float32(qkv: QKV) -> None:
    queries, keys = qkv.queries.bfloat16(), qkv.keys.bfloat16()
    exact = relation(queries.float(), keys.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relation(queries, keys)
        assert torch.equal(relation(queries.float(), keys.float()), exact)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 24])
def test_heads_cut_anew_are_the_channels_side_by_side_in_equal_parts(qkv: QKV, joint: Tensor, heads: int) -> None:
    cut = comparable(qkv, with_prefix(1), with_prefix(1), heads=heads)
    size = 24 // heads
    for part, found in enumerate((cut.queries, cut.keys, cut.values)):
        assert found.shape == (2, heads, 7, size)
        for head in range(heads):
            channels = joint[:, :, part].flatten(2)[..., head * size : (head + 1) * size]
            assert torch.equal(found[:, head], channels)


def test_nothing_is_copied(qkv: QKV) -> None:
    cut = comparable(qkv, with_prefix(1), with_prefix(0), heads=8)
    assert cut.keys.untyped_storage().data_ptr() == qkv.keys.untyped_storage().data_ptr()


def test_as_many_heads_as_before_are_the_same_heads(qkv: QKV) -> None:
    cut = comparable(qkv, with_prefix(1), with_prefix(1), heads=4)
    assert torch.equal(cut.values, qkv.values)


@pytest.mark.parametrize(("own", "other", "left"), [(1, 1, 7), (1, 0, 6), (5, 1, 2), (0, 3, 7), (2, 2, 7)])
@pytest.mark.parametrize("heads", [0, 2])
def test_prefix_tokens_are_left_out_unless_both_have_equally_many(
    qkv: QKV, own: int, other: int, left: int, heads: int
) -> None:
    found = comparable(qkv, with_prefix(own), with_prefix(other), heads=heads)
    assert found.keys.shape[2] == left
    kept = comparable(qkv, with_prefix(0), with_prefix(0), heads=heads)
    assert torch.equal(found.keys, kept.keys[:, :, 7 - left :])


def test_the_order_of_heads_matters(qkv: QKV) -> None:
    from edgemim.losses.kl import kl

    wanted = relation(qkv.queries, qkv.keys)
    assert kl(student=wanted, teacher=wanted) == 0
    assert kl(student=wanted.flip(1), teacher=wanted) > 0.01


def test_a_token_relates_to_itself_as_to_its_equal(qkv: QKV) -> None:
    values: Any = qkv.values.clone()
    values[:, :, 3] = values[:, :, 5]
    found = relation(values, values)
    torch.testing.assert_close(found[..., 3], found[..., 5])
    torch.testing.assert_close(found, found.transpose(-2, -1))
