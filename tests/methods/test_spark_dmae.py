"""SparK with a teacher: against a second implementation, what the teacher sees, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build, load_recipe
from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods.spark_dmae import SparKDMAE, SparKDMAESettings, _means, _side
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
GRID = (2, 3)
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), GRID)
NET: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 16), "patch_size": 1, "kernel_sizes": 3}

# Settings, and how many patches of the teacher lie side by side in a cell.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "one patch for each cell": ({}, 1),
    "four patches for each cell": ({"teacher": {"patch_size": 4}}, 2),
    "summed over channels": ({"sum_channels": True, "alignment_weight": 0.25}, 1),
    "the last block, without a class token": (
        {"teacher_block": 7, "teacher": {"class_token": False, "global_pool": "avg", "patch_size": 4}},
        2,
    ),
}


@pytest.mark.parametrize(("settings", "side"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    side: int,
) -> None:
    method = make_method("spark-dmae", backbone=NET, **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    plain, vit, twins = reference("spark"), reference("masked_autoencoder"), leaves(method)
    student, teacher, images = part(twins, "model."), part(twins, "teacher.model."), batch.images.double()
    colours = [
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ]
    prefix = ["cls_token"] if "cls_token" in teacher else []
    block = settings.get("teacher_block", 5)
    each, seen, taught = [], [], []
    for image, keep in zip(images, KEEPS, strict=True):
        found = plain.convnext(image, keep, GRID, student)
        each.append(found)
        seen.append(torch.stack([found[8][index // 3, index % 3] for index in keep]))
        columns = 3 * side
        patches = [p for p in range(6 * side * side) if (p // columns // side) * 3 + p % columns // side in keep]
        for_teacher = (image * colours[1] + colours[0] - colours[2]) / colours[3]
        tokens = vit.encode(for_teacher, patches, teacher, patch=8 // side, heads=4, blocks=block + 1, prefix=prefix)
        rows = dict(zip(patches, tokens[block][len(prefix) :], strict=True))
        means = []
        for cell in keep:
            own = [x for p, x in rows.items() if (p // columns // side) * 3 + p % columns // side == cell]
            assert len(own) == side * side
            means.append(sum(own) / len(own))
        taught.append(torch.stack(means))
    levels = {stride: [found[stride] for found in each] for stride in (4, 8)}
    made = plain.decode(levels, part(twins, "cells.decoder."), GRID, width=16, batch_norms=False)
    pixels = plain.cell_loss(made, images, KEEPS, GRID)
    alignment = vit.alignment_loss(
        [vit.project(x, part(twins, "project."), "linear") for x in seen],
        [x.detach() for x in taught],
        unit=True,
        distance="l1",
        sum_channels=settings.get("sum_channels", False),
    )
    weight = settings.get("alignment_weight", 1.0)
    loss = pixels + weight * alignment
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    expected = {"loss/pixels": pixels, "loss/alignment": weight * alignment, "loss/alignment_unscaled": alignment}
    for name, value in expected.items():
        torch.testing.assert_close(step.metrics[name].double(), value.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_the_teacher_sees_the_patches_of_visible_cells_and_stops_at_the_matched_block(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("spark-dmae", backbone=NET, teacher={"patch_size": 4}, teacher_block=4)
    assert method.teacher is not None
    calls: list[int] = []
    lengths: list[int] = []
    teacher: Any = method.teacher.model
    for index, block in enumerate(teacher.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    teacher.blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    teacher.norm.register_forward_hook(lambda *_: calls.append(-1))
    method(batch, rng, PLAN)
    assert calls == [0, 1, 2, 3, 4]
    assert lengths == [1 + 2 * 4]


def test_hidden_pixels_do_not_change_the_alignment(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("spark-dmae", backbone=NET, teacher={"patch_size": 4})
    hidden = PLAN.mask.view(3, 1, *GRID).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)
    clean, other = (method(Batch(images), rng, PLAN).metrics for images in (batch.images, dirty))
    assert torch.equal(clean["loss/alignment"], other["loss/alignment"])
    assert not torch.equal(clean["loss/pixels"], other["loss/pixels"])


@pytest.mark.parametrize(
    ("cells", "patches", "side"),
    [((7, 7), (14, 14), 2), ((7, 7), (16, 16), 2), ((7, 7), (7, 7), 1), ((14, 14), (7, 7), 1), ((4, 4), (14, 14), 4)],
)
def test_the_teachers_grid_is_the_nearest_multiple_of_the_cells(
    cells: tuple[int, int], patches: tuple[int, int], side: int
) -> None:
    assert _side(cells, patches) == side


def test_a_teacher_of_another_grid_is_shown_images_of_another_size(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    # 3 x 4 patches of 5 x 6 pixels are nearest to one for each of 2 x 3 cells.
    shape = {"img_size": (15, 24), "patch_size": (5, 6)}
    method = make_method("spark-dmae", backbone=NET, teacher=shape)
    assert method.teacher is not None
    assert method.teacher.adapter.grid == (2, 3)
    assert method.teacher.adapter.size == (10, 18)
    assert method(batch, rng, PLAN).loss.isfinite()


def test_the_mean_of_a_cell_is_that_of_its_patches() -> None:
    # 1 x 2 cells of 2 x 2 patches, numbered 0 1 | 2 3 / 4 5 | 6 7; the right one is visible.
    right = MaskPlan.from_keep_ids(torch.tensor([[1]]), (1, 2)).at((2, 4))
    assert right.keep_ids.tolist() == [[2, 3, 6, 7]]
    tokens = torch.tensor([[[2.0, 1.0], [3.0, 1.0], [6.0, 1.0], [7.0, 1.0]]])
    assert _means(tokens, right, (1, 2)).tolist() == [[[0.0, 0.0], [4.5, 1.0]]]


def test_random_features_are_as_far_apart_as_random_unit_vectors(make_method: MakeMethod) -> None:
    method: Any = make_method("spark-dmae", backbone=NET)
    method.project = torch.nn.Identity()
    rng = torch.Generator().manual_seed(0)
    for width in (192, 768):
        student, teacher = torch.randn(2, 64, 20, width, generator=rng)
        expected = math.sqrt(2 / math.pi) * math.sqrt(2 / width)
        assert float(method._distance(student, teacher)) == pytest.approx(expected, rel=0.01)


def test_the_teacher_gets_no_gradient_and_stays_in_eval_mode(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("spark-dmae", backbone=NET, teacher={"drop_path_rate": 0.9, "proj_drop_rate": 0.9})
    assert method.teacher is not None
    method.train()
    assert not any(m.training for m in method.teacher.modules())
    first = method(batch, rng, PLAN)
    first.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert torch.equal(method(batch, rng, PLAN).loss, first.loss)


def test_the_defaults_are_those_of_both_papers() -> None:
    assert SparKDMAESettings() == SparKDMAESettings(
        decoder_width=768, teacher_block=-1, alignment_weight=1.0, sum_channels=False
    )
    assert SparKDMAE.experimental  # no paper has this combination


def test_its_recipes_are_those_of_spark_with_a_teacher() -> None:
    for own, other in (("spark-dmae", "spark"), ("spark-dmae-small", "spark-small")):
        recipe, plain = load_recipe(own), load_recipe(other)
        for table in ("backbone", "masking", "preprocess", "augmentation"):
            assert recipe[table] == plain[table]
        same = {k: v for k, v in plain["training"].items() if k not in ("epochs", "warmup")}
        assert {k: recipe["training"][k] for k in same} == same
        method = {k: v for k, v in recipe["method"].items() if k != "name"}
        build(SparKDMAESettings, method, "method")


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("spark-dmae", backbone=NET)
    exact = method(batch, rng, PLAN).metrics
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(batch, rng, PLAN).metrics
    for name, value in found.items():
        assert value.dtype == torch.float32
        # bf16 keeps 8 bits of each of the networks' numbers.
        torch.testing.assert_close(value, exact[name], rtol=5e-2, atol=0, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment_weight": -1.0}, "alignment_weight must not be negative; got -1.0"),
        ({"teacher_block": 8}, "teacher_block 8 does not exist in the teacher"),
        ({"decoder_width": 12}, "decoder_width 12 cannot be halved 3 times"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_method("spark-dmae", backbone=NET, **settings)
    assert "\n" not in str(caught.value)


def test_a_teacher_is_needed_and_has_to_see_visible_patches_alone(make_method: MakeMethod) -> None:
    student, settings = make_method("spark", backbone=NET), SparKDMAESettings(decoder_width=16)
    with pytest.raises(ConfigError, match="'spark-dmae' learns from a teacher; give one with --teacher"):
        SparKDMAE(student.adapter, student.masking, settings)
    teacher = make_method("spark-dmae", backbone=NET).teacher
    assert teacher is not None
    teacher.adapter = student.adapter
    with pytest.raises(ConfigError, match="'spark-dmae' needs a teacher with the ability 'visible'; ConvNeXt can do"):
        SparKDMAE(student.adapter, student.masking, settings, teacher)
