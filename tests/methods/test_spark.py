"""SparK against a second implementation, what it must not see, the paper's numbers, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build, load_recipe
from edgemim.errors import ConfigError
from edgemim.masking import MASKINGS
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods._pixels import patchify
from edgemim.methods.spark import SparK, SparKSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import DROPPED, MaskPlan, gather_tokens
from edgemim.training.assembly import make_method as method_of_a_run
from edgemim.training.loop.optimiser import parameter_groups
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

MakeMethod = Callable[..., Method]
GRID = (2, 3)
KEEPS = [[0, 3], [2, 5], [1, 4]]
PLAN = MaskPlan.from_keep_ids(torch.tensor(KEEPS), GRID)
# Of stride 8, with levels 4 and 8 that a decoder gets and finer ones before them.
NET: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (4, 6, 8, 16), "patch_size": 1, "kernel_sizes": (3, 5, 3, 3)}
V2 = {"use_grn": True, "ls_init_value": None}

CASES: dict[str, dict[str, Any]] = {
    "convnext": {"backbone": NET, "decoder_width": 16},
    "convnext v2": {"backbone": NET | V2, "decoder_width": 32},
}


def predicted(
    reference: Callable[[str], ModuleType], twins: dict[str, Tensor], part: Any, images: Tensor, width: int
) -> list[Tensor]:
    """Images that the plain reference predicts, in training mode."""
    plain, state = reference("spark"), part(twins, "model.")
    each = [plain.convnext(image, keep, GRID, state) for image, keep in zip(images, KEEPS, strict=True)]
    levels = {stride: [found[stride] for found in each] for stride in (4, 8)}
    made: list[Tensor] = plain.decode(levels, part(twins, "cells.decoder."), GRID, width=width, batch_norms=False)
    return made


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
    method = make_method("spark", **settings)
    step = method(batch, rng, PLAN)
    step.loss.backward()
    twins, images = leaves(method), batch.images.double()
    made = predicted(reference, twins, part, images, settings["decoder_width"])
    loss = reference("spark").cell_loss(made, images, KEEPS, GRID)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.metrics["loss/pixels"], step.loss.detach(), rtol=0, atol=0)
    assert_same_gradients(method, twins)


def test_reconstructions_have_each_cells_own_colours(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    batch: Batch,
) -> None:
    method = make_method("spark", backbone=NET, decoder_width=16)
    with torch.no_grad():
        shown = method.reconstruct(batch, PLAN)
    assert shown is not None
    plain, images = reference("spark"), batch.images.double()
    with torch.no_grad():
        made = predicted(reference, leaves(method), part, images, 16)
    for own, other, image in zip(shown.double(), made, images, strict=True):
        cells = zip(plain.cells_of(own, GRID), plain.cells_of(other, GRID), plain.cells_of(image, GRID), strict=True)
        for cell, normalised, original in cells:
            mean, deviation = plain.statistics(original)
            # float32 against float64, numbers of about 1.
            torch.testing.assert_close(cell, normalised * deviation + mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_matter_as_targets_alone(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator, training: bool
) -> None:
    method = make_method("spark", backbone=NET).train(training)
    seen: list[Tensor] = []
    method.cells.decoder.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    hidden = PLAN.mask.view(3, 1, *GRID).repeat_interleave(8, 2).repeat_interleave(8, 3)
    dirty = torch.where(hidden, 1e4 * torch.randn(batch.images.shape, generator=rng), batch.images)
    losses = [method(Batch(images), rng, PLAN).loss for images in (batch.images, dirty)]
    assert torch.equal(*seen)
    assert not torch.equal(*losses)


def test_only_masked_cells_are_predicted_and_each_counts(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("spark", backbone=NET)
    role = PLAN.role.clone()
    for image, cell in ((0, 1), (1, 0), (2, 5)):
        role[image, cell] = DROPPED
    plan, captured = MaskPlan(role, GRID), list[Tensor]()

    def keep_gradient(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        captured.append(output)

    method.cells.decoder.register_forward_hook(keep_gradient)
    method(batch, rng, plan).loss.backward()
    gradient = captured[0].grad
    assert gradient is not None
    asked = plan.mask.view(3, 1, *GRID).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(gradient)
    assert (gradient[asked] != 0).all()
    assert (gradient[~asked] == 0).all()


def test_the_first_loss_is_one_plus_the_mean_square_of_the_prediction() -> None:
    torch.manual_seed(0)
    shape = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "patch_size": 1}
    adapter = adapt(build_backbone("convnextv2_atto", shape), (64, 64))
    method = SparK(adapter, RandomMasking(mask_ratio=0.5), SparKSettings(decoder_width=32))
    outputs: list[Tensor] = []
    method.cells.decoder.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    images = torch.randn(8, 3, 64, 64)
    rng = torch.Generator().manual_seed(0)
    batch = Batch(images)
    plan = method.draw(batch, rng)
    loss = float(method(batch, rng, plan).loss.detach())
    predicted = gather_tokens(patchify(outputs[0], (8, 8)), plan.mask_ids)
    # A target of 3 * 8 * 8 numbers of unbiased variance 1 has mean square 191/192; its product with a prediction that
    # knows nothing of it averages to zero within 1 / sqrt(8 * 32 * 192) = 0.5 %.
    assert loss == pytest.approx(191 / 192 + float(predicted.square().mean()), rel=0.03)


def test_the_recipe_shows_as_many_cells_as_the_paper() -> None:
    recipe = load_recipe("spark")
    masking = dict(recipe["masking"])
    strategy = build(MASKINGS.get(masking.pop("name")), masking, "masking")
    plan = strategy.sample(2, (7, 7), torch.Generator().manual_seed(0))
    assert plan.keep_ids.shape == (2, 20)
    training = build(TrainingSettings, recipe["training"], "training")
    assert training.optimiser == "lamb"
    assert training.learning_rate == pytest.approx(3.2e-3)
    assert training.min_lr == pytest.approx(1e-3 * training.learning_rate)
    assert training.warmup * training.epochs == pytest.approx(40)
    assert (training.weight_decay, training.weight_decay_end) == (0.04, 0.2)
    assert (training.betas, training.clip_grad) == ((0.9, 0.95), 5.0)


@pytest.mark.parametrize("recipe", ["spark", "spark-small"])
def test_recipes_build_the_networks_that_they_name(recipe: str) -> None:
    method = method_of_a_run(build(RunSettings, load_recipe(recipe) | {"data": "digits"}))
    adapter = method.adapter
    expected = ((7, 7), (32, 32), 768) if recipe == "spark" else ((4, 4), (8, 8), 64)
    assert (adapter.grid, adapter.stride, method.settings.decoder_width) == expected
    strides = [level.stride for level in method.cells.levels]
    assert strides == ([4, 8, 16, 32] if recipe == "spark" else [4, 8])


def test_norms_of_the_decoders_levels_are_the_encoders_kind(make_method: MakeMethod) -> None:
    kinds = {"LayerNorm2d": make_method("spark", backbone=NET)}
    torch.manual_seed(0)
    resnet = adapt(build_backbone("test_resnet"), (64, 64))
    kinds["BatchNorm2d"] = SparK(resnet, RandomMasking(), SparKSettings(decoder_width=32))
    for kind, method in kinds.items():
        assert {type(fill.norm).__name__ for fill in method.cells.decoder.fill.values()} == {kind}


def test_mask_vectors_are_not_decayed(make_method: MakeMethod) -> None:
    method = make_method("spark", backbone=NET)
    vectors = {id(p) for n, p in method.named_parameters() if n.endswith("mask_token")}
    groups = parameter_groups(method, TrainingSettings(steps=1, weight_decay=0.1))
    rates = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert vectors
    assert {rates[vector] for vector in vectors} == {0.0}
    assert set(rates.values()) == {0.0, 0.1}


def test_the_default_is_the_papers() -> None:
    assert SparKSettings() == SparKSettings(decoder_width=768)


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("spark", backbone=NET, decoder_width=16)
    exact = method(batch, rng, PLAN).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, PLAN).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=3e-2, atol=0)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "message"),
    [
        ("test_resnet", {}, (64, 90), "images of 64x90 are no whole number of the 32x32 pixels"),
        ("test_resnet", {"block_args": {"attn_layer": "eca"}}, (64, 64), r"\(EcaModule\) lets a visible cell depend"),
        ("test_resnet", {}, (64, 64), "decoder_width 48 cannot be halved 5 times.*choose a multiple of 32"),
        (
            "test_maxvit",
            {},
            None,
            r"MaxxVit can do full, blocks \(no convnet: 'stages\.0\.blocks\.0\.attn_block' \(Part\w+\)\), ",
        ),
    ],
    ids=["size", "module", "width", "attention"],
)
def test_what_does_not_fit_is_refused_in_one_line(
    name: str, arguments: dict[str, Any], size: tuple[int, int] | None, message: str
) -> None:
    adapter = adapt(build_backbone(name, arguments), size)
    with pytest.raises(ConfigError, match=message) as caught:
        SparK(adapter, RandomMasking(), SparKSettings(decoder_width=48))
    assert "\n" not in str(caught.value)


def test_a_vit_is_told_what_fits_it(make_method: MakeMethod) -> None:
    with pytest.raises(ConfigError, match=r"'sparse'; VisionTransformer can do .*methods .*mae") as caught:
        SparK(make_method("mae").adapter, RandomMasking(), SparKSettings())
    assert "spark" not in str(caught.value).split("methods")[1]
