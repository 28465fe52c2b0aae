"""MP3 against a second implementation, and that nothing tells it where a patch comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods._pixels import patchify, unpatchify
from edgemim.methods.mp3 import MP3, MP3Settings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import DROPPED, MASKED, VISIBLE, MaskPlan

MakeMethod = Callable[..., Method]
V, M, D = VISIBLE, MASKED, DROPPED
ROLES = [[V, M, M, D, V, M], [M, V, D, M, M, V], [V, V, M, M, D, M]]
SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "none": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
}


def plan_of(roles: list[list[int]]) -> MaskPlan:
    return MaskPlan(torch.tensor(roles, dtype=torch.int8), (2, 3))


def rearranged(images: Tensor, source: list[int]) -> Tensor:
    """Images whose patch i is what patch `source[i]` was."""
    return unpatchify(patchify(images, (8, 8))[:, source], (8, 8), (16, 24))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    shape: str,
    smoothing: float,
) -> None:
    backbone, prefix = SHAPES[shape]
    method = make_method("mp3", backbone=backbone, label_smoothing=smoothing)
    step = method(batch, rng, plan_of(ROLES))
    step.loss.backward()

    plain, pieces, twins = reference("mp3"), reference("masked_autoencoder"), leaves(method)
    asked = [[i for i, role in enumerate(roles) if role != DROPPED] for roles in ROLES]
    scores = [
        plain.place(
            pieces,
            image,
            [i for i, role in enumerate(roles) if role == VISIBLE],
            ids,
            part(twins, "model."),
            part(twins, "head."),
            patch=8,
            heads=2,
            blocks=4,
            prefix=prefix,
        )
        for image, roles, ids in zip(batch.images.double(), ROLES, asked, strict=True)
    ]
    loss = plain.loss(scores, asked, smoothing)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)
    torch.testing.assert_close(step.metrics["loss/positions"], step.loss.detach(), rtol=0, atol=0)
    pairs = [(row, own) for rows, ids in zip(scores, asked, strict=True) for row, own in zip(rows, ids, strict=True)]
    right = [int(row.argmax()) == own for row, own in pairs]
    assert float(step.metrics["accuracy"]) == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("shape", SHAPES)
def test_patches_that_change_places_are_not_found_out(make_method: MakeMethod, batch: Batch, shape: str) -> None:
    # Context and others keep their order among themselves, so the same numbers are added in the same order, and the
    # slightest trace of a position would show.
    method: Any = make_method("mp3", backbone=SHAPES[shape][0]).eval()
    before = plan_of([[V, M, M, V, M, M]] * 3)
    after, source = plan_of([[M, V, M, M, V, M]] * 3), [1, 0, 2, 4, 3, 5]
    scores, ids = method.place(batch.images, before)
    moved, new_ids = method.place(rearranged(batch.images, source), after)
    assert ids[0].tolist() == [0, 3, 1, 2, 4, 5]
    assert new_ids[0].tolist() == [1, 4, 0, 2, 3, 5]
    assert torch.equal(scores, moved)


@pytest.mark.parametrize("source", [[5, 4, 3, 2, 1, 0], [2, 0, 1, 5, 3, 4], [3, 1, 5, 0, 4, 2]])
def test_patches_in_any_order_get_the_same_scores(make_method: MakeMethod, batch: Batch, source: list[int]) -> None:
    method: Any = make_method("mp3").eval()
    roles = [[V, M, M, V, M, M], [M, M, V, V, M, M], [V, V, M, M, M, M]]
    scores, ids = method.place(batch.images, plan_of(roles))
    moved, new_ids = method.place(
        rearranged(batch.images, source), plan_of([[row[i] for i in source] for row in roles])
    )
    for image in range(3):
        by_id = dict(zip(ids[image].tolist(), scores[image], strict=True))
        for own, row in zip(new_ids[image].tolist(), moved[image], strict=True):
            # The same sums in another order.
            torch.testing.assert_close(row, by_id[source[own]], rtol=1e-4, atol=1e-5)


def test_identical_patches_are_placed_no_better_than_by_chance(make_method: MakeMethod, rng: torch.Generator) -> None:
    method: Any = make_method("mp3").eval()
    images = torch.randn(1, 3, 8, 8, generator=rng).repeat(3, 1, 2, 3)
    plan = plan_of([[V, M, M, V, M, M]] * 3)
    scores, _ = method.place(images, plan)
    # Rows of a matrix product may be rounded differently.
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores), rtol=1e-4, atol=1e-5)
    # Of all answers that are the same for six patches, the one that holds all places for alike is the best.
    assert float(method(Batch(images), rng, plan).loss.detach()) > math.log(6)
    nn.init.zeros_(method.head.weight)
    nn.init.zeros_(method.head.bias)
    assert float(method(Batch(images), rng, plan).loss.detach()) == pytest.approx(math.log(6), rel=1e-6)


def test_what_is_not_in_the_context_is_seen_by_nobody_else(make_method: MakeMethod, batch: Batch) -> None:
    method: Any = make_method("mp3").eval()
    plan = plan_of([[V, M, M, V, M, M]] * 3)
    scores, ids = method.place(batch.images, plan)

    def changed_by(patch: int) -> list[int]:
        """Patches whose scores change with the pixels of one."""
        pixels = patchify(batch.images, (8, 8)).clone()
        pixels[:, patch] += 1
        other, _ = method.place(unpatchify(pixels, (8, 8), (16, 24)), plan)
        pairs = zip(ids[0].tolist(), scores[0], other[0], strict=True)
        return sorted(i for i, before, after in pairs if not torch.equal(before, after))

    assert changed_by(1) == [1]
    assert changed_by(5) == [5]
    assert changed_by(0) == changed_by(3) == [0, 1, 2, 3, 4, 5]


def test_the_table_of_positions_is_not_used_and_ships_as_it_was(
    make_method: MakeMethod, reference: Callable[[str], ModuleType], batch: Batch, rng: torch.Generator
) -> None:
    method: Any = make_method("mp3").eval()
    method.adapter.initialise()
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix=1)).float()
    plan = plan_of(ROLES)
    step = method(batch, rng, plan)
    step.loss.backward()
    assert method.model.pos_embed.grad is None
    torch.testing.assert_close(method.model.pos_embed[0], table)
    with torch.no_grad():
        method.model.pos_embed[:, 1:].add_(1)
    assert torch.equal(method(batch, rng, plan).loss, step.loss)


def test_the_accuracy_is_the_share_of_patches_in_the_right_place(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    # Every patch is taken for the second: right for one of six, and where that one is dropped for none.
    method: Any = make_method("mp3")
    nn.init.zeros_(method.head.weight)
    with torch.no_grad():
        method.head.bias.copy_(torch.tensor([0.0, 1, 0, 0, 0, 0]))
    accuracy = method(batch, rng, plan_of([[V, M, M, V, M, M]] * 3)).metrics["accuracy"]
    assert float(accuracy) == pytest.approx(1 / 6)
    assert float(method(batch, rng, plan_of([[V, D, M, V, M, M]] * 3)).metrics["accuracy"]) == 0


def test_the_defaults_are_those_of_the_specification() -> None:
    assert MP3Settings() == MP3Settings(label_smoothing=0.0)
    assert RandomMasking().mask_ratio == 0.75


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=rf"method\.label_smoothing must lie in \[0, 1\); got {smoothing}"):
        MP3Settings(label_smoothing=smoothing)


@pytest.mark.parametrize(
    "projection",
    [nn.Conv2d(3, 16, 12, stride=8, padding=2), nn.Conv2d(3, 16, 10, stride=8, padding=1, padding_mode="circular")],
    ids=["padded", "overlapping"],
)
def test_patches_that_show_their_surroundings_are_refused(projection: nn.Conv2d) -> None:
    model: Any = build_backbone(
        "vit_tiny_patch16_224", {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    )
    model.patch_embed.proj = projection
    with pytest.raises(ConfigError, match="which gives their positions away") as caught:
        MP3(adapt(model), RandomMasking(), MP3Settings())
    assert "\n" not in str(caught.value)


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("mp3")
    exact = method(batch, rng, plan_of(ROLES)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, plan_of(ROLES)).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
