"""What is drawn for a crop: a pure function of (seed, view, index), spread as the settings say."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.training.feed.draws import draw_crops, uniform_numbers
from edgemim.training.settings.augmentation import AugmentationSettings

SHAPES = [(20, 30), (5, 60), (60, 5), (1, 1), (1, 40)]


def draw(count: int, shape: tuple[int, int], size: tuple[int, int] = (8, 8), seed: int = 0, **settings: float | bool):
    """Boxes, mirrors and factors of the first images of an epoch, all of one shape, as arrays."""
    places = [(0, index) for index in range(count)]
    crops = draw_crops(AugmentationSettings(**settings), size, seed, places, [shape] * count)
    return crops.boxes.numpy(), crops.mirrored.numpy(), crops.factors.numpy()


def test_the_numbers_of_an_image_do_not_depend_on_its_batch() -> None:
    settings = AugmentationSettings(colour_jitter=0.4)
    places, shapes = [(3, 5), (0, 0), (3, 6), (4, 5)], [(20, 30), (40, 10), (20, 30), (20, 30)]
    together = draw_crops(settings, (8, 8), 1, places, shapes)
    for k, (place, shape) in enumerate(zip(places, shapes, strict=True)):
        alone = draw_crops(settings, (8, 8), 1, [place], [shape])
        for name, values in vars(together).items():
            assert (values[k] == getattr(alone, name)[0]).all(), name


def test_seeds_views_and_indices_give_other_numbers() -> None:
    views, indices = np.divmod(np.arange(10_000), 100)
    numbers = [uniform_numbers(seed, views, indices, 3) for seed in (0, 1, 2**70)]
    assert len(np.unique(numbers)) == 3 * 10_000 * 3


def test_the_numbers_are_uniform_and_independent() -> None:
    # Places that differ in a few low bits: what a weak hash would not tell apart.
    views, indices = np.divmod(np.arange(40_000), 20_000)
    numbers = uniform_numbers(0, views, indices, 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    # 1600 in a bin with a deviation of 40.
    assert np.abs(counts - 1600).max() < 200
    neighbours = np.concatenate([numbers[:20_000], numbers[20_000:], np.roll(numbers[:20_000], 1, axis=0)], axis=1)
    correlation = np.corrcoef(neighbours.T) - np.eye(12)
    assert np.abs(correlation).max() < 0.035  # five deviations of 1 / sqrt(20,000)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_box_lies_inside_the_image(shape: tuple[int, int]) -> None:
    boxes, _, _ = draw(500, shape, size=(8, 16))
    top, left, height, width = boxes.T
    assert height.min() > 0
    assert width.min() > 0
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= shape[0]
    assert (left + width).max() <= shape[1]


def test_areas_and_aspects_are_those_asked_for() -> None:
    boxes, _, _ = draw(2000, (400, 400), min_scale=0.3, max_scale=0.6, max_aspect=1.5)
    areas, aspects = boxes[:, 2] * boxes[:, 3] / 160_000, boxes[:, 3] / boxes[:, 2]
    # Sides are rounded to a pixel of some 200.
    assert 0.297 < areas.min() < 0.31
    assert 0.59 < areas.max() < 0.606
    assert 1 / 1.52 < aspects.min() < 1 / 1.45
    assert 1.45 < aspects.max() < 1.52
    # As likely flat as tall: log-uniform.
    assert abs(np.log(aspects).mean()) < 0.03
    assert abs(areas.mean() - 0.45) < 0.01


def test_every_corner_is_as_likely_as_any_other() -> None:
    # Crops of exactly half the width of a 20 x 20 image: eleven places for each, 0 to 10.
    boxes, _, _ = draw(11_000, (20, 20), min_scale=0.25, max_scale=0.25, max_aspect=1.0)
    assert (boxes[:, 2:] == 10).all()
    for side in (0, 1):
        counts = np.bincount(boxes[:, side], minlength=11)
        assert len(counts) == 11
        assert np.abs(counts - 1000).max() < 160  # 1000 with a deviation of 30


def test_a_crop_that_cannot_fit_is_the_largest_in_the_middle() -> None:
    boxes, _, _ = draw(20, (10, 40), min_scale=1.0, max_aspect=1.1)
    assert boxes.tolist() == [[0, 15, 10, 10]] * 20
    # Nothing is random about a whole image, also where a rounded square of its area fits in two places.
    boxes, _, _ = draw(20, (100, 101), min_scale=1.0, max_aspect=1.0)
    assert boxes.tolist() == [[0, 0, 100, 100]] * 20


def test_half_of_the_images_are_mirrored_or_none() -> None:
    _, mirrored, _ = draw(1000, (8, 8))
    assert 430 < mirrored.sum() < 570  # 500 with a deviation of 15.8
    _, mirrored, _ = draw(1000, (8, 8), flip=False)
    assert not mirrored.any()


def test_jitter_is_as_strong_as_asked_and_leaves_the_box_alone() -> None:
    boxes, mirrored, factors = draw(1000, (20, 30), colour_jitter=0.4)
    plain_boxes, plain_mirrored, none = draw(1000, (20, 30))
    assert (boxes == plain_boxes).all()
    assert (mirrored == plain_mirrored).all()
    assert (none == 1).all()
    assert (factors.min(axis=0) < 0.61).all()
    assert (factors.min(axis=0) >= 0.6).all()
    assert (factors.max(axis=0) > 1.39).all()
    assert (factors.max(axis=0) <= 1.4).all()


def test_views_come_back() -> None:
    settings, shapes = AugmentationSettings(views=3), [(40, 40)] * 8
    boxes = [draw_crops(settings, (8, 8), 0, [(e, i) for i in range(8)], shapes).boxes for e in range(6)]
    for epoch in range(3):
        assert (boxes[epoch] == boxes[epoch + 3]).all()
    assert (boxes[0] != boxes[1]).any()
    assert (boxes[1] != boxes[2]).any()
