"""One look of a teacher: how far it runs, what it shows to a masking, and which of its tokens are compared."""

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
from edgemim.masking.random import RandomMasking
from edgemim.methods._asked import Asked
from edgemim.methods._base import Batch
from edgemim.methods._teacher_view import (
    ask,
    at_visible,
    check_guide,
    check_levels,
    look,
    prefix_attention,
    shared_prefix,
    summary,
    without_prefix,
)
from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import QKV
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeTeacher = Callable[..., Teacher]
UNGUIDED, GUIDED = RandomMasking(mask_ratio=0.5), AttentionMasking(mask_ratio=0.5)
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
# timm arguments, the names of the prefix, and whether its first token is a class token.
PREFIXES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "a class token": ({}, ["cls_token"], True),
    "a class token and registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"], True),
    "registers": ({**NO_CLASS, "reg_tokens": 2}, ["reg_token"], False),
    "nothing": (NO_CLASS, [], False),
}


@pytest.fixture
def other_family(contract: Preprocess) -> Callable[..., Teacher]:
    """`other_family("test_convnext", **timm arguments)`: a teacher that is no plain ViT."""

    def make(name: str, **arguments: Any) -> Teacher:
        origin = TeacherOrigin(source="test", architecture=name, licence="MIT", sha256=None)
        adapter = adapt(build_backbone(name, arguments))
        return Teacher(adapter, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)

    return make


@pytest.mark.parametrize(
    ("asked", "draws", "blocks"),
    [
        (Asked(blocks=(2,)), True, 3),
        (Asked(blocks=(2, 5)), True, 6),
        (Asked(qkv=(3,)), True, 3),  # no more than the projection of block 3
        (Asked(blocks=(2,), attention=True), True, 7),  # no more than the projection of the last
        (Asked(blocks=(7,), attention=True), True, 8),
        (Asked(blocks=(2,), attention=True), False, 3),  # a plan that is given needs no attention
    ],
)
def test_the_teacher_runs_once_and_no_further_than_asked(
    make_teacher: MakeTeacher,
    batch: Batch,
    asked: Asked,
    draws: bool,
    blocks: int,
) -> None:
    teacher = make_teacher()
    ran: list[int] = []
    model: Any = teacher.model
    handles = [
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(model.blocks)
    ]
    handles.append(model.norm.register_forward_hook(lambda *_: ran.append(-1)))
    view = look(teacher, batch, asked, draws=draws)
    for handle in handles:
        handle.remove()
    assert ran == list(range(blocks))
    assert tuple(sorted(view.taps)) == asked.blocks
    assert tuple(view.qkv) == asked.qkv
    assert ("teacher_attention" in view.signals) == (asked.attention and draws)
    assert not any(t.requires_grad for t in view.tensors().values())


