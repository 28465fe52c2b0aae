"""MaskAlign against a second implementation, its mixing of levels, its one look of the teacher, and what it refuses."""

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
from edgemim.methods._base import Batch, Method
from edgemim.methods._level_mixer import LevelMixer
from edgemim.methods.maskalign import MaskAlign, MaskAlignSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan
from edgemim.models.teachers import Teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.settings.training import TrainingSettings

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
STATISTICS = (IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
REGISTERS: dict[str, Any] = {"reg_tokens": 2}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}
TOP5_OF_8 = {3: 0.2, 4: 0.2, 5: 0.2, 6: 0.2, 7: 0.2}

# Settings, and the weight of each level of the teacher that counts; the student has 4 blocks, the teacher 8 or so.
CASES: dict[str, tuple[dict[str, Any], dict[int, float]]] = {
    "the defaults": ({}, TOP5_OF_8),
    "equal depths": ({"backbone": {"depth": 6}, "teacher": {"depth": 6}}, dict.fromkeys((1, 2, 3, 4, 5), 0.2)),
    "a deeper student": ({"backbone": {"depth": 6}, "teacher": {"depth": 5}}, dict.fromkeys(range(5), 0.2)),
    "fewer than five levels": ({"teacher": {"depth": 3}}, dict.fromkeys(range(3), 1 / 3)),
    "given weights": ({"level_weights": [0, 0.5, 0, 0, 0, 0, 2.0, 0]}, {1: 0.5, 6: 2.0}),
    "given weights, equal depths": ({"teacher": {"depth": 4}, "level_weights": [1, 0, 0, 3]}, {0: 1.0, 3: 3.0}),
    "unit length": ({"target_norm": "l2"}, TOP5_OF_8),
    "raw features": ({"target_norm": "none"}, TOP5_OF_8),
    "no class token in the teacher": ({"teacher": NO_CLASS}, TOP5_OF_8),
    "no class token in the student": ({"backbone": NO_CLASS}, TOP5_OF_8),
    "no class token in either": ({"backbone": NO_CLASS, "teacher": NO_CLASS}, TOP5_OF_8),
    "registers in the teacher": ({"teacher": REGISTERS}, TOP5_OF_8),
    "registers in both": ({"teacher": REGISTERS, "backbone": REGISTERS}, TOP5_OF_8),
}


