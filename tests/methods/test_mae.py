"""MAE against a second implementation, and the numbers that the specification gives."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Batch, Method
from edgemim.methods.mae import MAE, MAESettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]
KEEPS = [[0, 3], [2, 5], [1, 4]]


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("prefix", [["cls_token"], ["cls_token", "reg_token"], []], ids=["class", "registers", "none"])
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    norm_pix: bool,
    prefix: list[str],
) -> None:
    shape: dict[str, Any] = {"reg_tokens": 2} if "reg_token" in prefix else {}
    if not prefix:
        shape = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    method = make_method("mae", backbone=shape, norm_pix=norm_pix)
    step = method(batch, rng, MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3)))
    step.loss.backward()

    plain, twins = reference("masked_autoencoder"), leaves(method)
    images = batch.images.double()
    before = 1 + shape["reg_tokens"] if shape.get("reg_tokens") else len(prefix)
    table = torch.as_tensor(reference("positions").sincos_table(16, 2, 3, before))
    encoder, decoder = part(twins, "model."), part(twins, "pixels.decoder.")
    predictions = [
        plain.decode(
            plain.encode(image, keep, encoder, patch=8, heads=2, blocks=4, prefix=prefix)[-1],
            keep,
            decoder,
            table,
            heads=4,
            blocks=2,
        )
        for image, keep in zip(images, KEEPS, strict=True)
    ]
    loss = plain.pixel_loss(predictions, images, KEEPS, 8, norm_pix)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)
    torch.testing.assert_close(step.metrics["loss/pixels"], step.loss.detach(), rtol=0, atol=0)


def test_the_first_loss_is_one_plus_the_variance_of_the_output() -> None:
    torch.manual_seed(0)
    adapter = adapt(build_backbone("vit_tiny_patch16_224", {"img_size": 64, "depth": 1}))
    adapter.initialise()
    method = MAE(adapter, RandomMasking(), MAESettings(decoder_depth=1))
    images = torch.randn(8, 3, 64, 64)
    outputs: list[Tensor] = []
    method.pixels.decoder.register_forward_hook(lambda module, inputs, output: outputs.append(output.detach()))
    plan = method.draw(Batch(images), torch.Generator().manual_seed(0))
    loss = float(method(Batch(images), torch.Generator(), plan).loss.detach())
    variance = float(outputs[0].square().mean())
    # A normalised target has mean square 767/768, and knows nothing of the prediction: their product averages
    # to zero within 1 / sqrt(8 * 12 * 768) = 0.4 %.
    assert loss == pytest.approx(767 / 768 + variance, rel=0.02)
    # Xavier's weights of 512 inputs of variance 1 and 768 outputs: 512 * 2 / (512 + 768).
    assert variance == pytest.approx(0.8, rel=0.1)


def test_only_masked_patches_are_predicted_and_each_counts(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("mae", norm_pix=False)
    plan = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
    captured: list[Tensor] = []

    def keep_gradient(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        captured.append(output)

    method.pixels.decoder.register_forward_hook(keep_gradient)
    method(batch, rng, plan).loss.backward()
    gradient = captured[0].grad
    assert gradient is not None
    assert gradient.shape == (3, 4, 3 * 8 * 8)
    assert (gradient != 0).all()
    shown = method.reconstruct(batch, plan)
    assert shown is not None
    assert shown.shape == batch.images.shape


def test_the_defaults_are_the_papers() -> None:
    assert MAESettings() == MAESettings(decoder_width=512, decoder_depth=8, decoder_heads=16, norm_pix=True)


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch, rng: torch.Generator) -> None:
    method = make_method("mae")
    plan = MaskPlan.from_keep_ids(torch.tensor(KEEPS), (2, 3))
    exact = method(batch, rng, plan).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, rng, plan).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
