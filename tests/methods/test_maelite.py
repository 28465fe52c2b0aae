"""MAE-lite against a second implementation, the properties of its teacher, and what it refuses."""

from __future__ import annotations

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
    "raw pixels, half weight": {"norm_pix": False, "attention_weight": 0.5},
    "other blocks": {"student_block": 1, "teacher_block": 4},
    "hidden states": {"hidden_weight": 0.25},
    "hidden states of other blocks": {"hidden_weight": 2.0, "student_block": 2, "teacher_block": 5},
    "a teacher with registers": {"teacher": {"reg_tokens": 2}, "hidden_weight": 1.0},
    "more heads than the teacher": {"backbone": {"num_heads": 8}},
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
    method = make_method("maelite", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    plain, relations, twins = reference("masked_autoencoder"), reference("relations"), leaves(method)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, 1))
    student, teacher = part(twins, "model."), part(twins, "teacher.model.")
    heads = settings.get("backbone", {}).get("num_heads", 2)
    registers = settings.get("teacher", {}).get("reg_tokens", 0)
    prefix = ["cls_token", "reg_token"] if registers else ["cls_token"]
    skip = (1, 1 + registers) if registers else (0, 0)
    blocks = settings.get("student_block", 3), settings.get("teacher_block", 7)
    colours = [
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (IMAGENET_MEAN, IMAGENET_STD, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    ]
    images = batch.images.double()
    predictions, students, teachers, hidden, wanted = [], [], [], [], []
    for image, keep in zip(images, KEEPS, strict=True):
        for_teacher = (image * colours[1] + colours[0] - colours[2]) / colours[3]
        own: dict[str, Any] = {"heads": heads, "prefix": ["cls_token"]}
        taught: dict[str, Any] = {"heads": 4, "prefix": prefix}
        joint = relations.projected(plain, image, keep, student, block=blocks[0], **own)
        students.append(relations.side(joint, skip[0]))
        joint = relations.projected(plain, for_teacher, keep, teacher, block=blocks[1], **taught)
        teachers.append(relations.side(joint, skip[1]))
        after = plain.encode(image, keep, student, patch=8, blocks=4, **own)
        hidden.append(after[blocks[0]][skip[0] :])
        wanted.append(plain.encode(for_teacher, keep, teacher, patch=8, blocks=8, **taught)[blocks[1]][skip[1] :])
        predictions.append(plain.decode(after[-1], keep, part(twins, "pixels.decoder."), table, heads=4, blocks=2))
    terms = {
        "pixels": (plain.pixel_loss(predictions, images, KEEPS, 8, settings.get("norm_pix", True)), 1.0),
        "attention": (
            relations.logit_error(students, teachers, twins["head_adapter.weight"][:, :, 0, 0], heads, 4),
            settings.get("attention_weight", 1.0),
        ),
    }
    if "hidden_weight" in settings:
        error = relations.token_error(hidden, wanted, twins["hidden_adapter.weight"])
        terms["hidden"] = (error, settings["hidden_weight"])
    loss = sum(term * weight for term, weight in terms.values())
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert len(step.metrics) == 2 * len(terms)
    for name, (term, _) in terms.items():
        torch.testing.assert_close(step.metrics[f"loss/{name}_unscaled"].double(), term.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_a_teacher_that_is_the_student_leaves_only_pixels_until_heads_change_places(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method: Any = make_method("maelite", teacher={"embed_dim": 16, "depth": 4, "num_heads": 2}, hidden_weight=1.0)
    method.teacher.model.load_state_dict(method.backbone.state_dict())
    method.teacher._same = True
    with torch.no_grad():
        method.head_adapter.weight.copy_(torch.eye(2)[:, :, None, None])
        method.hidden_adapter.weight.copy_(torch.eye(16))
    metrics = method(batch, rng, PLAN).metrics
    assert metrics["loss/attention"] == 0
    assert metrics["loss/hidden"] == 0
    assert metrics["loss/pixels"] > 0
    with torch.no_grad():
        method.head_adapter.weight.copy_(torch.eye(2).flip(0)[:, :, None, None])
    assert method(batch, rng, PLAN).metrics["loss/attention"] > 1e-3


def test_both_attend_to_the_same_patches_and_no_other(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("maelite")
    assert method.teacher is not None
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = Batch(torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images))
    clean = method(batch, rng, PLAN).metrics["loss/attention"]
    assert torch.equal(method(dirty, rng, PLAN).metrics["loss/attention"], clean)
    other = MaskPlan.from_keep_ids(torch.tensor([[0, 4], [2, 5], [1, 4]]), (2, 3))
    assert not torch.equal(method(batch, rng, other).metrics["loss/attention"], clean)


@pytest.mark.parametrize(("settings", "runs_the_block"), [({}, False), ({"hidden_weight": 1.0}, True)])
def test_the_teacher_stops_at_the_matched_block(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, settings: dict[str, Any], runs_the_block: bool
) -> None:
    method = make_method("maelite", teacher_block=4, **settings)
    assert method.teacher is not None
    calls: list[str] = []
    for name, module in method.teacher.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    method(batch, rng, PLAN)
    assert {"blocks.3", "blocks.4.attn.qkv"} < {*calls}
    assert ("blocks.4" in calls) == runs_the_block
    assert not {"blocks.5", "blocks.5.attn.qkv", "norm"} & {*calls}


def test_the_teacher_looks_at_the_plain_images(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("maelite")
    assert method.teacher is not None
    jittered, same_for_both = Batch(batch.images * 1.5, plain=batch.images), Batch(batch.images * 1.5)
    assert method(jittered, rng, PLAN).loss != method(same_for_both, rng, PLAN).loss
    method.teacher.scale.zero_()  # blind, it cannot tell them apart
    assert torch.equal(method(jittered, rng, PLAN).loss, method(same_for_both, rng, PLAN).loss)


def test_every_tensor_of_the_student_is_trained(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("maelite")
    method(batch, rng, PLAN).loss.backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_adapters_are_thrown_away_and_there_is_none_for_what_is_not_compared(make_method: MakeMethod) -> None:
    plain, both = make_method("maelite"), make_method("maelite", hidden_weight=0.5)
    assert plain.predictor_state()["head_adapter.weight"].shape == (4, 2, 1, 1)
    assert not any(name.startswith("hidden_adapter") for name in plain.predictor_state())
    assert both.predictor_state()["hidden_adapter.weight"].shape == (24, 16)
    assert not any(name.endswith("adapter.bias") for name in both.predictor_state())


def test_the_logits_are_mapped_and_compared_in_float32_under_autocast(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method: Any = make_method("maelite")
    mapped: list[Tensor] = []
    method.head_adapter.register_forward_hook(lambda module, inputs, output: mapped.extend([*inputs, output]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method(batch, rng, PLAN)
    assert [x.dtype for x in mapped] == [torch.float32, torch.float32]
    # bfloat16 keeps 8 bits: a float32 number that it holds too has 16 zeros at its end.
    assert all((x.bfloat16().float() != x).float().mean() > 0.9 for x in mapped)
    assert step.metrics["loss/attention"].dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention_weight": -1.0}, r"method\.attention_weight must not be negative; got -1"),
        ({"hidden_weight": -0.5}, r"method\.hidden_weight must not be negative; got -0\.5"),
        ({"student_block": 4}, r"method\.student_block 4 does not exist in the student; .* 0 to 3, or -1"),
        ({"teacher_block": 8}, r"method\.teacher_block 8 does not exist in the teacher; .* 0 to 7, or -1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_method("maelite", **settings)
    assert "\n" not in str(caught.value)
