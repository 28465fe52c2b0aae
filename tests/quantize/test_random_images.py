"""Noise to calibrate on: only on request, and marked wherever it is written down."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.errors import ConfigError
from edgemim.preprocess import Preprocess
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.random_images import random_images


@pytest.mark.parametrize("spec", ["photos/", "digits", "folder:random", "randomised", "random_images/", ""])
def test_nothing_else_asks_for_noise(preprocess, spec):
    assert random_images(spec, preprocess) is None


@pytest.mark.parametrize(
    "spec", ["random", "random:", "random:0", "random:-3", "random:3.5", "random:many", "random:1:2"]
)
def test_noise_is_asked_for_with_a_number(preprocess, spec):
    with pytest.raises(ConfigError, match=r"random:N with a number N; got"):
        random_images(spec, preprocess)


def test_noise_follows_from_seed_and_index_and_passes_without_a_resize():
    preprocess = Preprocess(size=(16, 24), crop_ratio=0.8)
    images = random_images("random:12", preprocess)
    assert len(images) == 12
    assert images.image(0).size == (30, 20)
    again, other = (random_images("random:12", preprocess, seed=seed) for seed in (0, 1))
    assert images.encoded(3) == again.encoded(3) != other.encoded(3)
    assert images.encoded(3) != images.encoded(4)
    whole = np.asarray(images.image(3))
    np.testing.assert_array_equal(preprocess.pixels(images.image(3)), whole[2:18, 3:27])


def test_a_calibration_on_noise_says_so_in_its_notes_and_its_record(preprocess, noise_images):
    calibration = choose_calibration(random_images("random:12", preprocess), preprocess)
    assert calibration.synthetic
    (note,) = calibration.notes
    assert "12 images of random pixels is for trials of speed only" in note
    record = calibration.record()
    assert record["synthetic"] is True
    assert record["notes"] == [note]
    # Files that look like noise are files.
    files = choose_calibration(noise_images(200), preprocess)
    assert not files.synthetic
    assert files.record()["synthetic"] is False