@pytest.mark.parametrize(("arguments", "prefix", "class_token"), PREFIXES.values(), ids=PREFIXES.keys())
def test_the_attention_is_that_of_the_reference(
    make_teacher: MakeTeacher,
    reference: Callable[[str], ModuleType],
    batch: Batch,
    arguments: dict[str, Any],
    prefix: list[str],
    class_token: bool,
) -> None:
    teacher = make_teacher(depth=3, **arguments)
    found = look(teacher, batch, Asked(attention=True)).signals["teacher_attention"]
    assert found.dtype == torch.float32
    assert found.shape == (3, 6)
    assert (found.sum(dim=1) <= 1).all()
    pieces, own = reference("masked_autoencoder"), reference("masked_teachers")
    state = {k: v.double() for k, v in teacher.model.state_dict().items()}
    for image, row in zip(batch.images.double(), found, strict=True):
        colours = own.other_statistics(image, (IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
        before = pieces.encode(colours, range(6), state, patch=8, heads=4, blocks=2, prefix=prefix)[1]
        expected = own.attention_to_patches(
            pieces,
            before,
            state,
            "blocks.2",
            heads=4,
            prefix=teacher.adapter.num_prefix,
            class_token=class_token,
        )
        # float32 against float64, some thousand roundings of 6e-8 each.
        torch.testing.assert_close(row.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_attention_is_computed_in_float32_under_autocast() -> None:
    queries, keys = torch.randn(2, 2, 3, 7, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = prefix_attention(QKV(queries, keys, keys), 1)
    assert torch.equal(found, prefix_attention(QKV(queries, keys, keys), 1))


def test_the_teacher_looks_at_the_images_without_the_students_jitter(make_teacher: MakeTeacher, batch: Batch) -> None:
    teacher = make_teacher()
    asked = Asked(blocks=(1,))
    plain = look(teacher, batch, asked).taps[1]
    jittered = dataclasses.replace(batch, images=batch.images + 1, plain=batch.images)
    assert torch.equal(look(teacher, jittered, asked).taps[1], plain)
    both = dataclasses.replace(batch, images=batch.images + 1)
    assert not torch.equal(look(teacher, both, asked).taps[1], plain)


@pytest.mark.parametrize(("arguments", "prefix", "class_token"), PREFIXES.values(), ids=PREFIXES.keys())
def test_a_summary_is_the_class_token_or_the_mean_of_the_patches(
    make_teacher: MakeTeacher, batch: Batch, arguments: dict[str, Any], prefix: list[str], class_token: bool
) -> None:
    teacher = make_teacher(depth=2, **arguments)
    final = teacher(batch.images).final
    found = look(teacher, batch, Asked(summary=True)).summary
    assert found is not None
    expected = final[:, 0] if class_token else final[:, -6:].mean(dim=1)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, summary(teacher.adapter, final))


def test_what_the_batch_brings_along_is_taken_in_place_of_a_look(make_teacher: MakeTeacher, batch: Batch) -> None:
    teacher, asked = make_teacher(), Asked(blocks=(2,))
    stored = dataclasses.replace(batch, taught=ask(teacher, batch.images * 2, asked))
    teacher.dismiss()
    assert look(teacher, stored, asked) is stored.taught
    with pytest.raises(AssertionError):
        look(teacher, batch, asked)


def test_a_teacher_whose_attention_cannot_be_read_guides_no_masking(
    other_family: Callable[..., Teacher], make_teacher: MakeTeacher
) -> None:
    check_guide(make_teacher(), GUIDED)
    teacher = other_family("test_resnet")
    check_guide(teacher, UNGUIDED)
    message = (
        "^this masking follows the attention of a plain ViT, and the teacher is a ResNet; "
        "choose another teacher, or masking.name=random$"
    )
    with pytest.raises(ConfigError, match=message):
        check_guide(teacher, GUIDED)


def test_blocks_of_early_stages_are_refused(other_family: Callable[..., Teacher], make_teacher: MakeTeacher) -> None:
    check_levels(make_teacher(), range(8))
    swin = {"img_size": (32, 48), "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    teacher = other_family("swin_tiny_patch4_window7_224", **swin)
    check_levels(teacher, (2, 3))
    message = (
        r"^blocks 0, 1 of the teacher \(SwinTransformer\) have another grid than its last, 3, "
        "on which it meets the student; choose blocks of its last stage$"
    )
    with pytest.raises(ConfigError, match=message):
        check_levels(teacher, (3, 1, 0))
    teacher = other_family("test_convnext")
    last = teacher.adapter.depth - 1
    check_levels(teacher, (last,))
    with pytest.raises(ConfigError, match=r"^blocks 0 of the teacher"):
        check_levels(teacher, (0, last))


@pytest.mark.parametrize(
    ("student", "teacher", "kept"),
    [
        ({}, {}, 1),
        (NO_CLASS, NO_CLASS, 0),
        (NO_CLASS, {}, 0),
        ({}, {"reg_tokens": 2}, 0),
        ({"reg_tokens": 2},) * 2 + (3,),
    ],
)
def test_prefix_tokens_are_shared_where_both_have_equally_many(
    make_teacher: MakeTeacher, student: dict[str, Any], teacher: dict[str, Any], kept: int
) -> None:
    assert shared_prefix(make_teacher(**student).adapter, make_teacher(**teacher).adapter) == kept


def test_tokens_are_taken_with_their_prefix_or_without_and_where_the_student_sees() -> None:
    # Number 10 * image + place, places 0 and 1 being the prefix.
    tokens = torch.tensor([[[10.0 * image + place] for place in range(6)] for image in (1, 2)])
    plan = MaskPlan.from_keep_ids(torch.tensor([[3, 0], [1, 2]]), (2, 2))

    def numbers(found: Tensor) -> list[list[float]]:
        return found.squeeze(-1).tolist()

    assert numbers(at_visible(tokens, 2, plan)) == [[10, 11, 12, 15], [20, 21, 23, 24]]
    assert numbers(without_prefix(tokens, 2, 2)) == numbers(tokens)
    assert numbers(without_prefix(tokens, 2, 0)) == [[12, 13, 14, 15], [22, 23, 24, 25]]
