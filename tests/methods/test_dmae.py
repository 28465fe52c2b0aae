"""DMAE against a second implementation, the properties of its teacher, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))

CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "mse": {"distance": "mse"},
    "summed over channels": {"sum_channels": True, "alignment_weight": 0.25},
    "mlp": {"projector": "mlp"},
    "mlp2, normalised pixels": {"projector": "mlp2", "norm_pix": True},
    "no projector": {"projector": "none"},
    "no projector, mse": {"projector": "none", "distance": "mse", "alignment_weight": 2.0},
    "several pairs": {"student_blocks": [0, 3, 1], "teacher_blocks": [2, 6, 2]},
    "several pairs, mse, mlp, summed": {
        "student_blocks": [1, 2],
        "teacher_blocks": [5, 3],
        "distance": "mse",
        "projector": "mlp",
        "sum_channels": True,
    },
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
    width = {"embed_dim": 16, "num_heads": 2} if settings.get("projector") == "none" else {}
    heads = 2 if width else 4
    method = make_method("dmae", teacher=width, **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    plain, twins = reference("masked_autoencoder"), leaves(method)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 1))
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    colours = [
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ]
    images = batch.images.double()
    taught, seen, predictions = [], [], []
    for image, keep in zip(images, KEEPS, strict=True):
        after = plain.encode(image, keep, student, patch=8, heads=2, blocks=4, prefix=["cls_token"])
        for_teacher = (image * colours[1] + colours[0] - colours[2]) / colours[3]
        seen.append(after)
        taught.append(plain.encode(for_teacher, keep, teacher, patch=8, heads=heads, blocks=8, prefix=["cls_token"]))
        predictions.append(plain.decode(after[-1], keep, part(twins, "pixels.decoder."), table, heads=4, blocks=2))
    pixels = plain.pixel_loss(predictions, images, KEEPS, 8, settings.get("norm_pix", False))
    kind = settings.get("projector", "linear")
    # By default the last block of the first three quarters: the third of four, the sixth of eight.
    pairs = list(zip(settings.get("student_blocks", [2]), settings.get("teacher_blocks", [5]), strict=True))
    alignment = sum(
        plain.alignment_loss(
            [plain.project(after[s], part(twins, f"projectors.{i}."), kind) for after in seen],
            [after[t].detach() for after in taught],
            unit=kind != "none",
            distance=settings.get("distance", "l1"),
            sum_channels=settings.get("sum_channels", False),
        )
        for i, (s, t) in enumerate(pairs)
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


def test_random_features_are_as_far_apart_as_random_unit_vectors(make_method: MakeMethod) -> None:
    method = make_method("dmae")
    rng = torch.Generator().manual_seed(0)
    for width in (192, 768, 1024):
        student, teacher = torch.randn(2, 64, 20, width, generator=rng)
        expected = math.sqrt(2 / math.pi) * math.sqrt(2 / width)  # 0.081, 0.041, 0.035
        assert float(method._distance(student, teacher)) == pytest.approx(expected, rel=0.01)


def test_the_teacher_stops_at_the_last_matched_block(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("dmae", student_blocks=[0, 1], teacher_blocks=[4, 2])
    assert method.teacher is not None
    calls: list[int] = []
    teacher: Any = method.teacher.model
    for index, block in enumerate(teacher.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
    teacher.norm.register_forward_hook(lambda *_: calls.append(-1))
    method(batch, rng, PLAN)
    assert calls == [0, 1, 2, 3, 4]


def test_the_teacher_sees_the_same_patches_and_no_other(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("dmae")
    assert method.teacher is not None
    lengths: list[int] = []
    teacher: Any = method.teacher.model
    teacher.blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    method(batch, rng, PLAN)
    assert lengths == [1 + len(KEEPS[0])]


def test_the_teacher_gets_no_gradient_and_stays_in_eval_mode(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("dmae", teacher={"drop_path_rate": 0.9, "proj_drop_rate": 0.9})
    assert method.teacher is not None
    before = {k: v.clone() for k, v in method.teacher.model.state_dict().items()}
    method.train()
    assert method.training
    assert not any(m.training for m in method.teacher.modules())
    first = method(batch, rng, PLAN)
    first.loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert torch.equal(method(batch, rng, PLAN).loss, first.loss)  # no dropout in the teacher
    after = method.teacher.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_class_token_is_matched_too(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("dmae", teacher={"depth": 1}, teacher_blocks=[0])
    assert method.teacher is not None
    plain = method(batch, rng, PLAN).metrics["loss/alignment"]
    with torch.no_grad():
        method.teacher.model.cls_token.add_(1)  # type: ignore[operator,union-attr]
    assert not torch.equal(plain, method(batch, rng, PLAN).metrics["loss/alignment"])


def test_a_teacher_that_is_the_student_leaves_nothing_to_align(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("dmae", teacher={"embed_dim": 16, "depth": 4, "num_heads": 2}, projector="none")
    assert method.teacher is not None
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    metrics = method(batch, torch.Generator(), PLAN).metrics
    assert metrics["loss/alignment"] == 0
    assert metrics["loss/pixels"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "huber"}, r"method\.distance must be one of l1, mse; got 'huber'"),
        ({"alignment_weight": -1.0}, "must not be negative"),
        ({"projector": "none"}, "the student has 16, the teacher 24"),
        ({"projector": "conv"}, r"method\.projector must be one of"),
        ({"student_blocks": [4]}, r"method\.student_blocks has \[4\]; the student has blocks 0 to 3"),
        ({"teacher_blocks": [-1]}, r"method\.teacher_blocks has \[-1\]; the teacher has blocks 0 to 7"),
        ({"student_blocks": [0, 1]}, "must be equally many"),
        ({"teacher": {"reg_tokens": 4}}, "the teacher has 5 class and register tokens, the student 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("dmae", **settings)


def test_a_teacher_is_needed(make_method: MakeMethod) -> None:
    from edgemim.methods.dmae import DMAE, DMAESettings

    student = make_method("mae")
    with pytest.raises(ConfigError, match="learns from a teacher; give one with --teacher"):
        DMAE(student.adapter, student.masking, DMAESettings())
