"""Random crop, flip and jitter: a pure function of (seed, epoch, index), of the asked size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgemim.errors import ConfigError
from edgemim.preprocess import Pixels
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.settings.augmentation import AugmentationSettings

IDENTITY = AugmentationSettings(min_scale=1.0, max_scale=1.0, max_aspect=1.0, flip=False)


def pixels(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def augmentation(size: tuple[int, int] = (8, 8), seed: int = 0, **settings: Any) -> Augmentation:
    return Augmentation(size=size, settings=AugmentationSettings(**settings), seed=seed)


def test_the_same_seed_epoch_and_index_give_the_same_image() -> None:
    image, augment = pixels(20, 30), augmentation()
    first = augment(image, 3, 5)
    augment(image, 0, 0)
    torch.rand(3)
    assert torch.equal(augment(image, 3, 5), first)
    assert not torch.equal(augment(image, 4, 5), first)
    assert not torch.equal(augment(image, 3, 6), first)
    assert not torch.equal(augmentation(seed=1)(image, 3, 5), first)


@pytest.mark.parametrize("shape", [(8, 8), (5, 60), (60, 5), (1, 1), (3, 2), (100, 100), (1, 40), (40, 1)])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (12, 4), (2, 64)])
def test_the_result_has_the_asked_size_whatever_the_image_is(shape: tuple[int, int], size: tuple[int, int]) -> None:
    for index in range(10):
        image = augmentation(size)(pixels(*shape), 0, index)
        assert image.shape == (3, *size)
        assert image.dtype == torch.uint8


def test_half_of_the_images_are_mirrored() -> None:
    augment = augmentation((4, 4), min_scale=1.0, max_aspect=1.0)
    image = pixels(4, 4)
    plain = torch.from_numpy(image.copy()).permute(2, 0, 1)
    found = [augment(image, 0, index) for index in range(200)]
    mirrored = sum(torch.equal(i, plain.flip(-1)) for i in found)
    assert mirrored + sum(torch.equal(i, plain) for i in found) == 200
    assert 65 < mirrored < 135  # 100 with a deviation of 7


def test_without_crop_and_flip_the_image_stays_as_it_is() -> None:
    image = pixels(8, 8)
    same = Augmentation(size=(8, 8), settings=IDENTITY, seed=0)(image, 0, 0)
    assert np.array_equal(same.permute(1, 2, 0).numpy(), image)


def test_a_crop_of_another_shape_is_resized_with_antialiasing() -> None:
    # A fine chessboard becomes grey, not black or white.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, axis=2)
    small = Augmentation(size=(8, 8), settings=IDENTITY, seed=0)(image, 0, 0).float()
    assert (small - 127.5).abs().max() < 10


def test_the_image_is_not_changed() -> None:
    image = pixels(8, 8)
    image.setflags(write=False)  # the cache hands out read-only views
    before = image.copy()
    Augmentation(size=(8, 8), settings=IDENTITY, seed=0)(image, 0, 0).zero_()
    assert np.array_equal(image, before)


def test_jitter_changes_the_colours_and_not_the_crop() -> None:
    image = pixels(20, 30)
    plain, spared = augmentation(), augmentation(colour_jitter=0.4, jitter_teacher=False)
    crops = spared.draw([(3, 5)], [(20, 30)])
    both = spared.colours(spared.crop_each([image], crops), crops)
    assert torch.equal(both["plain"][0], plain(image, 3, 5))
    assert not torch.equal(both["images"], both["plain"])
    assert torch.equal(augmentation(colour_jitter=0.4)(image, 3, 5), both["images"][0])


def test_jitter_is_as_strong_as_asked() -> None:
    # A grey image has no contrast and no saturation: only its brightness moves, by a factor from [0.6, 1.4], but for
    # one grey level that each of the other two may lose by rounding.
    grey = np.full((8, 8, 3), 100, dtype=np.uint8)
    augment = augmentation(colour_jitter=0.4)
    levels = [int(augment(grey, 0, index)[0, 0, 0]) for index in range(400)]
    assert 58 <= min(levels) < 65
    assert 135 < max(levels) <= 142


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_jitter_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.colour_jitter must lie in \[0, 1\]; got"):
        AugmentationSettings(colour_jitter=strength)


def test_an_epoch_shows_a_new_view_unless_they_are_numbered() -> None:
    image = pixels(20, 30)
    fresh, three = augmentation(), augmentation(views=3)
    for epoch in range(7):
        assert torch.equal(three(image, epoch, 5), fresh(image, epoch % 3, 5))
    assert [fresh.settings.view(e) for e in (0, 4, 9)] == [0, 4, 9]
    assert [three.settings.view(e) for e in (0, 4, 9)] == [0, 1, 0]
    assert (fresh.settings.different_views, three.settings.different_views) == (0, 3)


@pytest.mark.parametrize("random", [{"flip": True}, {"min_scale": 0.9}, {"max_aspect": 1.1}, {"colour_jitter": 0.1}])
def test_without_anything_random_there_is_one_view(random: dict[str, Any]) -> None:
    fixed: dict[str, Any] = {"min_scale": 1.0, "max_aspect": 1.0, "flip": False}
    assert AugmentationSettings(**fixed).different_views == 1
    assert AugmentationSettings(**fixed, views=5).view(7) == 0
    assert AugmentationSettings(**(fixed | random)).different_views == 0


def test_a_negative_number_of_views_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.views must not be negative; got -1"):
        AugmentationSettings(views=-1)
