"""DropPos against a second implementation, what it may know of positions, and the numbers of the specification."""

from __future__ import annotations

import dataclasses
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
from edgemim.methods.droppos import DropPos, DropPosSettings, soft_places, split_visible, squared_distances
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]
KEEPS = [[0, 2, 3, 5], [1, 2, 4, 5], [0, 1, 2, 4]]
STUDENT = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "none": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_plan() -> MaskPlan:
    return MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))


def swapped(images: Tensor, one: int, other: int) -> Tensor:
    """Images in which two patches have changed places."""
    patches = patchify(images, (8, 8)).clone()
    patches[:, [one, other]] = patches[:, [other, one]]
    return unpatchify(patches, (8, 8), (16, 24))


@pytest.mark.parametrize("epoch_share", [0.25, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    shape: str,
    epoch_share: float,
) -> None:
    backbone, prefix = SHAPES[shape]
    method = make_method("droppos", backbone=backbone, drop_ratio=0.75)
    plan = a_plan()
    step = method(dataclasses.replace(batch, epoch_share=epoch_share), generator(3), plan)
    step.loss.backward()

    ids, kept = split_visible(plan, 0.75, generator(3))
    assert kept == 1
    lost = [row[kept:].tolist() for row in ids]
    plain, pieces, twins = reference("droppos"), reference("masked_autoencoder"), leaves(method)
    state = part(twins, "model.")
    first = len(prefix) + backbone.get("reg_tokens", 1) - 1 if prefix else 0
    scores, counts = [], []
    for image, keep, without in zip(batch.images.double(), KEEPS, lost, strict=True):
        scores.append(
            plain.place(
                pieces,
                image,
                keep,
                without,
                state,
                twins["position_token"][0, 0],
                part(twins, "decoder."),
                patch=8,
                heads=(2, 4),
                blocks=(4, 2),
                prefix=prefix,
            )
        )
        whole = pieces.encode(image, range(6), state, patch=8, heads=2, blocks=4, prefix=prefix)[-1]
        counts.append(plain.weights(whole.detach(), first, keep, 0.1))
    loss = plain.loss(scores, counts, (2, 3), 1 - epoch_share)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)
    torch.testing.assert_close(step.metrics["loss/positions"], step.loss.detach(), rtol=0, atol=0)
    right = [int(row.argmax()) == own for of_image in scores for own, row in of_image.items()]
    assert float(step.metrics["accuracy"]) == pytest.approx(sum(right) / len(right))


def test_a_target_is_a_normal_around_the_place_that_adds_up_to_one() -> None:
    # On a grid of 2 x 3, from the upper left corner: itself, then 1 and 2 to the right (squared: 1, 4), and below it
    # 1, 1 + 1 and 1 + 4.
    heights = [1, math.exp(-1), math.exp(-4), math.exp(-1), math.exp(-2), math.exp(-5)]
    wanted = torch.tensor([height / sum(heights) for height in heights])
    targets = soft_places(squared_distances((2, 3)), 1.0)
    torch.testing.assert_close(targets[0], wanted)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))
    # Half as wide: the exponents are four times as large.
    narrow = soft_places(squared_distances((2, 3)), 0.5)
    torch.testing.assert_close(narrow[0, 1] / narrow[0, 0], torch.tensor(math.exp(-4)))


@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e-3])
def test_a_target_of_no_width_is_the_place_alone(sigma: float) -> None:
    assert torch.equal(soft_places(squared_distances((14, 14)), sigma), torch.eye(196))


