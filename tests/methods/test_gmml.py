"""GMML against a second implementation; its rectangles are tested in `test_corruption.py`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._base import Batch, Method
from edgemim.methods.gmml import GMML, GMMLSettings

MakeMethod = Callable[..., Method]
# Of 6 blocks: those at 1/2, 2/3, 5/6 and 1 of the depth.
DEPTH, BLOCKS = 6, (2, 3, 4, 5)
PREFIXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "none": ({"class_token": False, "global_pool": "avg", "fc_norm": False}, []),
}


def crops_of(batch: Batch) -> list[Tensor]:
    assert batch.second is not None
    return [batch.images, batch.second.images]


@pytest.mark.parametrize(("shape", "prefix"), PREFIXES.values(), ids=PREFIXES.keys())
def test_loss_and_gradients_are_those_of_the_reference(
    make_method: MakeMethod,
    reference: Callable[[str], ModuleType],
    leaves: Callable[..., dict[str, Tensor]],
    part: Callable[..., dict[str, Tensor]],
    assert_same_gradients: Callable[..., None],
    batch: Batch,
    rng: torch.Generator,
    shape: dict[str, Any],
    prefix: list[str],
) -> None:
    method = make_method("gmml", backbone={"depth": DEPTH, **shape})
    step = method(batch, rng)
    step.loss.backward()

    again = torch.Generator().manual_seed(0)
    pieces, plain, twins = reference("masked_autoencoder"), reference("gmml"), leaves(method)
    encoder, head = part(twins, "model."), part(twins, "head.")
    loss, before = torch.zeros((), dtype=torch.float64), 3 if shape.get("reg_tokens") else len(prefix)
    for number, clean in enumerate(crops_of(batch), start=1):
        seen = method.corruption(clean, again)
        predictions = []
        for image in seen.images.double():
            after = pieces.encode(image, range(6), encoder, patch=8, heads=2, blocks=DEPTH, prefix=prefix)
            predictions.append(plain.recover(pieces, after, BLOCKS, head, prefix=before, grid=(2, 3)))
        term = plain.error(predictions, clean.double(), seen.mask[:, 0])
        # float32 against float64, some thousand roundings of 6e-8 each.
        torch.testing.assert_close(step.metrics[f"loss/pixels_{number}"].double(), term.detach(), rtol=1e-5, atol=0)
        loss = loss + term
    loss.backward()
    torch.testing.assert_close(step.loss.double(), loss, rtol=1e-5, atol=0)
    assert_same_gradients(method, twins)


def test_clean_pixels_have_no_say_and_every_corrupted_one_has(
    make_method: MakeMethod, batch: Batch, rng: torch.Generator
) -> None:
    method = make_method("gmml")
    captured: list[Tensor] = []

    def keep_gradient(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        captured.append(output)

    method.head.register_forward_hook(keep_gradient)
    method(batch, rng).loss.backward()
    again = torch.Generator().manual_seed(0)
    mask = torch.cat([method.corruption(clean, again).mask for clean in crops_of(batch)]).expand(-1, 3, -1, -1)
    gradient = captured[0].grad
    assert gradient is not None
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()


def test_the_defaults_are_those_of_the_released_code() -> None:
    assert GMMLSettings() == GMMLSettings(noise=0.75, foreign=0.3, align=1)
    assert (GMML.crops, GMML.masks, GMML.corrupts) == (2, False, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0.9}, "method.noise is a share of the image's area, in (0, 0.8]; got 0.9"),
        ({"foreign": 0.0}, "method.foreign is a share of the image's area, in (0, 0.8]; got 0.0"),
        ({"align": 0}, "method.align must be at least 1 pixel; got 0"),
        (
            {"align": 3},
            "images of 16x24 pixels are no whole number of method.align 3; choose a divisor of both sides, or 1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_method: MakeMethod, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_method("gmml", **settings)
    assert str(error.value) == message


def test_half_precision_keeps_the_loss_in_float32(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("gmml")
    exact = method(batch, torch.Generator().manual_seed(0)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch, torch.Generator().manual_seed(0)).loss
    assert loss.dtype == torch.float32
    # bf16 keeps 8 bits of each of the network's numbers.
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
