"""MixedAE against a second implementation; how the places are shared out is tested with the masking."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.mixture import MixtureMasking
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.mixedae import MixedAE, MixedAESettings
from edgemim.models.adapters.base import QKV
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]
GRID = (2, 3)
KEEPS = [[0, 4], [2, 5], [1, 3]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), GRID)
PREFIXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "none": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
}


def doubled(batch: Batch) -> Batch:
    """Two groups of three images."""
    assert batch.second is not None
    return Batch(torch.cat([batch.images, batch.second.images]))


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize(("shape", "prefix"), PREFIXES.values(), ids=PREFIXES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    shape: dict[str, Any],
    prefix: list[str],
    first: int,
) -> None:
    method = make_method("mixedae", backbone=shape, first_restricted=first)
    keeps = [*KEEPS, *reversed(KEEPS)]
    both = doubled(batch)
    step = method(both, rng, MaskPlan.from_keep_ids(torch.tensor(keeps), GRID))
    step.loss.backward()

    pieces, plain, twins = reference("masked_autoencoder"), reference("mixedae"), leaves(method)
    images = both.images.double()
    before = 3 if shape.get("reg_tokens") else len(prefix)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, before))
    predictions, recognitions = [], []
    for group in (slice(0, 3), slice(3, 6)):
        common, own = plain.encode(
            pieces,
            images[group],
            keeps[group],
            twins["segments"][:, 0],
            part(twins, "model."),
            patch=8,
            heads=2,
            blocks=4,
            first_restricted=first,
            prefix=prefix,
        )
        decoder = part(twins, "pixels.decoder.")
        for tokens, keep in zip(own, keeps[group], strict=True):
            predictions.append(pieces.decode(torch.cat([common, tokens]), keep, decoder, table, heads=4, blocks=2))
        recognitions.append(plain.recognition(pieces, own, part(twins, "contrast_head."), 0.25))
    pixels = pieces.pixel_loss(predictions, images, keeps, 8, True)
    contrastive = (recognitions[0] + recognitions[1]) / 2
    loss = pixels + 0.1 * contrastive
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    for name, term in (("pixels", pixels), ("contrastive_unscaled", contrastive)):
        torch.testing.assert_close(step.metrics[f"loss/{name}"].double(), term.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_a_collage_is_one_sequence_of_as_many_tokens_as_an_image_has(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("mixedae")
    seen: list[torch.Size] = []
    first = method.backbone.blocks[0].norm1  # type: ignore[index,union-attr]
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))  # type: ignore[union-attr]
    method(doubled(batch), rng)
    assert seen == [(2, 1 + 6, 16)]


def test_restricted_queries_see_their_best_keys_alone(make_method: MakeMethod) -> None:
    # Scores are the keys' own numbers; of 7 keys each query sees the best 3: 2 places of its image and the prefix.
    method = make_method("mixedae")
    assert isinstance(method, MixedAE)
    keys = torch.tensor([0.3, 2.0, -1.0, 0.1, 1.5, 0.2, 0.7]).view(1, 1, 7, 1)
    values = torch.eye(7).view(1, 1, 7, 7)
    qkv = QKV(torch.ones(1, 1, 7, 1), keys, values)
    weights = torch.tensor([2.0, 1.5, 0.7]).softmax(dim=0)
    restricted = method._attend(1, qkv)[0, 0]
    assert restricted.shape == (7, 7)
    for row in restricted:
        # One softmax of three numbers, in float32.
        torch.testing.assert_close(row[[1, 4, 6]], weights, rtol=1e-6, atol=0)
        assert row[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    assert (method._attend(0, qkv) > 0).all()


def test_the_other_images_of_a_group_matter_and_those_of_other_groups_do_not(
    make_method: MakeMethod, batch: Batch
) -> None:
    method, both = make_method("mixedae").eval(), doubled(batch)
    plan = MaskPlan.from_keep_ids(torch.tensor([*KEEPS, *KEEPS]), GRID)
    changed = both.images.clone()
    changed[1] += 1  # of the first group
    with torch.no_grad():
        clean, dirty = method.reconstruct(both, plan), method.reconstruct(Batch(changed), plan)
    assert clean is not None
    assert dirty is not None
    assert torch.equal(clean[3:], dirty[3:])
    assert not torch.equal(clean[0], dirty[0])


def test_pixels_that_no_image_of_a_group_shows_change_no_token(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("mixedae").eval()
    hidden = PLAN.mask.view(3, 1, *GRID).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e5), batch.images)
    with torch.no_grad():
        assert torch.equal(method._encode(batch.images, PLAN), method._encode(dirty, PLAN))


def test_a_picture_needs_whole_groups_that_share_the_places_out(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("mixedae").eval()
    shown = method.reconstruct(batch, PLAN)
    assert shown is not None
    assert shown.shape == batch.images.shape
    overlapping = MaskPlan.from_keep_ids(torch.tensor([[0, 4], [2, 4], [1, 3]]), GRID)
    few = MaskPlan.from_keep_ids(torch.tensor(KEEPS[:2]), GRID)
    more = MaskPlan.from_keep_ids(torch.tensor([[0, 1, 2]] * 3), GRID)
    assert method.reconstruct(batch, overlapping) is None
    assert method.reconstruct(Batch(batch.images[:2]), few) is None
    assert method.reconstruct(batch, more) is None


def test_its_masking_says_how_many_images_belong_together(make_method: MakeMethod) -> None:
    assert make_method("mixedae").group == 3
    assert make_method("mixedae", masking=MixtureMasking(images=2)).group == 2


def test_the_defaults_are_what_is_believed_to_be_the_papers() -> None:
    assert MixedAESettings() == MixedAESettings(
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        norm_pix=True,
        first_restricted=1,
        contrast_weight=0.1,
        temperature=0.25,
    )
    assert MixtureMasking().images == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first_restricted": -1}, "method.first_restricted must not be negative; got -1"),
        ({"contrast_weight": -0.1}, "method.contrast_weight must not be negative; got -0.1"),
        ({"temperature": 0.0}, "method.temperature must be above 0; got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MixedAESettings(**settings)
    assert str(error.value) == message


def test_one_place_per_image_leaves_nothing_to_recognise(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError) as error:
        make_method("mixedae", masking=MixtureMasking(images=6))
    assert str(error.value) == (
        "a mixture of 6 images leaves each 1 of 6 places, and the contrastive term compares at least 2; "
        "set a smaller masking.images"
    )


def test_another_masking_is_refused(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError, match=r"works with one masking only; set masking\.name=mixture"):
        make_method("mixedae", masking=RandomMasking(mask_ratio=0.5))


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("mixedae")
    exact = method(batch, rng, PLAN).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, PLAN).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers, and may let another key be among the best.
    torch.testing.assert_close(loss, exact, rtol=5e-2, atol=0)
