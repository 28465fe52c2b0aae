"""Normalised targets: by hand, what they take away from a teacher's features, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._normalise import NORMS, check_norm, normalise_tokens


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_worked_examples() -> None:
    token = torch.tensor([[[1.0, 3.0, 1.0, 3.0]]])
    # Mean 2, biased variance 1, and 1e-5 beside it.
    expected = torch.tensor([[[-1.0, 1.0, -1.0, 1.0]]]) / 1.00001**0.5
    torch.testing.assert_close(normalise_tokens(token, "layer"), expected, rtol=1e-6, atol=0)
    token = torch.tensor([[[3.0, 0.0, 4.0, 0.0]]])
    torch.testing.assert_close(normalise_tokens(token, "l2"), token / 5, rtol=1e-6, atol=0)
    assert torch.equal(normalise_tokens(token, "none"), token)


def test_layer_gives_each_token_mean_0_and_biased_variance_1(tokens: Tensor) -> None:
    found = normalise_tokens(tokens, "layer")
    # Sums of 24 roundings of 6e-8; the epsilon takes about 1e-5 / 9 from the variance.
    torch.testing.assert_close(found.mean(dim=-1), torch.zeros(2, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.var(dim=-1, correction=0), torch.ones(2, 5), rtol=0, atol=1e-5)


def test_l2_gives_each_token_unit_length(tokens: Tensor) -> None:
    torch.testing.assert_close(normalise_tokens(tokens, "l2").norm(dim=-1), torch.ones(2, 5), rtol=1e-6, atol=0)


def test_the_scale_of_a_teacher_is_forgotten_and_by_layer_its_offset_too(tokens: Tensor) -> None:
    # The epsilon is 1e-5 beside a variance of about 9.
    for kind in ("layer", "l2"):
        found = normalise_tokens(tokens * 100, kind)
        torch.testing.assert_close(found, normalise_tokens(tokens, kind), rtol=1e-5, atol=1e-6)
    found = normalise_tokens(tokens + 7, "layer")
    torch.testing.assert_close(found, normalise_tokens(tokens, "layer"), rtol=1e-5, atol=1e-5)


def test_a_giant_channel_cannot_be_the_whole_loss(tokens: Tensor) -> None:
    tokens[..., 3] = 1e4
    found = normalise_tokens(tokens, "layer")
    # One of C numbers with mean 0 and mean square 1 is at most sqrt(C - 1).
    assert float(found.abs().max()) <= 23**0.5 + 1e-4
    assert float(normalise_tokens(tokens, "l2").abs().max()) <= 1


@pytest.mark.parametrize("kind", NORMS)
def test_targets_are_float32_also_of_half_precision_and_under_autocast(tokens: Tensor, kind: str) -> None:
    halved = tokens.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = normalise_tokens(halved, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, normalise_tokens(halved.float(), kind))


def test_an_unknown_norm_is_refused_with_those_that_are_known() -> None:
    for kind in NORMS:
        check_norm(kind)
    with pytest.raises(ConfigError, match=r"^method\.target_norm must be one of layer, l2, none; got 'batch'$"):
        check_norm("batch")