def test_the_width_falls_to_nothing_over_the_run(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("droppos")

    def loss(share: float, **settings: float) -> Tensor:
        method.settings = DropPosSettings(**settings)
        return method(dataclasses.replace(batch, epoch_share=share), generator(), a_plan()).loss

    torch.testing.assert_close(loss(0.25), loss(0.0, sigma=0.75), rtol=0, atol=0)
    torch.testing.assert_close(loss(1.0), loss(0.0, sigma=0.0), rtol=0, atol=0)
    assert loss(0.0) != loss(0.25)


def test_of_49_visible_patches_12_keep_their_positions() -> None:
    plan = RandomMasking().sample(3, (14, 14), generator(1))
    ids, kept = split_visible(plan, 0.75, generator(2))
    assert (ids.shape, kept) == ((3, 49), 12)
    assert torch.equal(ids.sort(dim=1).values, plan.keep_ids)
    assert torch.equal(ids[:, :12], ids[:, :12].sort(dim=1).values)
    assert torch.equal(ids[:, 12:], ids[:, 12:].sort(dim=1).values)


@pytest.mark.parametrize(("ratio", "kept"), [(0.9, 1), (0.05, 9), (1.0, 0), (0.75, 2)])
def test_the_share_that_loses_its_position_is_rounded_up(ratio: float, kept: int) -> None:
    plan = MaskPlan.from_keep_ids(torch.arange(10)[None], (4, 4))
    assert split_visible(plan, ratio, generator())[1] == kept


def test_every_visible_patch_loses_its_position_at_times() -> None:
    plan = MaskPlan.from_keep_ids(torch.arange(8).expand(400, -1), (4, 4))
    ids, kept = split_visible(plan, 0.75, generator())
    share = torch.zeros(16).scatter_add_(0, ids[:, kept:].flatten(), torch.ones(ids[:, kept:].numel())) / 400
    # 400 draws with probability 0.75: a deviation of 0.022.
    torch.testing.assert_close(share[:8], torch.full((8,), 0.75), rtol=0, atol=0.1)
    assert len({tuple(row.tolist()) for row in ids[:, :kept]}) == 28
    again, other = (split_visible(plan, 0.75, generator(seed))[0] for seed in (0, 1))
    assert torch.equal(ids, again)
    assert not torch.equal(ids, other)


def test_a_patch_without_its_position_is_not_found_out(make_method: MakeMethod, batch: Batch) -> None:
    method: Any = make_method("droppos").eval()
    ids = torch.tensor([[0, 3, 1, 4]]).expand(3, -1)
    scores = method.place(batch.images, ids, 2)
    assert scores.shape == (3, 2, 6)
    moved = method.place(swapped(batch.images, 1, 4), ids, 2)
    # The same sums in another order.
    torch.testing.assert_close(moved, scores.flip(1), rtol=1e-4, atol=1e-5)
    # Those that have one are: where they lie is what the others are placed by.
    assert (method.place(swapped(batch.images, 0, 3), ids, 2) - scores).abs().max() > 1e-2


def test_hidden_patches_leave_no_trace_in_the_scores(make_method: MakeMethod, batch: Batch) -> None:
    method: Any = make_method("droppos").eval()
    ids = torch.tensor([[0, 3, 1, 4]]).expand(3, -1)
    patches = patchify(batch.images, (8, 8)).clone()
    patches[:, [2, 5]] = 1e4
    dirty = unpatchify(patches, (8, 8), (16, 24))
    assert torch.equal(method.place(batch.images, ids, 2), method.place(dirty, ids, 2))


def test_the_weights_of_an_image_add_up_to_one_and_teach_nothing(make_method: MakeMethod, batch: Batch) -> None:
    method: Any = make_method("droppos")
    ids = torch.tensor(KEEPS)
    weights = method.weights(batch.images, ids)
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert weights.std() > 1e-3
    method.settings = DropPosSettings(temperature=1e6)
    torch.testing.assert_close(method.weights(batch.images, ids), torch.full((3, 4), 0.25))


def test_the_defaults_are_those_of_the_released_command() -> None:
    assert DropPosSettings() == DropPosSettings(
        decoder_width=512, decoder_depth=2, decoder_heads=16, drop_ratio=0.75, sigma=1.0, temperature=0.1
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_ratio": 0.0}, r"method\.drop_ratio must lie in \(0, 1\]; got 0\.0"),
        ({"drop_ratio": 1.1}, r"method\.drop_ratio must lie in \(0, 1\]; got 1\.1"),
        ({"sigma": -1.0}, r"method\.sigma must not be negative; got -1\.0"),
        ({"temperature": 0.0}, r"method\.temperature must be above 0; got 0\.0"),
        ({"decoder_depth": 0}, r"decoder width 512, depth 0 and heads 16 must be at least 1"),
        ({"decoder_width": 30, "decoder_heads": 4}, r"decoder width 30 is not a multiple of its 4 heads"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DropPosSettings(**settings)


def test_a_backbone_without_positions_is_refused() -> None:
    model = build_backbone("vit_tiny_patch16_224", STUDENT | {"pos_embed": "none"})
    with pytest.raises(ConfigError, match=r"this VisionTransformer has none; leave backbone\.pos_embed out"):
        DropPos(adapt(model), RandomMasking(), DropPosSettings())


def test_patches_that_show_their_surroundings_are_refused() -> None:
    model: Any = build_backbone("vit_tiny_patch16_224", STUDENT)
    model.patch_embed.proj = nn.Conv2d(3, 16, 12, stride=8, padding=2)
    with pytest.raises(ConfigError, match="gives their positions away"):
        DropPos(adapt(model), RandomMasking(), DropPosSettings())


def test_half_precision_keeps_the_loss_in_float32_and_every_gradient(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("droppos")
    exact = method(batch, generator(), a_plan()).loss
    exact.backward()
    learning = {name for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, generator(), a_plan()).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    # The pass without gradients must not leave its rounded weights to the one with them.
    loss.backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == learning
