"""Rectangles of noise, nothing or foreign content: how many, how large, where, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.methods._corruption import Corrupted, Corruption, _spans, corrupted_l1, grow


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corruption(**settings: Any) -> Corruption:
    return Corruption(**{"blank": "zeros", "blank_share": 0.75, "foreign_share": 0.3, "align": 1, **settings})


def numbered(images: int, side: int, width: int = 0) -> Tensor:
    """Images that are their own number everywhere, from 1."""
    return torch.arange(1.0, images + 1).view(-1, 1, 1, 1).expand(-1, 3, side, width or side).contiguous()


def contents(images: Tensor, found: Corrupted) -> list[set[float]]:
    """What each corrupted image holds in its corrupted pixels."""
    return [set(image[:, mask[0]].unique().tolist()) for image, mask in zip(found.images, found.mask, strict=True)]


def areas(found: Corrupted) -> Tensor:
    """The share of each image that is corrupted."""
    return found.mask.float().mean(dim=(1, 2, 3))


def test_rectangles_are_added_until_the_target_is_passed(reference: Callable[[str], ModuleType]) -> None:
    plain, rng = reference("gmml"), generator(1)
    height, width, number = 9, 13, 16
    places = {"rows": torch.zeros(40, number, height), "columns": torch.zeros(40, number, width)}
    rectangles = []
    for image in range(40):
        own = []
        for k in range(number):
            sides = []
            for name, cells in (("rows", height), ("columns", width)):
                start, length = (int(torch.randint(low, cells, (), generator=rng)) for low in (0, 1))
                span = range(start, min(cells, start + length // 3 + 1))
                places[name][image, k, list(span)] = 1
                sides.append(span)
            own.append((sides[0], sides[1]))
        rectangles.append(own)
    targets = torch.linspace(0, 80, 40)
    targets[-1] = height * width  # cannot be passed: all are used
    found = grow(targets, places["rows"], places["columns"])
    passed = 0
    for mask, own, target in zip(found, rectangles, targets.tolist(), strict=True):
        wanted = plain.covered_until(own, target)
        passed += len(wanted) > target
        assert {tuple(place) for place in mask.nonzero().tolist()} == wanted
    assert 20 < passed < 40


@pytest.mark.parametrize(("side", "width", "align"), [(224, 224, 1), (64, 96, 1), (64, 96, 16), (30, 20, 5)])
def test_the_corrupted_area_lies_within_the_target_and_one_block(side: int, width: int, align: int) -> None:
    images = numbered(24, side, width)
    found = corruption(align=align)(images, generator(2))
    block = max(align, side * 3 // 10) * max(align, width * 3 // 10) / (side * width)
    kinds = {0: 0, 1: 0}
    for held, area in zip(contents(images, found), areas(found).tolist(), strict=True):
        foreign = held != {0.0}
        kinds[foreign] += 1
        lowest, highest = (0.3, 0.3) if foreign else (0.5, 0.75)
        # The shares are rounded to float32.
        assert lowest - 1e-6 < area <= highest + block + 1e-6
    assert min(kinds.values()) > 3


def test_an_image_gets_one_content_from_one_other_image_or_none_and_keeps_the_rest() -> None:
    images = numbered(64, 20)
    found = corruption()(images, generator(4))
    sources = []
    for number, held in enumerate(contents(images, found), start=1):
        assert len(held) == 1
        assert number not in held
        sources += [value for value in held if value]
    assert len(set(sources)) == len(sources)  # no image is used twice
    assert torch.equal(found.images != images, found.mask.expand(-1, 3, -1, -1))
    assert found.mask.shape == (64, 1, 20, 20)


def test_foreign_content_is_what_the_other_image_has_in_the_same_places() -> None:
    images = torch.randn(2, 3, 12, 20, generator=generator(5))
    foreign = 0
    for seed in range(8):
        found = corruption()(images, generator(seed))
        for i in range(2):
            if not (found.images[i] == 0).any():
                foreign += 1
                assert torch.equal(found.images[i], torch.where(found.mask[i], images[1 - i], images[i]))
    assert 2 < foreign < 14


def test_the_two_contents_are_equally_likely_and_targets_uniform() -> None:
    found = corruption(blank_share=0.75, foreign_share=0.3)(numbered(600, 20), generator(6))
    blank = torch.tensor([held == {0.0} for held in contents(numbered(600, 20), found)])
    # Half of 600, with a deviation of sqrt(600) / 2 = 12.2.
    assert abs(int(blank.sum()) - 300) < 5 * 12.2
    share = areas(found)[blank]
    # Targets of mean 0.625 and deviation 0.25 / sqrt(12) = 0.072; the rectangle that passes them adds 6 * 6 / 400 at
    # most, and less than half of that on average.
    assert 0.625 - 5 * 0.072 / 300**0.5 < float(share.mean()) < 0.625 + 5 * 0.072 / 300**0.5 + 0.045
    assert float(share.min()) > 0.5
    assert float(share.std()) == pytest.approx(0.072, rel=0.15)


def test_noise_is_standard_normal_and_its_own_in_each_channel() -> None:
    found = corruption(blank="noise", foreign_share=0.1)(torch.full((40, 3, 32, 32), 9.0), generator(7))
    noisy = areas(found) > 0.4
    values = found.images[noisy].movedim(1, -1)[found.mask[noisy, 0]]  # [pixels, 3]
    # Some 12,000 pixels: the deviation of a mean is 0.009, that of a variance 0.013.
    assert len(values) > 8000
    assert values.mean(dim=0).abs().max() < 0.05
    assert (torch.cov(values.T) - torch.eye(3)).abs().max() < 0.07


def test_a_rectangle_has_any_sides_up_to_three_tenths_and_any_corner() -> None:
    found = corruption(blank_share=1e-4, foreign_share=1e-4)(torch.ones(2000, 3, 20, 30), generator(8))
    mask = found.mask[:, 0]
    rows, columns = mask.any(dim=2), mask.any(dim=1)
    assert torch.equal(mask, rows[:, :, None] & columns[:, None, :])  # one rectangle each
    for has, cells, longest in ((rows, 20, 6), (columns, 30, 9)):
        lengths, starts = has.sum(dim=1), has.float().argmax(dim=1)
        whole = starts + longest <= cells  # nothing of these can be cut off
        assert lengths.min() == 1
        assert lengths.max() == longest
        for counts in (torch.bincount(starts, minlength=cells), torch.bincount(lengths[whole])[1:]):
            # Uniform: the deviation of a count is below the root of its mean.
            mean = float(counts.float().mean())
            assert (counts - mean).abs().max() < 5 * mean**0.5


def test_aligned_rectangles_are_made_of_whole_patches() -> None:
    found = corruption(align=8)(numbered(16, 64), generator(9))
    cells = found.mask.view(16, 8, 8, 8, 8).float().mean(dim=(2, 4))
    assert set(cells.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("side", [10, 64, 224])
def test_the_largest_target_is_always_passed(side: int) -> None:
    rng = generator(side)
    target = torch.full((40,), 0.8 * side * side)
    covered = grow(target, _spans(40, side, rng), _spans(40, side, rng))
    assert (covered.sum(dim=(1, 2)) > target).all()


def test_the_generator_is_the_only_source_of_chance() -> None:
    images = torch.randn(6, 3, 20, 20, generator=generator())

    def made(seed: int) -> Corrupted:
        torch.rand(3)  # the global generator moves, the rectangles do not
        return corruption(blank="noise")(images, generator(seed))

    assert torch.equal(made(1).images, made(1).images)
    assert not torch.equal(made(1).mask, made(2).mask)


def test_half_precision_covers_the_same_pixels() -> None:
    images = numbered(8, 40)
    exact = corruption()(images, generator(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = corruption()(images, generator(3))
    assert torch.equal(exact.mask, halved.mask)
    assert torch.equal(exact.images, halved.images)


def test_the_error_is_the_mean_over_corrupted_pixels_and_channels_alone() -> None:
    # Two corrupted pixels, of which one is off by 6 in each channel; a clean one is off by 100: the mean is 3.
    clean, mask = torch.zeros(2, 3, 2, 2), torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[1, 0, 1, 1] = True
    predicted = torch.zeros_like(clean)
    predicted[0, :, 0, 1], predicted[0, :, 0, 0] = -6, 100
    predicted.requires_grad_()
    loss = corrupted_l1(predicted=predicted, clean=clean, mask=mask)
    assert float(loss.detach()) == 3
    loss.backward()
    assert predicted.grad is not None
    assert set(predicted.grad[~mask.expand_as(predicted)].tolist()) == {0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blank_share": 0.0}, "method.zeros is a share of the image's area, in (0, 0.8]; got 0.0"),
        ({"blank": "noise", "blank_share": 0.9}, "method.noise is a share of the image's area, in (0, 0.8]; got 0.9"),
        ({"foreign_share": 1.0}, "method.foreign is a share of the image's area, in (0, 0.8]; got 1.0"),
        ({"align": 0}, "method.align must be at least 1 pixel; got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        corruption(**settings)
    assert str(error.value) == message


def test_images_that_are_no_whole_number_of_aligned_cells_are_refused() -> None:
    corruption(align=16).check((32, 48))
    with pytest.raises(ConfigError) as error:
        corruption(align=16).check((32, 40))
    assert str(error.value) == (
        "images of 32x40 pixels are no whole number of method.align 16; choose a divisor of both sides, or 1"
    )


def test_a_single_image_has_no_other() -> None:
    with pytest.raises(ConfigError, match="needs at least 2 of them at a time, and there is 1; set a larger"):
        corruption()(torch.zeros(1, 3, 8, 8), generator())
