"""Plain feature distillation: against a second implementation, for every family of student, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.feature import Feature, FeatureSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

MakeMethod = Callable[..., Method]
EVERYTHING = range(6)

# Settings, and how many prefix tokens of student and teacher are left out.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "the defaults": ({}, 0, 0),
    "mse, unit length": ({"distance": "mse", "target_norm": "l2"}, 0, 0),
    "l1, as it is": ({"distance": "l1", "target_norm": "none"}, 0, 0),
    "cosine, mlp": ({"distance": "cosine", "projector": "mlp"}, 0, 0),
    "another block, mlp2": ({"teacher_block": 3, "projector": "mlp2"}, 0, 0),
    "no projector": ({"projector": "none", "teacher": {"embed_dim": 16}}, 0, 0),
    "a teacher with registers": ({"teacher": {"reg_tokens": 2}}, 1, 3),
    "a teacher without a class token": ({"teacher": {"class_token": False, "global_pool": "avg"}}, 1, 0),
}


@pytest.mark.parametrize(("settings", "left_out", "of_teacher"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    left_out: int,
    of_teacher: int,
) -> None:
    method = make_method("feature", **settings)
    # The student sees another crop than the teacher, as with colour jitter.
    step = method(Batch(batch.images * 1.25 - 0.5, plain=batch.images), rng)
    step.loss.backward()

    encoder, plain, twins = reference("masked_autoencoder"), reference("plain_distillation"), leaves(method)
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    prefix = [name for name in ("cls_token", "reg_token") if name in teacher]
    block = settings.get("teacher_block", 7)
    students, teachers = [], []
    for image in batch.images.double():
        after = encoder.encode(
            image * 1.25 - 0.5, EVERYTHING, student, patch=8, heads=2, blocks=4, prefix=["cls_token"]
        )
        tokens = after[-1][left_out:]  # after the norm
        students.append(encoder.project(tokens, part(twins, "projector."), settings.get("projector", "linear")))
        taught = encoder.encode(recoloured(image), EVERYTHING, teacher, patch=8, heads=4, blocks=8, prefix=prefix)
        teachers.append(taught[block][of_teacher:])
    loss = plain.feature_loss(
        students, teachers, settings.get("target_norm", "layer"), settings.get("distance", "smooth-l1")
    )
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/features"].double(), loss.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def recoloured(images: Tensor) -> Tensor:
    """Images in the student's statistics, in the teacher's."""
    own_mean, own_std, mean, std = (
        torch.tensor(v, dtype=images.dtype).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    )
    return (images * own_std + own_mean - mean) / std


# Students of every kind of adapter and their images; all of these end in a grid of 2 x 3.
STUDENTS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "test_resnet": ((64, 96), {}),
    "test_efficientnet": ((64, 96), {}),
    "test_convnext": ((64, 96), {}),
    "mobilenetv4_conv_small": ((64, 96), {}),
    "swin_tiny_patch4_window7_224": (
        (64, 96),
        {
            "img_size": (64, 96),
            "window_size": 2,
            "embed_dim": 8,
            "depths": (1, 1, 1, 1),
            "num_heads": (1, 1, 2, 2),
            "drop_path_rate": 0.0,
        },
    ),
    "beit_base_patch16_224": ((32, 48), {"img_size": (32, 48), "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "deit_tiny_distilled_patch16_224": (
        (32, 48),
        {"img_size": (32, 48), "embed_dim": 16, "depth": 2, "num_heads": 2},
    ),
}


def student_of(name: str, make_teacher: Callable[..., Teacher], **settings: Any) -> tuple[Method, Tensor]:
    """A method with that student in train mode, and images."""
    size, arguments = STUDENTS[name]
    torch.manual_seed(3)
    model = build_backbone(name, arguments)
    method = Feature(adapt(model, size), RandomMasking(), FeatureSettings(**settings), make_teacher())
    return method, torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", STUDENTS)
def test_every_family_of_students_learns_the_teachers_map_place_by_place(
    make_teacher: Callable[..., Teacher],
    reference: Callable[[str], ModuleType],
    rng: torch.Generator,
    name: str,
) -> None:
    # In float64: where float32 rounds a number to the other side of a rectifier, a gradient is another one altogether.
    method, images = student_of(name, make_teacher)
    method, images = method.double(), images.double()
    teacher = method.teacher
    assert teacher is not None
    assert teacher.adapter.output_grid == method.adapter.output_grid == (2, 3)
    twin = copy.deepcopy(method)
    step = method(Batch(images), rng)
    step.loss.backward()
    # timm's own pass, and the plain loss of its tokens.
    model: Any = twin.backbone
    prefix = 0 if teacher.adapter.num_prefix == method.adapter.num_prefix else 1
    with torch.no_grad():
        taught = twin.teacher(images, taps=(7,)).taps[7][:, prefix:]  # type: ignore[misc]
    students = twin.projector(tokens_of(model.forward_features(images), model, prefix))
    loss = reference("plain_distillation").feature_loss(students, taught, "layer", "smooth-l1")
    loss.backward()
    # Some thousand roundings of 1e-16 each; what the loss compares may be rounded to float32.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-6, atol=0)
    twins = dict(twin.named_parameters())
    for k, p in method.named_parameters():
        if p.grad is not None:
            wanted = twins[k].grad
            assert wanted is not None
            # A batch norm over few places enlarges a rounding; a bias in front of one has no gradient but rounding.
            assert (p.grad - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-9, k


def tokens_of(features: Tensor, model: Any, left_out: int) -> Tensor:
    if features.dim() == 3:
        return features[:, left_out * int(getattr(model, "num_prefix_tokens", 0)) :]
    channels_last = "swin" in type(model).__name__.lower()
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)


def test_a_convnet_at_stride_32_meets_a_vit_of_patch_16_that_sees_half_the_pixels(contract: Preprocess) -> None:
    vit = build_backbone("vit_tiny_patch16_224", {"embed_dim": 24, "depth": 1, "num_heads": 4})
    origin = TeacherOrigin(source="test", architecture="vit", licence="MIT", sha256=None)
    teacher = Teacher(adapt(vit), origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    student = adapt(build_backbone("test_resnet"), (224, 224))
    Feature(student, RandomMasking(), FeatureSettings(), teacher)
    assert teacher.adapter.size == (112, 112)
    assert teacher.adapter.output_grid == student.output_grid == (7, 7)


@pytest.mark.parametrize("teaches", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_a_staged_teacher_is_matched_at_its_last_stage_and_refused_at_an_earlier_one(
    batch: Batch, rng: torch.Generator, contract: Preprocess, teaches: str
) -> None:
    torch.manual_seed(0)
    size, arguments = STUDENTS[teaches]
    origin = TeacherOrigin(source="test", architecture=teaches, licence="MIT", sha256=None)
    adapter = adapt(build_backbone(teaches, arguments), size)
    teacher = Teacher(adapter, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    vit = build_backbone(
        "vit_tiny_patch16_224",
        {"img_size": (16, 24), "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    )
    method = Feature(adapt(vit), RandomMasking(), FeatureSettings(), teacher)
    assert method(batch, rng).loss.isfinite()
    with pytest.raises(ConfigError, match=r"blocks 0 of the teacher .* have another grid"):
        Feature(adapt(vit), RandomMasking(), FeatureSettings(teacher_block=0), teacher)


def test_the_teacher_stops_at_the_matched_block(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("feature", teacher_block=2)
    calls: list[int] = []
    teacher: Any = method.teacher.model  # type: ignore[union-attr]
    for index, block in enumerate(teacher.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    teacher.norm.register_forward_hook(lambda *_: calls.append(-1))
    method(batch, rng)
    assert calls == [0, 1, 2]


def test_a_student_that_is_the_teacher_has_nothing_to_learn(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    same = {"embed_dim": 16, "depth": 4, "num_heads": 2}
    method = make_method("feature", teacher=same, projector="none", target_norm="layer")
    assert method.teacher is not None
    assert method(batch, rng).loss > 0.01
    with torch.no_grad():
        # The student's last norm then does what the normalisation of the target does.
        method.backbone.norm.weight.fill_(1)  # type: ignore[union-attr,operator]
        method.backbone.norm.bias.zero_()  # type: ignore[union-attr,operator]
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    # Their epsilons differ, 1e-6 and 1e-5: some 1e-5 of a number of size 1, squared.
    assert method(batch, rng).loss < 1e-8


def test_it_hides_nothing(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("feature")
    lengths: list[int] = []
    for model in (method.backbone, method.teacher.model):  # type: ignore[union-attr]
        blocks: Any = model.blocks
        blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    method(batch, rng)
    assert lengths == [7, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "huber"}, r"method\.distance must be one of smooth-l1, mse, l1, cosine; got 'huber'"),
        ({"target_norm": "batch"}, r"method\.target_norm must be one of"),
        ({"projector": "none"}, "the student has 16, the teacher 24"),
        ({"teacher_block": 8}, r"method\.teacher_block 8 does not exist"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        make_method("feature", **settings)
    assert "\n" not in str(refusal.value)


def test_a_teacher_without_levels_is_refused(make_method: MakeMethod, contract: Preprocess) -> None:
    class Bare(nn.Module):
        """As timm models without `feature_info` are."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 8, 8)

        def forward_features(self, images: Tensor) -> Tensor:
            features: Tensor = self.conv(images)
            return features

    origin = TeacherOrigin(source="test", architecture="bare", licence="MIT", sha256=None)
    adapter = adapt(Bare(), (16, 24))
    teacher = Teacher(adapter, origin, mean=IMAGENET_MEAN, std=IMAGENET_STD, student=contract)
    with pytest.raises(ConfigError, match="needs a teacher with the ability 'blocks'; Bare can do full"):
        Feature(make_method("mae").adapter, RandomMasking(), FeatureSettings(), teacher)