@pytest.mark.parametrize(("settings", "weights"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    weights: dict[int, float],
) -> None:
    method = make_method("maskalign", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    assert method.teacher is not None
    pieces, own, twins = reference("masked_autoencoder"), reference("masked_teachers"), leaves(method)
    state, taught_state = part(twins, "model."), part(twins, "teacher.model.")
    student, teacher = method.adapter, method.teacher.adapter
    shared = student.num_prefix == teacher.num_prefix
    skip, taught_skip = (0, 0) if shared else (student.num_prefix, teacher.num_prefix)
    students, teachers = [], []
    for image, keep in zip(batch.images.double(), KEEPS, strict=True):
        shape = {"patch": 8, "heads": 2, "blocks": student.depth, "prefix": PREFIX[student.num_prefix]}
        after = pieces.encode(image, keep, state, **shape)
        students.append([tokens[skip:] for tokens in after[: student.depth]])
        colours = own.other_statistics(image, *STATISTICS)
        shape = {"patch": 8, "heads": 4, "blocks": teacher.depth, "prefix": PREFIX[teacher.num_prefix]}
        whole = pieces.encode(colours, range(6), taught_state, **shape)
        seen = [*range(teacher.num_prefix), *(teacher.num_prefix + i for i in keep)]
        teachers.append([tokens[seen][taught_skip:] for tokens in whole])
    terms = {
        level: own.level_loss(
            students,
            [whole[level] for whole in teachers],
            twins["mixer.weight"][level],
            part(twins, f"heads.{level}."),
            norm=settings.get("target_norm", "layer"),
        )
        for level in weights
    }
    loss = sum(2 * weights[level] * term for level, term in terms.items())
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    unscaled = {f"loss/level_{level}_unscaled": term.detach() for level, term in terms.items()}
    assert {name for name in step.metrics if name.endswith("_unscaled")} == set(unscaled)
    for name, value in unscaled.items():
        torch.testing.assert_close(step.metrics[name].double(), value, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def levels_of(depth: int) -> list[Tensor]:
    return list(torch.randn(depth, 2, 3, 4, generator=torch.Generator().manual_seed(0)))


def test_with_equal_depths_a_mixed_level_starts_as_the_students_own_and_a_hundredth_of_all() -> None:
    levels = levels_of(5)
    mixed = LevelMixer(5, 5)(levels, range(5))
    for own, found in zip(levels, mixed, strict=True):
        torch.testing.assert_close(found, own + 0.01 * torch.stack(levels).sum(dim=0))


@pytest.mark.parametrize(("student", "teacher"), [(4, 7), (7, 4)])
def test_with_other_depths_a_mixed_level_starts_as_the_mean_of_all(student: int, teacher: int) -> None:
    levels = levels_of(student)
    mixer = LevelMixer(student, teacher)
    assert mixer.weight.shape == (teacher, student)
    for found in mixer(levels, (0, teacher - 1)):
        torch.testing.assert_close(found, torch.stack(levels).mean(dim=0))


def test_the_levels_that_are_asked_for_come_in_their_order() -> None:
    levels, mixer = levels_of(3), LevelMixer(3, 3)
    with torch.no_grad():
        mixer.weight.copy_(torch.eye(3))
    first, second = mixer(levels, (2, 0))
    assert torch.equal(first, levels[2])
    assert torch.equal(second, levels[0])


def test_the_mixing_matrix_is_not_decayed_and_the_heads_are(make_method: MakeMethod) -> None:
    method = make_method("maskalign")
    names = {id(p): n for n, p in method.named_parameters()}
    groups = parameter_groups(method, TrainingSettings(epochs=1, weight_decay=0.05))
    undecayed = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert "mixer.weight" in undecayed
    assert "heads.7.weight" not in undecayed


def test_levels_of_weight_0_have_no_head(make_method: MakeMethod) -> None:
    method = make_method("maskalign", level_weights=[0, 0, 1, 0, 0, 0, 0, 0.5])
    heads = {name.split(".")[1] for name in method.predictor_state() if name.startswith("heads.")}
    assert heads == {"2", "7"}


def test_top5_is_a_fifth_for_each_of_the_last_five(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    default = make_method("maskalign")
    given = make_method("maskalign", level_weights=[0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.2])
    given.load_state_dict(default.state_dict())
    assert torch.equal(given(batch, rng, PLAN).loss, default(batch, rng, PLAN).loss)


def test_everything_learns_but_the_students_final_norm(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maskalign")
    method(batch, rng, PLAN).loss.backward()
    idle = {n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert idle == {"model.norm.weight", "model.norm.bias"}


def test_one_look_of_the_teacher_guides_the_masking_and_gives_the_targets(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maskalign", masking=AttentionMasking(mask_ratio=0.5))
    assert method.teacher is not None
    runs: list[bool] = []
    embed: Any = method.teacher.model.patch_embed
    embed.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    guided = method(batch, rng)
    guided.loss.backward()
    assert runs == [False]
    # The targets are those of an unguided step on the same plan.
    signals = {"teacher_attention": attention_of(method, batch)}
    plan = method.draw(batch, torch.Generator().manual_seed(0), signals)
    assert plan.keep_ids.shape == (3, 3)
    assert torch.equal(method(batch, rng, plan).loss, guided.loss)


def attention_of(method: Method, batch: Batch) -> Tensor:
    """Of the class token to each patch, as the last block of the teacher has it."""
    assert method.teacher is not None
    last = method.teacher.adapter.depth - 1
    logits = method.teacher(batch.images, qkv=(last,)).qkv[last].logits()
    return logits.softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)


def test_the_student_sees_nothing_of_a_hidden_patch_and_the_teacher_all(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maskalign")
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)
    clean = method(batch, rng, PLAN).loss
    assert torch.equal(method(dataclasses.replace(batch, images=dirty, plain=batch.images), rng, PLAN).loss, clean)
    assert not torch.equal(method(dataclasses.replace(batch, plain=dirty), rng, PLAN).loss, clean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level_weights": "top3"}, r"^method\.level_weights is 'top5' or a list of numbers; got 'top3'$"),
        (
            {"level_weights": [1, -1]},
            r"^method\.level_weights must not be negative, and not all 0; got \[1\.0, -1\.0\]$",
        ),
        ({"level_weights": [0, 0]}, r"^method\.level_weights must not be negative, and not all 0; got \[0\.0, 0\.0\]$"),
        ({"level_weights": []}, r"^method\.level_weights must not be negative, and not all 0; got \[\]$"),
        (
            {"level_weights": [1, 1]},
            r"^method\.level_weights has 2 numbers; give one for each of the teacher's 8 blocks$",
        ),
        ({"target_norm": "batch"}, r"^method\.target_norm must be one of layer, l2, none; got 'batch'$"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("maskalign", **settings)


def test_teachers_whose_levels_or_attention_cannot_be_used_are_refused_before_a_run(make_method: MakeMethod) -> None:
    student = make_method("mae")
    assert make_method("maskalign").teacher is not None
    origin = make_method("maskalign").teacher.origin  # type: ignore[union-attr]

    def method(masking: Any, weights: Any) -> MaskAlign:
        adapter = adapt(build_backbone("test_resnet", {}))
        contract = Preprocess(size=(16, 24))
        teacher = Teacher(adapter, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
        weights = weights or [0] * (adapter.depth - 1) + [1]
        return MaskAlign(student.adapter, masking, MaskAlignSettings(level_weights=weights), teacher)

    method(RandomMasking(), ())
    with pytest.raises(ConfigError, match=r"of the teacher \(ResNet\) have another grid than its last"):
        method(RandomMasking(), "top5")
    with pytest.raises(ConfigError, match="this masking follows the attention of a plain ViT"):
        method(AttentionMasking(), ())
