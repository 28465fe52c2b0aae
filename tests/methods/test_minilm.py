"""MiniLM against a second implementation, which blocks it compares, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods.minilm import MiniLM, MiniLMSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeMethod = Callable[..., Method]
EVERYTHING = range(6)
REGISTERS: dict[str, Any] = {"reg_tokens": 2}
NO_PREFIX: dict[str, Any] = {"class_token": False, "global_pool": "avg", "fc_norm": False}
PREFIX = {1: ["cls_token"], 3: ["cls_token", "reg_token"], 0: []}


# Settings of the method, and what the reference is to do: the teacher's block, heads of student and teacher, pairs.
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int, tuple[str, ...]]]] = {
    "the defaults": ({}, (7, 8, 8, ("qq", "kk", "vv"))),
    "two relation heads": ({"relation_heads": 2}, (7, 2, 2, ("qq", "kk", "vv"))),
    "another block": ({"relation_heads": 4, "teacher_block": 3}, (3, 4, 4, ("qq", "kk", "vv"))),
    "a deep teacher": ({"teacher": {"depth": 16}, "relation_heads": 1}, (13, 1, 1, ("qq", "kk", "vv"))),
    "registers in both": (
        {"teacher": REGISTERS, "backbone": REGISTERS, "relation_heads": 2},
        (7, 2, 2, ("qq", "kk", "vv")),
    ),
    "registers in the teacher": ({"teacher": REGISTERS, "relation_heads": 2}, (7, 2, 2, ("qq", "kk", "vv"))),
    "no class token in the student": ({"backbone": NO_PREFIX, "relation_heads": 2}, (7, 2, 2, ("qq", "kk", "vv"))),
    "version 1": ({"version": 1, "teacher": {"num_heads": 2}}, (7, 2, 2, ("qk", "vv"))),
    "version 1, another block": (
        {"version": 1, "backbone": {"num_heads": 4}, "teacher_block": 2},
        (2, 4, 4, ("qk", "vv")),
    ),
}
NAMES = {"qq": "queries", "kk": "keys", "vv": "values", "qk": "attention"}


@pytest.mark.parametrize(("settings", "expected"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    expected: tuple[int, int, int, tuple[str, ...]],
) -> None:
    method = make_method("minilm", **settings)
    step = method(batch, rng)
    step.loss.backward()

    assert method.teacher is not None
    plain, relations, twins = reference("masked_autoencoder"), reference("relations"), leaves(method)
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    block, student_heads, teacher_heads, pairs = expected
    own, taught = method.adapter.num_prefix, method.teacher.adapter.num_prefix
    skip = (0, 0) if own == taught else (own, taught)
    own_heads = settings.get("backbone", {}).get("num_heads", 2)
    taught_heads = settings.get("teacher", {}).get("num_heads", 4)
    colours = [
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ]

    students, teachers = [], []
    for image in batch.images.double():
        for_teacher = (image * colours[1] + colours[0] - colours[2]) / colours[3]
        joint = relations.projected(plain, image, EVERYTHING, student, block=3, heads=own_heads, prefix=PREFIX[own])
        students.append(relations.side(joint, skip[0]))
        joint = relations.projected(
            plain, for_teacher, EVERYTHING, teacher, block=block, heads=taught_heads, prefix=PREFIX[taught]
        )
        teachers.append(relations.side(joint, skip[1]))
    terms = {
        NAMES[pair]: relations.divergence(students, teachers, pair, student_heads, teacher_heads) for pair in pairs
    }
    weight = 1 / 3 if len(pairs) == 3 else 1
    loss = weight * sum(terms.values())
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert {n for n in step.metrics if n.endswith("_unscaled")} == {f"loss/{n}_unscaled" for n in terms}
    for name, value in terms.items():
        torch.testing.assert_close(step.metrics[f"loss/{name}_unscaled"].double(), value.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def twin_of_its_teacher(make_method: MakeMethod, **settings: Any) -> Method:
    method = make_method("minilm", teacher={"embed_dim": 16, "depth": 4, "num_heads": 2}, **settings)
    assert method.teacher is not None
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    return method


@pytest.mark.parametrize("settings", [{}, {"relation_heads": 4}, {"version": 1}])
def test_a_teacher_that_is_the_student_leaves_nothing_to_learn_until_heads_change_places(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, settings: dict[str, Any]
) -> None:
    method = twin_of_its_teacher(make_method, **settings)
    assert method(batch, rng).loss == 0
    assert method.teacher is not None
    projection: Any = method.teacher.model.get_submodule("blocks.3.attn.qkv")
    with torch.no_grad():
        for parameter in projection.parameters():
            # Rows are (query, key, value) x head x channel: the two heads swap.
            parameter.copy_(parameter.unflatten(0, (3, 2, 8)).flip(1).flatten(0, 2))
    assert method(batch, rng).loss > 1e-3


@pytest.mark.parametrize(
    ("depth", "version", "block"), [(4, 2, 3), (12, 2, 11), (12, 1, 11), (24, 2, 20), (24, 1, 23), (16, 2, 13)]
)
def test_the_teacher_is_matched_at_its_last_block_and_in_version_2_of_deep_ones_below(
    make_method: MakeMethod, depth: int, version: int, block: int
) -> None:
    method: Any = make_method("minilm", teacher={"depth": depth, "num_heads": 2}, version=version)
    assert method.teacher_block == block


@pytest.mark.parametrize(
    ("student", "teacher", "depth", "heads"),
    [(96, 192, 12, 48), (192, 96, 1, 48), (64, 128, 13, 64), (96, 192, 13, 48), (128, 192, 1, 32), (12, 20, 1, 4)],
)
def test_relation_heads_are_those_of_the_paper_where_they_divide_both_widths(
    make_method: MakeMethod, student: int, teacher: int, depth: int, heads: int
) -> None:
    shape = {"embed_dim": teacher, "depth": depth, "num_heads": 2}
    method: Any = make_method("minilm", backbone={"embed_dim": student, "depth": 1}, teacher=shape)
    assert method.relation_heads == heads


def test_nothing_behind_the_projections_of_the_matched_blocks_is_run(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("minilm", teacher_block=5)
    assert method.teacher is not None
    calls: list[str] = []
    for whose, model in (("student", method.backbone), ("teacher", method.teacher.model)):
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=f"{whose}.{name}": calls.append(name))
    method(batch, rng).loss.backward()
    assert {"student.blocks.2", "student.blocks.3.attn.qkv", "teacher.blocks.4", "teacher.blocks.5.attn.qkv"} < {*calls}
    ran = {name.split(".blocks.")[1].split(".")[0] for name in calls if name.startswith("teacher.blocks.")}
    assert ran == set("012345")
    assert not {"student.blocks.3.attn.proj", "student.norm", "teacher.blocks.5.attn.proj"} & {*calls}
    behind = ("blocks.3.attn.proj", "blocks.3.norm2", "blocks.3.mlp", "norm.")
    for name, parameter in method.backbone.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad is None) == name.startswith(behind), name


def test_the_teacher_looks_at_the_plain_images(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("minilm")
    jittered = Batch(batch.images * 1.5, plain=batch.images)
    same_for_both = Batch(batch.images * 1.5)
    assert method(jittered, rng).loss != method(same_for_both, rng).loss
    method.teacher.scale.mul_(0)  # type: ignore[union-attr]  # blind, it cannot tell them apart
    assert torch.equal(method(jittered, rng).loss, method(same_for_both, rng).loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 3}, r"method\.version must be 1 or 2; got 3"),
        ({"relation_heads": -1}, "must not be negative; got -1"),
        ({"version": 1, "relation_heads": 2}, r"relation_heads belongs to version 2; .* method\.version=2"),
        ({"version": 1}, r"student's last block has 2 and the teacher's block has 4; use version 2"),
        ({"relation_heads": 5}, r"5 does not divide .* 16 and the teacher's 24; numbers that do: 1, 2, 4, 8$"),
        ({"relation_heads": 16}, "16 does not divide"),
        ({"teacher_block": 8}, r"method\.teacher_block 8 does not exist in the teacher; .* 0 to 7, or -1"),
        ({"teacher_block": -2}, "teacher_block -2 does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_method("minilm", **settings)
    assert "\n" not in str(caught.value)


def test_a_teacher_without_queries_and_keys_is_refused(make_method: MakeMethod, contract: Preprocess) -> None:
    method = make_method("minilm")
    assert method.teacher is not None
    convnet = adapt(build_backbone("resnet10t"), contract.size)
    teacher = Teacher(convnet, method.teacher.origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    with pytest.raises(ConfigError, match=r"needs a teacher with the ability 'qkv'; ResNet can do full, blocks"):
        MiniLM(method.adapter, method.masking, MiniLMSettings(), teacher)
