"""Pixels as patches: the order of their numbers, and their normalisation."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch

from edgemim.methods._base import Batch, Method
from edgemim.methods._pixels import normalise_patches, patchify, unpatchify
from edgemim.models.mask_plan import MaskPlan

MakeMethod = Callable[..., Method]


def test_a_worked_example_of_patches() -> None:
    # A 2 x 4 image of two 2 x 2 patches; a pixel's value is 100 * channel + 10 * row + column.
    rows, columns = torch.arange(2).view(2, 1), torch.arange(4).view(1, 4)
    image = torch.stack([100 * c + 10 * rows + columns for c in range(3)])[None].float()
    first, second = patchify(image, (2, 2))[0].tolist()
    assert first == [0, 100, 200, 1, 101, 201, 10, 110, 210, 11, 111, 211]
    assert second == [2, 102, 202, 3, 103, 203, 12, 112, 212, 13, 113, 213]


def test_patches_are_those_of_the_reference_and_go_back(reference: Callable[[str], ModuleType]) -> None:
    images = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    patches = patchify(images, (4, 4))
    for image, found in zip(images, patches, strict=True):
        assert torch.equal(found, torch.stack(reference("masked_autoencoder").patches_of(image, 4, "hwc")))
    assert torch.equal(unpatchify(patches, (4, 4), (8, 12)), images)
    oblong = patchify(images, (2, 4))
    assert oblong.shape == (2, 12, 24)
    assert torch.equal(unpatchify(oblong, (2, 4), (8, 12)), images)


def test_a_constant_patch_becomes_zero() -> None:
    patches = torch.full((1, 2, 48), 3.5)
    assert (normalise_patches(patches) == 0).all()


def test_any_other_patch_gets_mean_zero_and_unbiased_variance_one() -> None:
    patches = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0)) * 4 + 7
    normalised = normalise_patches(patches).double()
    # The epsilon under the root takes 1e-6 / 16 of the variance; the rest is rounding.
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(3, 5, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalised.var(-1, unbiased=True), torch.ones(3, 5, dtype=torch.float64))


def test_a_worked_example_of_normalisation() -> None:
    # Mean 2, deviations -1, 0, 1, unbiased variance (1 + 0 + 1) / 2 = 1.
    got = normalise_patches(torch.tensor([[[1.0, 2.0, 3.0]]]))
    torch.testing.assert_close(got, torch.tensor([[[-1.0, 0.0, 1.0]]]) / (1 + 1e-6) ** 0.5)


def test_a_normalised_prediction_gets_its_patchs_colours_back(make_method: MakeMethod, batch: Batch) -> None:
    method = make_method("mae", norm_pix=True)
    plan = MaskPlan.from_keep_ids(torch.tensor([[0], [1], [2]]), (2, 3))
    with torch.no_grad():
        method.pixels.decoder.predict.weight.zero_()
        method.pixels.decoder.predict.bias.zero_()
        shown = method.reconstruct(batch, plan)
    # A prediction of zero is each patch's mean.
    assert shown is not None
    means = patchify(batch.images, (8, 8)).mean(-1, keepdim=True).expand(-1, -1, 192)
    torch.testing.assert_close(patchify(shown, (8, 8)), means)
