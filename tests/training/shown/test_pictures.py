"""The picture of reconstructions: the image, what was seen of it, and what the method made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from edgemim.methods._base import Batch, Method
from edgemim.preprocess import Preprocess
from edgemim.training.shown.pictures import draw, save_picture

GAP = 2
FACTOR = 6  # images of 16 pixels are shown at 96


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def tile(sheet: Image.Image, row: int, column: int) -> npt.NDArray[np.uint8]:
    """One image of the sheet at its own size, uint8 [16, 16, 3]."""
    side = 16 * FACTOR
    top, left = GAP + row * (side + GAP), GAP + column * (side + GAP)
    enlarged = np.asarray(sheet)[top : top + side, left : left + side]
    small = enlarged[::FACTOR, ::FACTOR]
    assert np.array_equal(small.repeat(FACTOR, 0).repeat(FACTOR, 1), enlarged)
    return small


def grid(method: Method, pixels: npt.NDArray[np.uint8], contract: Preprocess, seed: int = 0) -> Image.Image:
    drawn = draw(method, Batch(torch.from_numpy(contract.normalise(pixels))), contract, seed=seed)
    assert drawn is not None
    kind, sheet = drawn
    assert kind == "reconstructions"
    return sheet


def test_the_rows_are_image_visible_and_prediction(
    make_mae: Callable[..., Method], pixels: npt.NDArray[np.uint8], contract: Preprocess
) -> None:
    method = make_mae()
    sheet = grid(method, pixels, contract)
    assert sheet.size == (3 * (16 * FACTOR + GAP) + GAP, 3 * (16 * FACTOR + GAP) + GAP)
    plan = method.draw(Batch(torch.zeros(3, 3, 16, 16)), torch.Generator().manual_seed(0))
    hidden = plan.mask.reshape(3, 4, 4).numpy().repeat(4, axis=1).repeat(4, axis=2)
    for column in range(3):
        image, seen, mixed = (tile(sheet, row, column) for row in range(3))
        where = hidden[column]
        assert where.mean() == 0.75
        assert np.array_equal(image, pixels[column])
        assert np.array_equal(seen[~where], pixels[column][~where])
        assert (seen[where] == 128).all()  # grey: 0.5 of 255, rounded
        assert np.array_equal(mixed[~where], pixels[column][~where])
        assert not np.array_equal(mixed[where], pixels[column][where])
        assert len(np.unique(mixed[where])) > 20


def test_every_picture_of_a_run_hides_the_same_patches(
    make_mae: Callable[..., Method], pixels: npt.NDArray[np.uint8], contract: Preprocess
) -> None:
    method = make_mae()
    first = grid(method, pixels, contract)
    torch.rand(3)
    assert np.array_equal(np.asarray(grid(method, pixels, contract)), np.asarray(first))
    assert not np.array_equal(np.asarray(grid(method, pixels, contract, seed=1)), np.asarray(first))
    assert method.training


def test_a_method_that_reconstructs_nothing_shows_what_it_hides(
    make_mae: Callable[..., Method],
    pixels: npt.NDArray[np.uint8],
    contract: Preprocess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = make_mae()
    whole = grid(method, pixels, contract)
    monkeypatch.setattr(type(method), "reconstruct", Method.reconstruct)
    drawn = draw(method, Batch(torch.from_numpy(contract.normalise(pixels))), contract)
    assert drawn is not None
    kind, sheet = drawn
    assert kind == "masks"
    # The first two of the three rows: the images, and what is seen of them.
    assert sheet.size == (whole.width, 2 * (16 * FACTOR + GAP) + GAP)
    assert all(np.array_equal(tile(sheet, r, c), tile(whole, r, c)) for r in range(2) for c in range(3))


def test_a_method_that_hides_nothing_draws_nothing(
    make_mae: Callable[..., Method],
    pixels: npt.NDArray[np.uint8],
    contract: Preprocess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = make_mae()
    monkeypatch.setattr(type(method), "masks", False)
    assert draw(method, Batch(torch.from_numpy(contract.normalise(pixels))), contract) is None


def test_a_picture_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    save_picture(Image.new("RGB", (4, 4)), tmp_path / "new" / "a.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (4, 4)
