"""Self-distillation for further pre-training: against a second implementation, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods.selfdistill import SelfDistill, SelfDistillSettings
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
EVERYTHING = range(6)

REGISTERS = {"reg_tokens": 2, "class_token": False, "global_pool": "avg", "fc_norm": False}
PATCHES = {"class_token": False, "global_pool": "avg", "fc_norm": False}

# Settings, the names of the prefix tokens, and whether there is a class token.
CASES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "the defaults": ({}, ["cls_token"], True),
    "another weight, raw pixels": ({"alignment_weight": 0.25, "norm_pix": False}, ["cls_token"], True),
    "registers beside the class token": (
        {"backbone": {"reg_tokens": 2}, "teacher": {"reg_tokens": 2}},
        ["cls_token", "reg_token"],
        True,
    ),
    "no class token": ({"backbone": PATCHES, "teacher": PATCHES}, [], False),
    "registers alone": ({"backbone": REGISTERS, "teacher": REGISTERS}, ["reg_token"], False),
}


@pytest.mark.parametrize(("settings", "prefix", "has_class"), CASES.values(), ids=CASES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    settings: dict[str, Any],
    prefix: list[str],
    has_class: bool,
) -> None:
    method = make_method("selfdistill", **settings)
    # The student sees another crop than the teacher, as with colour jitter.
    step = method(Batch(batch.images * 1.25 - 0.5, plain=batch.images), rng, PLAN)
    step.loss.backward()

    encoder, plain, twins = reference("masked_autoencoder"), reference("plain_distillation"), leaves(method)
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    tokens = sum(len(student[name][0]) for name in prefix)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, tokens))
    own_mean, own_std, mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    )

    def summary(image: Tensor, state: dict[str, Tensor]) -> Tensor:
        last: Tensor = encoder.encode(image, EVERYTHING, state, patch=8, heads=2, blocks=4, prefix=prefix)[-1]
        return last[0] if has_class else sum(last[tokens:]) / 6  # type: ignore[return-value]

    images = batch.images.double()
    predictions, students, teachers = [], [], []
    for image, keep in zip(images, KEEPS, strict=True):
        jittered = image * 1.25 - 0.5
        seen = encoder.encode(jittered, keep, student, patch=8, heads=2, blocks=4, prefix=prefix)[-1]
        predictions.append(encoder.decode(seen, keep, part(twins, "pixels.decoder."), table, heads=4, blocks=2))
        students.append(summary(jittered, student))
        teachers.append(summary((image * own_std + own_mean - mean) / std, teacher))
    pixels = encoder.pixel_loss(predictions, images * 1.25 - 0.5, KEEPS, 8, settings.get("norm_pix", True))
    alignment, weight = plain.summary_loss(students, teachers), settings.get("alignment_weight", 1.0)
    # Two backward passes, as the authors do it; the method has one.
    pixels.backward()
    (weight * alignment).backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), pixels + weight * alignment, rtol=1e-5, atol=0)
    expected = {"loss/pixels": pixels, "loss/alignment": weight * alignment, "loss/alignment_unscaled": alignment}
    for name, value in expected.items():
        torch.testing.assert_close(step.metrics[name].double(), value.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_a_step_is_one_masked_and_one_full_pass_of_the_student_and_one_full_pass_of_the_teacher(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("selfdistill")
    lengths: dict[str, list[int]] = {"student": [], "teacher": []}
    for name, model in (("student", method.backbone), ("teacher", method.teacher.model)):  # type: ignore[union-attr]
        blocks: Any = model.blocks
        blocks[0].register_forward_hook(lambda module, inputs, output, n=name: lengths[n].append(inputs[0].shape[1]))
    method(batch, rng, PLAN)
    assert sorted(lengths["student"]) == [1 + 2, 1 + 6]
    assert lengths["teacher"] == [1 + 6]


def test_a_student_that_is_the_teacher_is_held_back_by_nothing(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method, mae = make_method("selfdistill"), make_method("mae")
    assert method.teacher is not None
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    mae.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("teacher.")})
    step = method(batch, rng, PLAN)
    assert step.metrics["loss/alignment"] == 0
    assert torch.equal(step.loss, mae(batch, rng, PLAN).loss)


def test_the_decoder_of_stage_1_can_be_taken_up(make_method: MakeMethod) -> None:
    stage1, stage2 = make_method("mae"), make_method("selfdistill")
    assert stage2.load_predictor(stage1.predictor_state()) == sorted(stage2.predictor_state())


def test_a_head_of_the_teacher_is_not_looked_at(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    assert make_method("selfdistill", teacher={"num_classes": 3})(batch, rng).loss.isfinite()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"embed_dim": 24}, r"its cls_token is \[1, 1, 24\], the student's \[1, 1, 16\]"),
        ({"depth": 2}, r"its blocks\.2\.norm1\.weight is absent, the student's \[16\]"),
        ({"depth": 6}, r"its blocks\.4\.norm1\.weight is \[16\], the student's absent"),
        ({"reg_tokens": 2}, r"its pos_embed is \[1, 9, 16\], the student's \[1, 7, 16\]"),
    ],
)
def test_a_teacher_of_another_architecture_is_refused(
    make_method: MakeMethod, teacher: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        make_method("selfdistill", teacher=teacher)
    assert "\n" not in str(refusal.value)
    assert "give the checkpoint of stage 1" in str(refusal.value)


def test_a_negative_weight_is_refused(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError, match=r"method\.alignment_weight must not be negative; got -1"):
        make_method("selfdistill", alignment_weight=-1.0)


def test_without_a_teacher_it_says_how_to_make_one(make_method: MakeMethod) -> None:
    student = make_method("mae")
    with pytest.raises(ConfigError, match=r"run stage 1 \(edgemim pretrain --method mae --init ORIGINAL") as refusal:
        SelfDistill(student.adapter, student.masking, SelfDistillSettings())
    assert "\n" not in str(refusal.value)
