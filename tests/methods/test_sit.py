"""SiT against a second implementation, its contrastive term by hand, and how its copy follows."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods._contrast import contrast, of_all_processes
from edgemim.methods.sit import SiT, SiTSettings, momentum_at

MakeMethod = Callable[..., Method]
DEPTH = 6
PROJECTOR = {"projector_width": 20, "projector_outputs": 6}
PREFIXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "averaged": ({"global_pool": "avg"}, ["cls_token"]),
    "none": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
}


def crops_of(batch: Batch) -> list[Tensor]:
    assert batch.second is not None
    return [batch.images, batch.second.images]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def sit(make_method: MakeMethod) -> Callable[..., Method]:
    """`sit(backbone={...}, **settings)`, with a small projector and a copy that is not its original."""

    def make(**arguments: Any) -> Method:
        method = make_method("sit", **{**PROJECTOR, **arguments})
        with torch.no_grad():
            for parameter in method.momentum.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return method

    return make


@pytest.mark.parametrize(("shape", "prefix"), PREFIXES.values(), ids=PREFIXES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    sit: Callable[..., Method],
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    shape: dict[str, Any],
    prefix: list[str],
) -> None:
    method = sit(backbone={"depth": DEPTH, **shape}, reconstruction_weight=5.0)
    step = method(batch, generator())
    step.loss.backward()

    again = generator()
    pieces, pixels, plain = reference("masked_autoencoder"), reference("gmml"), reference("sit")
    twins = leaves(method)
    student, copied = part(twins, "model."), part(twins, "momentum.backbone.")
    before = 3 if shape.get("reg_tokens") else len(prefix)
    predictions, targets, masks = [], [], []
    views: dict[str, list[list[Tensor]]] = {"student": [], "teacher": []}
    for clean in crops_of(batch):
        seen = method.corruption(clean, again)
        views["student"].append([])
        views["teacher"].append([])
        for image, corrupted, mask in zip(clean.double(), seen.images.double(), seen.mask[:, 0], strict=True):
            after = pieces.encode(corrupted, range(6), student, patch=8, heads=2, blocks=DEPTH, prefix=prefix)
            predictions.append(pixels.recover(pieces, after[-1], part(twins, "head."), prefix=before, grid=(2, 3)))
            targets.append(image)
            masks.append(mask)
            looked = pieces.encode(image, range(6), copied, patch=8, heads=2, blocks=DEPTH, prefix=prefix)[-1]
            for who, tokens, state in (
                ("student", after[-1], part(twins, "projector.")),
                ("teacher", looked, part(twins, "momentum.heads.projector.")),
            ):
                image_level = tokens[0] if prefix else tokens.sum(dim=0) / len(tokens)
                views[who][-1].append(plain.project(pieces, image_level, state))
    pixel_term = pixels.error(predictions, targets, masks)
    contrastive = plain.info_nce(views["student"][0], views["teacher"][1], 0.2)
    contrastive = contrastive + plain.info_nce(views["student"][1], views["teacher"][0], 0.2)
    loss = 5 * pixel_term + contrastive
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    for name, term in (("pixels_unscaled", pixel_term), ("contrastive", contrastive)):
        torch.testing.assert_close(step.metrics[f"loss/{name}"].double(), term.detach(), rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_equal_directions_that_all_differ_cost_what_is_computed_by_hand() -> None:
    # Two unit vectors at a right angle: cosines 1 and 0, over 0.5: log(1 + exp(-2)).
    queries = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    loss = contrast(queries, torch.eye(2), torch.eye(2, dtype=torch.bool), 0.5)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


def test_several_positives_are_averaged_and_what_is_left_out_is_no_negative() -> None:
    # Of three keys the first is left out, the others are positives with cosines 1 and 0:
    # the mean of log(1 + 1/e) and log(1 + e).
    keys = torch.tensor([[0.0, 9.0], [1.0, 0.0], [0.0, 1.0]])
    positives, left_out = torch.tensor([[False, True, True]]), torch.tensor([[True, False, False]])
    query = torch.tensor([[2.0, 0.0]], requires_grad=True)
    loss = contrast(query, keys, positives, 1.0, left_out=left_out)
    wanted = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-6)
    loss.backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_the_images_of_other_processes_are_negatives(
    sit: Callable[..., Method], reference: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher, others = torch.randn(3, 4, 6, generator=generator(1))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)

    def gather(found: list[Tensor], own: Tensor) -> None:
        found[0].copy_(others)
        found[1].copy_(own)

    monkeypatch.setattr(dist, "all_gather", gather)
    loss = sit()._agreement(student, teacher)
    wanted = reference("sit").info_nce(student.double(), torch.cat([others, teacher]).double(), 0.2, own=4)
    # float32 against float64: a softmax of eight cosines over 0.2.
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)


def test_one_process_that_has_joined_a_group_keeps_its_own_rows(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        rows, own = of_all_processes(torch.eye(3))
    finally:
        dist.destroy_process_group()
    assert own == 0
    assert torch.equal(rows, torch.eye(3))


def test_the_copy_follows_along_a_cosine_of_the_run(
    sit: Callable[..., Method], reference: Callable[[str], ModuleType], batch: Batch
) -> None:
    method, steps = sit(), 8
    for step in (0, 3, 8):
        before = copy.deepcopy(method.momentum.state_dict())
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.requires_grad)
        method(dataclasses.replace(batch, epoch_share=step / steps), generator())
        method.after_step(1.0)
        stays = reference("sit").momentum(0.996, step, steps)
        for name, original in (
            ("backbone.blocks.0.mlp.fc1.weight", method.backbone.blocks[0].mlp.fc1.weight),  # type: ignore[union-attr]
            ("heads.projector.0.weight", method.projector[0].weight),
        ):
            wanted = before[name].double() * stays + original.double() * (1 - stays)
            # One rounding of float32.
            torch.testing.assert_close(method.momentum.state_dict()[name].double(), wanted, rtol=1e-6, atol=1e-7)
    assert momentum_at(0.996, 0) == pytest.approx(0.996)
    assert momentum_at(0.996, 1) == 1


def test_the_copy_begins_as_its_original_and_sees_the_clean_images(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("sit", **PROJECTOR)
    seen: list[Tensor] = []
    method.momentum.backbone.patch_embed.register_forward_hook(  # type: ignore[union-attr]
        lambda module, inputs, output: seen.append(inputs[0])
    )
    method(batch, generator()).loss.backward()
    assert torch.equal(torch.cat(seen), torch.cat(crops_of(batch)))
    assert not any(parameter.requires_grad for parameter in method.momentum.parameters())
    own = dict(method.backbone.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in method.momentum.backbone.named_parameters())


def test_the_defaults_are_those_of_the_released_code() -> None:
    assert SiTSettings() == SiTSettings(
        zeros=0.5,
        foreign=0.3,
        align=1,
        reconstruction_weight=1.0,
        temperature=0.2,
        momentum=0.996,
        projector_width=4096,
        projector_outputs=256,
    )
    assert (SiT.crops, SiT.masks, SiT.corrupts) == (2, False, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zeros": 0.9}, "method.zeros is a share of the image's area, in (0, 0.8]; got 0.9"),
        ({"foreign": 0.0}, "method.foreign is a share of the image's area, in (0, 0.8]; got 0.0"),
        ({"align": 0}, "method.align must be at least 1 pixel; got 0"),
        ({"reconstruction_weight": -1.0}, "method.reconstruction_weight must not be negative; got -1.0"),
        ({"temperature": 0.0}, "method.temperature must be above 0; got 0.0"),
        ({"momentum": 1.1}, "method.momentum must lie in [0, 1]; got 1.1"),
        ({"projector_width": 0}, "method.projector_width must be at least 1; got 0"),
        ({"projector_outputs": 0}, "method.projector_outputs must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        SiTSettings(**settings)
    assert str(error.value) == message


def test_half_precision_keeps_the_loss_in_float32(sit: Callable[..., Method], batch: Batch) -> None:
    method = sit()
    exact = method(batch, generator()).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, generator()).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers; a temperature of 0.2 makes five times as much of an error.
    torch.testing.assert_close(loss, exact, rtol=5e-2, atol=0)
