"""CAE v2 against a second implementation, as the paper has it and as CAE with a teacher, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods.caev2 import CAEv2Settings
from edgemim.models.mask_plan import MaskPlan
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
STATISTICS = (IMAGENET_MEAN, IMAGENET_STD), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
NO_CLASS: dict[str, Any] = {"class_token": False, "global_pool": "avg"}
REGISTERS: dict[str, Any] = {"reg_tokens": 2}
PREFIX = {0: [], 1: ["cls_token"], 3: ["cls_token", "reg_token"]}
PAPER: dict[str, Any] = {"decoder_depth": 0}

CASES: dict[str, dict[str, Any]] = {
    "the paper's": PAPER,
    "CAE with a teacher": {"decoder_depth": 2, "visible_weight": 0.0, "alignment_weight": 2.0},
    "all terms": {"decoder_depth": 1, "visible_weight": 0.5, "alignment_weight": 1.5, "regressor_depth": 2},
    "another width": {"decoder_width": 24, "decoder_heads": 3, "alignment_weight": 2.0, "regressor_depth": 2},
    "another block": {"teacher_block": 3, "regressor_depth": 1},
    "no class token in the teacher": PAPER | {"teacher": NO_CLASS},
    "no class token in the student": PAPER | {"backbone": NO_CLASS},
    "no class token in either": PAPER | {"backbone": NO_CLASS, "teacher": NO_CLASS},
    "registers in both": PAPER | {"backbone": REGISTERS, "teacher": REGISTERS},
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
    method = make_method("caev2", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()

    assert method.teacher is not None
    pieces, own, twins = reference("masked_autoencoder"), reference("cae"), leaves(method)
    student, project, regressor, decoder, taught_state = (
        part(twins, name)
        for name in ("model.", "latents.project.", "latents.regressor.", "latents.decoder.", "teacher.model.")
    )
    prefix, taught_prefix = method.adapter.num_prefix, method.teacher.adapter.num_prefix
    shared = prefix if prefix == taught_prefix else 0
    given = method.settings

    def encode(image: Tensor, seen: list[int]) -> Tensor:
        tokens = pieces.encode(image, seen, student, patch=8, heads=2, blocks=4, prefix=PREFIX[prefix])[-1]
        if "latents.norm.weight" in twins:
            tokens = pieces.layer_norm(tokens, twins, "latents.norm")
        return pieces.layer_norm(pieces.linear(tokens, project, "0"), project, "1") if project else tokens

    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {
        name: ([], []) for name in ("masked", "visible", "class", "alignment")
    }
    for image, keep in zip(batch.images.double(), KEEPS, strict=True):
        hidden = [i for i in range(6) if i not in keep]
        colours = reference("masked_teachers").other_statistics(image, *STATISTICS)
        shape = {"patch": 8, "heads": 4, "blocks": 8, "prefix": PREFIX[taught_prefix]}
        taught = pieces.encode(colours, range(6), taught_state, **shape)[settings.get("teacher_block", 7)]
        latents = encode(image, keep)
        table = torch.as_tensor(reference("positions").sincos_table(latents.shape[1], 2, 3, 0))
        shape = {"heads": given.decoder_heads}
        guess = own.regress(
            pieces, latents[prefix:], keep, hidden, table, regressor, blocks=given.regressor_depth, **shape
        )
        decoded = own.decode(pieces, guess, hidden, table, decoder, blocks=given.decoder_depth, **shape)
        read = own.read(pieces, latents, decoder)
        for name, predicted, wanted in (
            ("masked", decoded, taught[[taught_prefix + i for i in hidden]]),
            ("visible", read[prefix:], taught[[taught_prefix + i for i in keep]]),
            ("class", read[:shared], taught[:shared]),
            ("alignment", guess, encode(image, hidden)[prefix:]),
        ):
            found[name][0].append(predicted)
            found[name][1].append(wanted)
    # A mean over four masked patches, two visible ones and the class token of each image.
    weights = {"masked": 4.0, "visible": 2 * given.visible_weight, "class": shared * given.visible_weight}
    whole = sum(weights.values())
    terms = {name: own.apart(*found[name]) * weight / whole for name, weight in weights.items() if weight}
    if given.alignment_weight:
        terms["alignment"] = own.squared(*found["alignment"]) * given.alignment_weight
    loss = sum(terms.values())
    loss.backward()  # type: ignore[union-attr]
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    logged = {name.removeprefix("loss/") for name in step.metrics if not name.endswith("_unscaled")}
    assert logged == set(terms)
    for name, term in terms.items():
        torch.testing.assert_close(step.metrics[f"loss/{name}"].double(), term.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in method.named_parameters():
        # Adds the same to all of a query's products, which a softmax does not see: 0 but for rounding.
        if name.endswith("norm_keys.bias"):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() < 1e-6
            parameter.grad = twins[name].grad = None
    assert_same_gradients(method, twins)


def test_the_teacher_sees_the_whole_image_and_the_student_its_visible_patches(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("caev2", **PAPER)
    hidden = PLAN.mask.reshape(-1, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, torch.full_like(batch.images, 1e3), batch.images)
    clean = method(batch, rng, PLAN).loss
    assert torch.equal(method(dataclasses.replace(batch, images=dirty, plain=batch.images), rng, PLAN).loss, clean)
    assert not torch.equal(method(dataclasses.replace(batch, plain=dirty), rng, PLAN).loss, clean)


def test_the_size_of_the_teachers_features_does_not_matter(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("caev2", teacher={"depth": 1}, **PAPER)
    assert method.teacher is not None
    plain = method(batch, rng, PLAN).loss
    method.teacher.model.blocks[0].register_forward_hook(  # type: ignore[index,union-attr]
        lambda module, inputs, output: 1000 * output
    )
    # A cosine is that of the directions; float32 roundings are all that is left.
    torch.testing.assert_close(method(batch, rng, PLAN).loss, plain, rtol=1e-5, atol=0)


def test_half_precision_keeps_the_loss_in_float32_and_every_weight_learning(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("caev2", alignment_weight=2.0)
    exact = method(batch, rng, PLAN).loss
    exact.backward()
    learnt = {name for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, PLAN).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    loss.backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == learnt


def test_the_defaults_are_the_papers() -> None:
    paper = {"regressor_depth": 4, "decoder_depth": 0, "decoder_width": 0, "decoder_heads": 12}
    assert CAEv2Settings() == CAEv2Settings(teacher_block=-1, visible_weight=1.0, alignment_weight=0.0, **paper)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visible_weight": -1.0}, r"^method\.visible_weight must not be negative; got -1\.0$"),
        ({"alignment_weight": -1.0}, r"^method\.alignment_weight must not be negative; got -1\.0$"),
        ({"regressor_depth": 0}, r"^method\.regressor_depth must be at least 1; got 0$"),
        ({"decoder_heads": 3}, r"^method\.decoder_heads 3 does not divide the 16 channels of regressor and decoder; "),
        ({"teacher_block": 8}, r"^method\.teacher_block 8 does not exist in the teacher; choose one of its blocks 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    make_method: MakeMethod, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method("caev2", **settings)
