"""Selfie against a second implementation, what candidates and places may know of each other, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods import selfie as module
from edgemim.methods._base import Batch, Method
from edgemim.methods.selfie import Selfie, SelfieSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
HIDDEN = [[1, 2, 4, 5], [0, 1, 3, 4], [0, 2, 3, 5]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}


@pytest.fixture
def selfie(make_method: MakeMethod) -> Selfie:
    method = make_method("selfie")
    assert isinstance(method, Selfie)
    return method


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("backbone", [{}, {"reg_tokens": 2}, NO_CLASS], ids=["class", "registers", "none"])
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    backbone: dict[str, Any],
    depth: int,
) -> None:
    method = make_method("selfie", backbone=backbone, pooling_depth=depth)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    pieces, own, twins = reference("masked_autoencoder"), reference("selfie"), leaves(method)
    state, prefix = part(twins, "model."), PREFIX[method.adapter.num_prefix]
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 0))
    rows = []
    for image, keep, hidden in zip(batch.images.double(), KEEPS, HIDDEN, strict=True):
        shape = {"heads": 2, "blocks": 4, "prefix": prefix}
        seen = pieces.encode(image, keep, state, patch=8, **shape)[-1]
        summary = own.summarise(pieces, seen, twins, heads=2, blocks=depth)
        squares = pieces.patches_of(image, 8, "chw")
        candidates = [own.alone(pieces, squares[i], state, **shape) for i in hidden]
        rows.append(own.scores(pieces, summary, hidden, candidates, table, twins))
    loss = own.matching_loss(rows)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/matching"], step.loss.detach(), rtol=0, atol=0)
    assert_same_gradients(method, twins)


def test_identical_patches_cannot_be_told_apart(selfie: Selfie, batch: Batch, rng: torch.Generator) -> None:
    images = batch.images[:, :, :8, :8].repeat(1, 1, 2, 3)
    # Equal candidates have equal scores, and the softmax is uniform: log 4. float32.
    torch.testing.assert_close(selfie(Batch(images), rng, PLAN).loss, torch.tensor(math.log(4)), rtol=1e-6, atol=1e-6)


def test_patches_that_change_places_take_their_scores_along(selfie: Selfie, batch: Batch) -> None:
    images = batch.images.clone()  # of the first image, patches 1 and 5 change places: candidates 0 and 3
    images[0, :, :8, 8:16], images[0, :, 8:, 16:] = batch.images[0, :, 8:, 16:], batch.images[0, :, :8, 8:16]
    before, after = selfie.scores(batch.images, PLAN), selfie.scores(images, PLAN)
    assert not torch.equal(before[0, :, 0], before[0, :, 3])
    # float32: a candidate's place in a batch decides how its sums are taken.
    torch.testing.assert_close(after[0], before[0][:, [3, 1, 2, 0]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=0)


def test_what_is_seen_decides_which_candidate_goes_where(selfie: Selfie, batch: Batch) -> None:
    """Were summary and place only added, another summary would raise a candidate's score alike at all places."""
    images = batch.images.clone()
    images[0, :, :8, :8] += 1  # patch 0 of the first image, which is visible
    change = (selfie.scores(images, PLAN) - selfie.scores(batch.images, PLAN))[0]
    uneven = change - change.mean(dim=0) - (change - change.mean(dim=0)).mean(dim=1, keepdim=True)
    assert uneven.abs().max() > 1e-2 * change.abs().max()
    assert uneven.abs().max() > 1e-4


def test_hidden_pixels_do_not_reach_what_is_looked_for(selfie: Selfie, batch: Batch) -> None:
    images = batch.images.clone()
    images[0, :, :8, 8:16] += 1  # patch 1 of the first image, its candidate 0
    before, after = selfie.scores(batch.images, PLAN), selfie.scores(images, PLAN)
    assert torch.equal(after[0, :, 1:], before[0, :, 1:])
    assert not torch.equal(after[0, :, 0], before[0, :, 0])


@pytest.mark.parametrize("at_a_time", [1, 5, 12])
def test_candidates_that_are_encoded_in_parts_are_the_same(
    selfie: Selfie, batch: Batch, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    whole = selfie(batch, rng, PLAN).loss
    whole.backward()
    expected = {name: p.grad for name, p in selfie.named_parameters() if p.grad is not None}
    selfie.zero_grad()
    sizes: list[int] = []
    selfie.backbone.get_submodule("blocks.0").register_forward_hook(lambda *call: sizes.append(len(call[-1])))
    monkeypatch.setattr(module, "_SEQUENCES", at_a_time)
    loss = selfie(batch, rng, PLAN).loss
    loss.backward()
    assert sizes[1:] == {1: 12 * [1], 5: [5, 5, 2], 12: [12]}[at_a_time]  # before them, three images as a whole
    # float32: how many sequences there are decides how sums are taken.
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    for name, p in selfie.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_half_precision_keeps_the_loss_in_float32(selfie: Selfie, batch: Batch, rng: torch.Generator) -> None:
    exact = selfie(batch, rng, PLAN).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert selfie.scores(batch.images, PLAN).dtype == torch.float32
        loss = selfie(batch, rng, PLAN).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)


def test_the_pooling_has_three_blocks_by_default() -> None:
    assert SelfieSettings() == SelfieSettings(pooling_depth=3)


def test_a_pooling_without_blocks_is_refused(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError, match=r"^method\.pooling_depth must be at least 1; got 0$"):
        make_method("selfie", pooling_depth=0)


def test_a_backbone_that_takes_no_single_patch_is_refused() -> None:
    arguments = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    adapter = adapt(build_backbone("beit_base_patch16_224", arguments))
    with pytest.raises(ConfigError, match=r"^method 'selfie' needs a backbone with the ability 'visible'; Beit can do"):
        Selfie(adapter, RandomMasking(), SelfieSettings())
