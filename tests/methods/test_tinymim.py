"""TinyMIM against a second implementation, which blocks it compares, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
EVERYTHING = range(6)

# Settings of the method, and the student's and the teacher's block that the reference is to compare.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "the defaults": ({}, 3, 7),
    "other blocks": ({"student_block": 1, "teacher_block": 4}, 1, 4),
    "a deep teacher": ({"teacher": {"depth": 16}}, 3, 11),
    "a teacher with fewer heads": ({"teacher": {"num_heads": 1}}, 3, 7),
    "a teacher with registers": ({"teacher": {"reg_tokens": 2}}, 3, 7),
}


@pytest.mark.parametrize(("settings", "student_block", "teacher_block"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    student_block: int,
    teacher_block: int,
) -> None:
    method = make_method("tinymim", **settings)
    # The student sees another crop than the teacher, as with colour jitter.
    step = method(Batch(batch.images * 1.25 - 0.5, plain=batch.images), rng)
    step.loss.backward()

    plain, relations, twins = reference("masked_autoencoder"), reference("relations"), leaves(method)
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    registers = settings.get("teacher", {}).get("reg_tokens", 0)
    heads = settings.get("teacher", {}).get("num_heads", 4)
    prefix = ["cls_token", "reg_token"] if registers else ["cls_token"]
    skip = (1, 1 + registers) if registers else (0, 0)
    colours = [
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ]
    students, teachers = [], []
    for image in batch.images.double():
        for_student = image * 1.25 - 0.5
        for_teacher = (image * colours[1] + colours[0] - colours[2]) / colours[3]
        joint = relations.projected(
            plain, for_student, EVERYTHING, student, block=student_block, heads=2, prefix=["cls_token"]
        )
        students.append(relations.side(joint, skip[0]))
        joint = relations.projected(
            plain, for_teacher, EVERYTHING, teacher, block=teacher_block, heads=heads, prefix=prefix
        )
        teachers.append(relations.side(joint, skip[1]))
    # Both sides in the teacher's number of heads.
    terms = {
        name: relations.divergence(students, teachers, pair, heads, heads)
        for name, pair in (("attention", "qk"), ("values", "vv"))
    }
    loss = sum(terms.values())
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    for name, value in terms.items():
        torch.testing.assert_close(step.metrics[f"loss/{name}"].double(), value.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_cutting_the_projections_is_having_that_many_heads_in_the_matched_block(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("tinymim")
    plain = method(batch, rng)
    plain.loss.backward()
    gradients = {k: p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
    # What the authors build: the student's last block with the teacher's 4 heads of 4 channels.
    attention: Any = method.backbone.get_submodule("blocks.3.attn")
    attention.num_heads, attention.head_dim, attention.scale = 4, 4, 0.5
    method.zero_grad()
    theirs = method(batch, rng)
    theirs.loss.backward()
    assert torch.equal(theirs.loss, plain.loss)
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name]), name


def test_a_teacher_that_is_the_student_leaves_nothing_to_learn_until_heads_change_places(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("tinymim", teacher={"embed_dim": 16, "depth": 4, "num_heads": 2})
    assert method.teacher is not None
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    assert method(batch, rng).loss == 0
    projection: Any = method.teacher.model.get_submodule("blocks.3.attn.qkv")
    with torch.no_grad():
        for parameter in projection.parameters():
            # Rows are (query, key, value) x head x channel: the two heads swap.
            parameter.copy_(parameter.unflatten(0, (3, 2, 8)).flip(1).flatten(0, 2))
    step = method(batch, rng)
    assert all(step.metrics[f"loss/{name}"] > 1e-3 for name in ("attention", "values"))


@pytest.mark.parametrize(("depth", "block"), [(4, 3), (12, 11), (24, 17), (16, 11), (32, 23)])
def test_the_teacher_is_matched_at_its_last_block_and_deep_ones_at_three_quarters(
    make_method: MakeMethod, depth: int, block: int
) -> None:
    method: Any = make_method("tinymim", teacher={"depth": depth})
    assert method.teacher_block == block


def test_what_lies_behind_the_matched_projection_gets_no_gradient(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("tinymim", student_block=2)
    method(batch, rng).loss.backward()
    behind = ("blocks.2.attn.proj", "blocks.2.norm2", "blocks.2.mlp", "blocks.3.", "norm.")
    for name, parameter in method.backbone.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad is None) == name.startswith(behind), name


def test_the_teacher_runs_no_further_than_the_matched_projection(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("tinymim", teacher={"depth": 24})
    assert method.teacher is not None
    calls: list[str] = []
    for name, module in method.teacher.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    method(batch, rng)
    assert {"blocks.16", "blocks.17.attn.qkv"} < {*calls}
    assert not {"blocks.17.attn.proj", "blocks.17", "blocks.18", "norm"} & {*calls}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backbone": {"embed_dim": 20}, "teacher": {"num_heads": 6}},
            r"width 20 cannot be cut into the 6 heads .* a multiple of 6 \(nearest: 18 or 24\)",
        ),
        ({"backbone": {"embed_dim": 4}, "teacher": {"num_heads": 8}}, r"a multiple of 8 \(nearest: 8\)"),
        ({"student_block": 4}, r"method\.student_block 4 does not exist in the student; .* 0 to 3, or -1"),
        ({"teacher_block": 8}, r"method\.teacher_block 8 does not exist in the teacher; .* 0 to 7, or -1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_method("tinymim", **settings)
    assert "\n" not in str(caught.value)
