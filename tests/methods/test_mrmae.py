"""MR-MAE against a second implementation, its two sets of tokens, its one look of the teacher, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.attention import AttentionMasking
from edgemim.methods._base import Batch, Method
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
STATISTICS = (IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
REGISTERS: dict[str, Any] = {"reg_tokens": 2}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "mse": {"distance": "mse", "mimic_weight": 0.25},
    "unit length": {"target_norm": "l2", "mimic_weight": 3.0},
    "raw features, raw pixels": {"target_norm": "none", "norm_pix": False},
    "several blocks": {"mimic_blocks": [0, 3, 1]},
    "another block of the teacher": {"teacher_block": 4, "mimic_blocks": [2]},
    "no class token in the teacher": {"teacher": NO_CLASS},
    "no class token in the student": {"backbone": NO_CLASS},
    "no class token in either": {"backbone": NO_CLASS, "teacher": NO_CLASS},
    "registers in the teacher": {"teacher": REGISTERS},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
) -> None:
    method = make_method("mrmae", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    assert method.teacher is not None
    pieces, own, twins = reference("masked_autoencoder"), reference("masked_teachers"), leaves(method)
    student, teacher, images = part(twins, "model."), part(twins, "teacher.model."), batch.images.double()
    prefix, taught_prefix = method.adapter.num_prefix, method.teacher.adapter.num_prefix
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix))
    pictures, mimicked, taught = [], [], []
    for image, keep in zip(images, KEEPS, strict=True):
        after = pieces.encode(image, keep, student, patch=8, heads=2, blocks=4, prefix=PREFIX[prefix])
        pictures.append(pieces.decode(after[-1], keep, part(twins, "pixels.decoder."), table, heads=4, blocks=2))
        blocks = settings.get("mimic_blocks", [])
        fused = sum(after[b] for b in blocks) if blocks else after[-1]
        mimicked.append(pieces.linear(fused[prefix:], twins, "head"))
        colours = own.other_statistics(image, *STATISTICS)
        whole = pieces.encode(colours, range(6), teacher, patch=8, heads=4, blocks=8, prefix=PREFIX[taught_prefix])
        patches = whole[settings.get("teacher_block", 7)][taught_prefix:]
        taught.append(patches[keep])
    pixels = pieces.pixel_loss(pictures, images, KEEPS, 8, settings.get("norm_pix", True))
    mimic = own.feature_loss(
        mimicked,
        taught,
        [range(2)] * 3,
        norm=settings.get("target_norm", "layer"),
        kind=settings.get("distance", "smooth-l1"),
    )
    weight = settings.get("mimic_weight", 1.0)
    loss = pixels + weight * mimic
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    expected = {"loss/pixels": pixels, "loss/mimic": weight * mimic, "loss/mimic_unscaled": mimic}
    for name, value in expected.items():
        torch.testing.assert_close(step.metrics[name].double(), value.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_mimicry_trains_no_decoder_and_reconstruction_no_mimic_head(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("mrmae", mimic_weight=0.0)
    method(batch, rng, PLAN).loss.backward()
    ours = {n: p.grad for n, p in method.named_parameters()}
    for name in ("head.weight", "head.bias"):
        grad = ours[name]
        assert grad is not None
        assert not grad.any()
    other = make_method("mrmae", mimic_weight=5.0)
    other.load_state_dict(method.state_dict())
    other(batch, rng, PLAN).loss.backward()
    theirs = {n: p.grad for n, p in other.named_parameters()}
    decoder = [n for n in theirs if n.startswith("pixels.decoder.")]
    assert decoder
    for name in decoder:
        mine, its = ours[name], theirs[name]
        assert mine is not None
        assert its is not None
        assert mine.any()
        assert torch.equal(mine, its)


def test_the_teacher_sees_the_whole_image_and_the_student_its_visible_patches(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("mrmae")
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)

    def mimic(**changed: Tensor) -> Tensor:
        return method(dataclasses.replace(batch, **changed), rng, PLAN).metrics["loss/mimic"]

    clean = mimic()
    assert torch.equal(mimic(images=dirty, plain=batch.images), clean)
    assert not torch.equal(mimic(plain=dirty), clean)


def test_one_look_of_the_teacher_guides_the_masking_and_gives_the_targets(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("mrmae", masking=AttentionMasking(mask_ratio=0.5), teacher_block=2)
    assert method.teacher is not None
    ran: list[int] = []
    teacher: Any = method.teacher.model
    for index, block in enumerate(teacher.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    guided = method(batch, rng)
    # Of the last block only the projection of its queries and keys.
    assert ran == [0, 1, 2, 3, 4, 5, 6]
    ran.clear()
    unguided = method(batch, rng, PLAN)
    assert ran == [0, 1, 2]
    assert guided.loss.isfinite()
    assert not torch.equal(guided.loss, unguided.loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mimic_weight": -1.0}, r"^method\.mimic_weight must not be negative; got -1\.0$"),
        ({"distance": "l1"}, r"^method\.distance must be one of smooth-l1, mse; got 'l1'$"),
        ({"target_norm": "batch"}, r"^method\.target_norm must be one of layer, l2, none; got 'batch'$"),
        ({"teacher_block": 8}, r"^method\.teacher_block 8 does not exist in the teacher"),
        ({"mimic_blocks": [4]}, r"^method\.mimic_blocks names blocks of the student, .* 0 to 3; got \[4\]$"),
        ({"mimic_blocks": [1, 1]}, r"^method\.mimic_blocks names blocks of the student, each once.* got \[1, 1\]$"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("mrmae", **settings)
