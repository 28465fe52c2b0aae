"""Plain logit distillation: against a second implementation, the head that ships, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.logit import Logit, LogitSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
EVERYTHING = range(6)
CLASSES = 5

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "soft": {"temperature": 4.0},
    "sharp": {"temperature": 0.5},
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
    method = make_method("logit", **settings)
    # The student sees another crop than the teacher, as with colour jitter.
    step = method(Batch(batch.images * 1.25 - 0.5, plain=batch.images), rng)
    step.loss.backward()

    encoder, plain, twins = reference("masked_autoencoder"), reference("plain_distillation"), leaves(method)
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    own_mean, own_std, mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    )
    students, teachers = [], []
    for image in batch.images.double():
        seen = encoder.encode(image * 1.25 - 0.5, EVERYTHING, student, patch=8, heads=2, blocks=4, prefix=["cls_token"])
        students.append(encoder.linear(seen[-1][0], student, "head"))
        taught = encoder.encode(
            (image * own_std + own_mean - mean) / std,
            EVERYTHING,
            teacher,
            patch=8,
            heads=4,
            blocks=8,
            prefix=["cls_token"],
        )
        teachers.append(encoder.linear(taught[-1][0], teacher, "head"))
    loss = plain.class_loss(students, teachers, settings.get("temperature", 1.0))
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each; the divergence is a small difference of logarithms.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(step.metrics["loss/logits"].double(), loss.detach(), rtol=1e-5, atol=1e-7)
    assert_same_gradients(method, twins)


def test_the_student_ships_as_a_plain_timm_model_with_the_teachers_classes(
    make_method: MakeMethod, batch: Batch
) -> None:
    method = make_method("logit")
    assert method.num_classes == CLASSES
    shape = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
    rebuilt = build_backbone("vit_tiny_patch16_224", shape, num_classes=method.num_classes)
    rebuilt.load_state_dict(method.backbone.state_dict())
    assert torch.equal(rebuilt.eval()(batch.images), method.backbone.eval()(batch.images))
    assert method.predictor_state() == {}  # nothing is thrown away


# Heads that differ: a bare layer, a pooled one, one behind a convolution, two, two that RepViT has to be told to keep.
HEADS = [
    "test_resnet",
    "test_convnext",
    "mobilenetv4_conv_small",
    "deit_tiny_distilled_patch16_224",
    "repvit_m0_9",
    "test_mambaout",
]


@pytest.mark.parametrize("name", HEADS)
def test_any_student_gets_the_head_that_timm_would_build_it_with(
    make_teacher: Callable[..., Teacher], rng: torch.Generator, name: str
) -> None:
    arguments: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depth": 2} if name.startswith("deit") else {}
    student = adapt(build_backbone(name, arguments), (32, 32))
    method = Logit(student, RandomMasking(), LogitSettings(), make_teacher(num_classes=CLASSES))
    images = torch.randn(4, 3, 32, 32, generator=rng)
    method(Batch(images), rng).loss.backward()
    rebuilt = build_backbone(name, arguments, num_classes=CLASSES)
    rebuilt.load_state_dict(method.backbone.state_dict())
    assert torch.equal(rebuilt.eval()(images), method.backbone.eval()(images))
    assert rebuilt(images).shape == (4, CLASSES)


def test_the_teacher_keeps_its_own_size_whatever_the_grid_of_the_student(
    make_teacher: Callable[..., Teacher], rng: torch.Generator
) -> None:
    teacher = make_teacher(num_classes=CLASSES)
    seen: list[tuple[int, ...]] = []
    teacher.model.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    method = Logit(adapt(build_backbone("test_resnet"), (64, 64)), RandomMasking(), LogitSettings(), teacher)
    assert method.adapter.output_grid == (2, 2) != teacher.adapter.output_grid
    method(Batch(torch.randn(2, 3, 64, 64)), rng)
    assert seen == [(2, 3, 16, 24)]


def test_a_student_that_knows_what_the_teacher_knows_has_nothing_to_learn(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("logit", teacher={"embed_dim": 16, "depth": 4, "num_heads": 2})
    assert method.teacher is not None
    assert method(batch, rng).loss > 1e-4
    method.backbone.load_state_dict(method.teacher.model.state_dict())
    method.teacher._same = True
    assert method(batch, rng).loss == 0


def test_a_temperature_changes_the_size_of_the_gradient_little(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    sizes = []
    for temperature in (1.0, 16.0):
        method = make_method("logit", temperature=temperature)
        method(batch, rng).loss.backward()
        head: Any = method.backbone.head
        sizes.append(head.weight.grad.norm())
    # For logits small beside the temperature the gradient is (student - teacher) / classes whatever it is
    # (Hinton et al., section 2.1); without the factor it would be 256 times smaller.
    assert 0.2 < sizes[1] / sizes[0] < 5


def test_a_teacher_without_a_classifier_is_refused_with_the_command_that_gives_it_one(
    make_method: MakeMethod,
) -> None:
    expected = "teacher test has no classifier to learn from; give it one first: edgemim finetune test --data"
    with pytest.raises(ConfigError, match=expected) as refusal:
        make_method("logit", teacher={"num_classes": 0})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_none_is_refused(make_method: MakeMethod, temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"method\.temperature must be above 0; got"):
        make_method("logit", temperature=temperature)
