"""MaskDistill against a second implementation for three families of students, what it sees, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.config import build
from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.masking.block import BlockMasking
from edgemim.masking.cells import CellMasking
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.maskdistill import MaskDistill, MaskDistillSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeMethod = Callable[..., Method]
MakeTeacher = Callable[..., Teacher]
KEEPS = [[0, 3], [2, 5], [1, 4]]
HIDDEN = [[1, 2, 4, 5], [0, 1, 3, 4], [0, 2, 3, 5]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
STATISTICS = (IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
REGISTERS: dict[str, Any] = {"reg_tokens": 2}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "beta 0.5": {"beta": 0.5},
    "beta 2": {"beta": 2.0},
    "unit length": {"target_norm": "l2"},
    "raw features": {"target_norm": "none"},
    "another block": {"teacher_block": 3},
    "no class token in the teacher": {"teacher": NO_CLASS},
    "no class token in the student": {"backbone": NO_CLASS},
    "no class token in either": {"backbone": NO_CLASS, "teacher": NO_CLASS},
    "registers in the teacher": {"teacher": REGISTERS},
    "visible patches": {"input": "visible"},
    "visible patches, no class token": {"input": "visible", "backbone": NO_CLASS, "beta": 2.0, "teacher_block": 5},
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
    method = make_method("maskdistill", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    pieces, own, twins = reference("masked_autoencoder"), reference("masked_teachers"), leaves(method)
    student, images = part(twins, "model."), batch.images.double()
    prefix = method.adapter.num_prefix
    predictions = []
    for image, keep, hidden in zip(images, KEEPS, HIDDEN, strict=True):
        shape = {"patch": 8, "heads": 2, "blocks": 4, "prefix": PREFIX[prefix]}
        if settings.get("input") == "visible":
            table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, prefix))
            seen = pieces.encode(image, keep, student, **shape)[-1]
            predictions.append(pieces.decode(seen, keep, part(twins, "decoder."), table, heads=4, blocks=2))
        else:
            token = twins["mask_token"][0, 0]
            tokens = own.encode_with_mask_tokens(pieces, image, hidden, token, student, **shape)
            predictions.append(pieces.linear(tokens, twins, "head"))
    loss = own.feature_loss(
        predictions,
        features_of_the_teacher(method, reference, twins, part, images, settings.get("teacher_block", 7)),
        HIDDEN,
        norm=settings.get("target_norm", "layer"),
        beta=settings.get("beta", 1.0),
    )
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/features"], step.loss.detach(), rtol=0, atol=0)
    assert_same_gradients(method, twins)


def features_of_the_teacher(
    method: Method,
    reference: Callable[[str], ModuleType],
    twins: dict[str, Tensor],
    part: Callable[..., dict[str, Tensor]],
    images: Tensor,
    block: int,
) -> list[Tensor]:
    """Patch tokens [L, C] of each whole image after `block`."""
    pieces, own = reference("masked_autoencoder"), reference("masked_teachers")
    state, adapter = part(twins, "teacher.model."), method.teacher.adapter  # type: ignore[union-attr]
    prefix, places = adapter.num_prefix, range(adapter.grid[0] * adapter.grid[1])
    found = []
    for image in images:
        colours = own.other_statistics(image, *STATISTICS)
        shape = {"patch": 8, "heads": 4, "blocks": 8, "prefix": PREFIX[prefix]}
        found.append(pieces.encode(colours, places, state, **shape)[block][prefix:])
    return found


def of_family(name: str, arguments: dict[str, Any], masking: MaskingStrategy, teacher: Teacher) -> Method:
    torch.manual_seed(5)
    model: nn.Module = build_backbone(name, arguments)
    method = MaskDistill(adapt(model), masking, build(MaskDistillSettings, {}, "method"), teacher)
    with torch.no_grad():
        for key, parameter in method.named_parameters():
            if not key.startswith("teacher."):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return method


def test_a_student_with_relative_positions_learns_as_the_reference_says(
    make_teacher: MakeTeacher,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
) -> None:
    arguments = {
        "img_size": (16, 24),
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "use_fc_norm": False,
    }
    method = of_family("beit_base_patch16_224", arguments, BlockMasking(), make_teacher())
    step = method(batch, rng, PLAN)
    step.loss.backward()

    pieces, own, simmim = reference("masked_autoencoder"), reference("masked_teachers"), reference("simmim")
    twins, images = leaves(method), batch.images.double()
    student = {**part(twins, "model."), **part(dict(method.named_buffers()), "model.")}
    predictions = [
        pieces.linear(
            simmim.beit(image, hidden, student, twins["mask_token"][0, 0], patch=8, heads=2, blocks=2), twins, "head"
        )
        for image, hidden in zip(images, HIDDEN, strict=True)
    ]
    taught = features_of_the_teacher(method, reference, twins, part, images, 7)
    loss = own.feature_loss(predictions, taught, HIDDEN, norm="layer")
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


SWIN = {
    "img_size": (16, 32),
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 2),
    "window_size": 2,
    "patch_size": 4,
    "drop_path_rate": 0.0,
}


def test_a_staged_student_learns_on_the_grid_of_its_last_stage(
    make_teacher: MakeTeacher,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    rng: torch.Generator,
) -> None:
    teacher = make_teacher(img_size=(16, 32))
    method = of_family("swin_tiny_patch4_window7_224", SWIN, CellMasking(cell=8, mask_ratio=0.5), teacher)
    assert method.adapter.grid == (4, 8)
    assert method.adapter.output_grid == teacher.adapter.grid == (2, 4)
    batch = Batch(torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(2)))
    # Of the 4 x 8 patches of 4 pixels, those of the cells 0, 5 and 6, and of 2, 3 and 4, of 2 x 4.
    cells = [[0, 5, 6], [2, 3, 4]]
    hidden = [[p for p in range(32) if p // 16 * 4 + p % 8 // 2 in chosen] for chosen in cells]
    mask = torch.zeros(2, 32, dtype=torch.bool)
    for row, ids in zip(mask, hidden, strict=True):
        row[ids] = True
    step = method(batch, rng, MaskPlan.from_mask(mask, (4, 8)))
    step.loss.backward()

    pieces, own, simmim = reference("masked_autoencoder"), reference("masked_teachers"), reference("simmim")
    twins, images = leaves(method), batch.images.double()
    student = part(twins, "model.")
    shape = {"patch": 4, "window": (2, 2), "heads": (2, 2), "blocks": (2, 2)}
    predictions = [
        pieces.linear(simmim.swin(image, ids, student, twins["mask_token"][0, 0], **shape), twins, "head")
        for image, ids in zip(images, hidden, strict=True)
    ]
    taught = features_of_the_teacher(method, reference, twins, part, images, 7)
    loss = own.feature_loss(predictions, taught, cells, norm="layer")
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)
    assert method(batch, rng).loss.isfinite()


@pytest.mark.parametrize("given", ["mask_token", "visible"])
def test_the_student_sees_nothing_of_a_hidden_patch_and_the_teacher_all(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, given: str
) -> None:
    method = make_method("maskdistill", input=given)
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)
    clean = method(batch, rng, PLAN).loss
    assert torch.equal(method(dataclasses.replace(batch, images=dirty, plain=batch.images), rng, PLAN).loss, clean)
    assert not torch.equal(method(dataclasses.replace(batch, plain=dirty), rng, PLAN).loss, clean)


def test_the_size_of_the_teachers_features_does_not_matter(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maskdistill", teacher={"depth": 1})
    assert method.teacher is not None
    plain = method(batch, rng, PLAN).loss
    teacher: Any = method.teacher.model
    with torch.no_grad():
        for parameter in (teacher.patch_embed.proj.weight, teacher.patch_embed.proj.bias, teacher.pos_embed):
            parameter.mul_(1000)
        teacher.cls_token.mul_(1000)
        for layer in (teacher.blocks[0].attn.proj, teacher.blocks[0].mlp.fc2):
            layer.weight.mul_(1000)
            layer.bias.mul_(1000)
    # Every number of the residual stream is a thousand times larger; only epsilons notice.
    torch.testing.assert_close(method(batch, rng, PLAN).loss, plain, rtol=1e-3, atol=0)


def test_the_teacher_stops_at_its_block(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("maskdistill", teacher_block=4)
    assert method.teacher is not None
    ran: list[int] = []
    teacher: Any = method.teacher.model
    for index, block in enumerate(teacher.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    teacher.norm.register_forward_hook(lambda *_: ran.append(-1))
    method(batch, rng, PLAN)
    assert ran == [0, 1, 2, 3, 4]


def test_a_teacher_of_other_patches_gets_images_of_such_a_size_that_the_grids_agree(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maskdistill", teacher={"img_size": (28, 28), "patch_size": 7, "embed_dim": 12})
    assert method.teacher is not None
    sizes: list[tuple[int, ...]] = []
    teacher: Any = method.teacher.model
    teacher.patch_embed.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(inputs[0].shape[2:])))
    assert method(batch, rng, PLAN).loss.isfinite()
    assert sizes == [(14, 21)]


def test_a_convnet_can_teach_with_its_last_stage(make_teacher: MakeTeacher, batch: Batch, rng: torch.Generator) -> None:
    source = make_teacher()
    teacher = Teacher(
        adapt(build_backbone("test_resnet", {})),
        source.origin,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        student=Preprocess(size=(16, 24)),
    )
    student = build_backbone(
        "vit_tiny_patch16_224", {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    )
    method = MaskDistill(adapt(student), RandomMasking(), MaskDistillSettings(), teacher)
    assert teacher.adapter.output_grid == (2, 3)
    assert method.head.out_features == teacher.adapter.width
    assert method(batch, rng, PLAN).loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "pixels"}, r"^method\.input must be one of mask_token, visible; got 'pixels'$"),
        ({"beta": 0.0}, r"^method\.beta must be above 0; got 0\.0$"),
        ({"target_norm": "batch"}, r"^method\.target_norm must be one of layer, l2, none; got 'batch'$"),
        (
            {"teacher_block": 8},
            r"^method\.teacher_block 8 does not exist in the teacher; choose one of its blocks 0 to 7",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("maskdistill", **settings)


def test_a_backbone_that_cannot_leave_patches_out_gets_mask_tokens(make_teacher: MakeTeacher) -> None:
    arguments = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    adapter = adapt(build_backbone("beit_base_patch16_224", arguments))
    message = (
        "^method.input 'visible' needs a backbone with the ability 'visible'; "
        "Beit can do full, mask_token, blocks, uniform; set method.input=mask_token$"
    )
    with pytest.raises(ConfigError, match=message):
        MaskDistill(adapter, RandomMasking(), MaskDistillSettings(input="visible"), make_teacher())


@pytest.mark.parametrize("masking", [RandomMasking(), BlockMasking(), CellMasking(cell=4)])
def test_a_masking_that_cuts_through_the_tokens_of_a_staged_student_is_refused(
    make_teacher: MakeTeacher, masking: MaskingStrategy
) -> None:
    message = (
        "^a final token of SwinTransformer stands for 8x8 pixels, and this masking hides parts of them; "
        "hide whole ones with masking.name=cells$"
    )
    with pytest.raises(ConfigError, match=message):
        of_family("swin_tiny_patch4_window7_224", SWIN, masking, make_teacher(img_size=(16, 32)))
