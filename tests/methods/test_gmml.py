"""GMML against a second implementation; its rectangles are tested in `test_corruption.py`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.methods._base import Batch, Method
from edgemim.methods.gmml import GMML, GMMLSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone

MakeMethod = Callable[..., Method]
# Of 6 blocks: those at 1/2, 2/3, 5/6 and 1 of the depth.
DEPTH, BLOCKS = 6, (2, 3, 4, 5)
PREFIXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "class": ({}, ["cls_token"]),
    "registers": ({"reg_tokens": 2}, ["cls_token", "reg_token"]),
    "averaged": ({"global_pool": "avg"}, ["cls_token"]),
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
    before = 3 if shape.get("reg_tokens") else len(prefix)
    predictions, targets, masks = [], [], []
    for clean in crops_of(batch):
        seen = method.corruption(clean, again)
        targets += list(clean.double())
        masks += list(seen.mask[:, 0])
        for image in seen.images.double():
            after = pieces.encode(image, range(6), encoder, patch=8, heads=2, blocks=DEPTH, prefix=prefix)
            tokens = plain.averaged(pieces, after, BLOCKS, encoder)
            predictions.append(plain.recover(pieces, tokens, head, prefix=before, grid=(2, 3)))
    loss = plain.error(predictions, targets, masks)
    loss.backward()
    # float32 against float64, some thousand roundings of 6e-8 each.
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


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (6, 8, 10, 12)), (24, (12, 16, 20, 24)), (6, (3, 4, 5, 6)), (4, (2, 3, 4)), (2, (1, 2)), (1, (1,))],
)
def test_it_averages_the_middle_the_end_and_two_between(
    make_method: MakeMethod, depth: int, blocks: tuple[int, ...]
) -> None:
    assert make_method("gmml", backbone={"depth": depth}).blocks == tuple(number - 1 for number in blocks)


@pytest.mark.parametrize("method", ["gmml", "sit"])
def test_stages_are_refused(method: str) -> None:
    shape = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    swin = adapt(build_backbone("swin_tiny_patch4_window7_224", shape))
    convnet = adapt(build_backbone("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)}), (32, 64))
    cls = METHODS.get(method)
    for adapter in (swin, convnet):
        with pytest.raises(ConfigError, match=f"method '{method}' needs .* 'uniform'; .* or as backbone one without"):
            cls(adapter, RandomMasking(), cls.Settings())


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
