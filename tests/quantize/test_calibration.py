"""Which images calibrate, in which order, and what is written about them."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Preprocess, read_image
from edgemim.quantize.calibration import choose_calibration


def test_each_image_is_used_at_most_once_and_the_order_is_random(noise_images, preprocess):
    calibration = choose_calibration(noise_images(200), preprocess, count=150)
    assert len(calibration) == len(set(calibration.indices)) == 150
    assert set(calibration.indices) <= set(range(200))
    assert list(calibration.indices) != sorted(calibration.indices)


def test_one_seed_gives_one_choice_and_another_seed_another(noise_images, preprocess):
    choose = [choose_calibration(noise_images(500), preprocess, count=200, seed=seed) for seed in (0, 0, 1)]
    assert choose[0].indices == choose[1].indices
    assert set(choose[0].indices) != set(choose[2].indices)


def test_a_smaller_count_is_the_beginning_of_a_larger_one(noise_images, preprocess):
    small, large = (choose_calibration(noise_images(500), preprocess, count=count) for count in (130, 300))
    assert large.indices[:130] == small.indices


def test_batches_are_single_normalised_images_through_the_contract(noise_images, preprocess):
    images = noise_images(5)
    calibration = choose_calibration(images, preprocess, count=3)
    batches = list(calibration)
    for batch, index in zip(batches, calibration.indices, strict=True):
        assert batch.shape == (1, 3, 16, 16)
        assert batch.dtype == np.float32
        expected = preprocess.normalise(preprocess.pixels(images.image(index))[None])
        np.testing.assert_array_equal(batch, expected)


def test_images_are_decoded_one_by_one_and_anew_in_each_pass(noise_images, preprocess):
    images = noise_images(10)
    calibration = choose_calibration(images, preprocess, count=4)
    assert images.reads == []
    stream = iter(calibration)
    next(stream)
    assert images.reads == [calibration.indices[0]]
    first, second = list(calibration), list(calibration)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_is_told_per_image(noise_images, preprocess):
    seen = []
    calibration = choose_calibration(
        noise_images(3), preprocess, count=3, progress=lambda done, total: seen.append((done, total))
    )
    list(calibration)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_record_holds_order_seed_and_the_hash_of_every_image_s_bytes(noise_images, preprocess):
    images = noise_images(40)
    calibration = choose_calibration(images, preprocess, count=30, seed=7)
    record = json.loads(json.dumps(calibration.record()))
    assert (record["count"], record["requested"], record["seed"]) == (30, 30, 7)
    assert [entry["index"] for entry in record["images"]] == list(calibration.indices)
    for entry in record["images"]:
        assert entry["sha256"] == hashlib.sha256(images.encoded(entry["index"])).hexdigest()
    assert record["preprocess"] == preprocess.to_dict()


@pytest.mark.parametrize(
    ("available", "count", "used", "notes"),
    [
        (500, 128, 128, []),
        (200, 300, 200, ["uses all 200 images there are, 300 were asked for"]),
        (500, 127, 127, ["on 127 images is unreliable; use 128 or more"]),
        (5, 300, 5, ["uses all 5 images", "on 5 images is unreliable"]),
    ],
)
def test_too_few_images_are_used_and_noted(noise_images, preprocess, available, count, used, notes):
    calibration = choose_calibration(noise_images(available), preprocess, count=count)
    assert len(calibration) == used
    assert len(calibration.notes) == len(notes)
    for note, expected in zip(calibration.notes, notes, strict=True):
        assert expected in note


def test_no_image_at_all_is_an_error(noise_images, preprocess):
    with pytest.raises(DataError, match="no calibration images"):
        choose_calibration(noise_images(0), preprocess)


def test_a_count_below_one_is_an_error(noise_images, preprocess):
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        choose_calibration(noise_images(3), preprocess, count=0)


class Pictures:
    """Grey images of given sizes (width, height), as JPEG with an EXIF orientation where one is given."""

    def __init__(self, *sizes, orientation=None):
        self.files = [jpeg(size, orientation) for size in sizes]

    def __len__(self):
        return len(self.files)

    def encoded(self, index, /):
        return self.files[index]

    def image(self, index, /):
        return read_image(self.files[index])


def jpeg(size, orientation):
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.new("RGB", size, (90, 90, 90)).save(stream, format="JPEG", exif=exif)
    return stream.getvalue()


def notes_on(pictures, size):
    calibration = choose_calibration(pictures, Preprocess(size=size, crop_ratio=1.0))
    return [note for note in calibration.notes if "smaller" in note]


def test_images_smaller_than_the_input_are_counted():
    (note,) = notes_on(Pictures((32, 32), (31, 400), (400, 31), (500, 500), (8, 8)), (32, 32))
    assert "3 of 5 calibration images are smaller than the input of 32 x 32 pixels" in note
    assert notes_on(Pictures((32, 32), (500, 40)), (32, 32)) == []


@pytest.mark.parametrize(("orientation", "upright"), [(None, True), (1, True), (3, True), (6, False), (8, False)])
def test_the_size_is_that_of_the_upright_image(orientation, upright):
    # 40 wide and 20 high as stored; the input is wide in one case and tall in the other.
    pictures = Pictures((40, 20), orientation=orientation)
    wide, tall = notes_on(pictures, (20, 40)), notes_on(pictures, (40, 20))
    assert (wide == [], tall == []) == (upright, not upright)


def test_a_file_that_is_no_image_is_left_to_the_decoder(preprocess):
    pictures = Pictures((40, 40))
    pictures.files.append(b"no image")
    calibration = choose_calibration(pictures, preprocess)
    with pytest.raises(DataError, match="not an image that can be read"):
        list(calibration)


def test_a_position_gives_the_pixels_that_the_batches_are_made_of(noise_images, preprocess):
    calibration = choose_calibration(noise_images(9), preprocess, count=4)
    for position, batch in enumerate(calibration):
        pixels = calibration.pixels(position)
        assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
        np.testing.assert_array_equal(preprocess.normalise(pixels[None]), batch)


def test_the_hashes_follow_the_order(noise_images, preprocess):
    images = noise_images(9)
    calibration = choose_calibration(images, preprocess, count=4)
    backwards = replace(calibration, indices=calibration.indices[::-1])
    assert backwards.hashes == calibration.hashes[::-1]
    assert calibration.hashes[0] == hashlib.sha256(images.encoded(calibration.indices[0])).hexdigest()
