"""The bundled digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgemim.data.open import open_images, open_splits
from edgemim.errors import DataError


@pytest.fixture(scope="module")
def splits():
    return open_splits("digits")


def test_every_digit_is_in_exactly_one_split(splits):
    assert (len(splits.train), len(splits.test), splits.test_split) == (1437, 360, "test")
    encoded = splits.train.encoded_block(0, 1437) + splits.test.encoded_block(0, 360)
    # Two pairs of the 1,797 8x8 drawings could be equal; these are all different.
    assert len(set(encoded)) == 1797


def test_the_classes_are_spread_alike(splits):
    everything = np.bincount(load_digits().target)
    test = np.bincount(splits.test.labels)
    assert (np.abs(test - everything * 0.2) <= 1).all()
    assert splits.train.class_names == tuple("0123456789")


def test_images_are_rgb_png_and_keep_the_drawing(splits):
    image = splits.train.image(0)
    assert (image.mode, image.size, splits.train.suffix(0)) == ("RGB", (32, 32), ".png")
    pixels = np.asarray(image)
    assert (pixels[..., 0] == pixels[..., 2]).all()
    # The first drawing (a zero) is the first row kept for training; averaged 4x4 it looks like its source.
    source = load_digits().images[0] * 255 / 16
    averaged = pixels[..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(source.ravel(), averaged.ravel())[0, 1] > 0.95


def test_the_digits_are_the_same_everywhere(splits):
    assert splits.train.fingerprint == "f068f52d5fb50a08b1c6ad5bd8101bc7a7775c01ba4b50584f2cff4a9c864d57"
    assert open_images("digits", split="test").fingerprint == splits.test.fingerprint


def test_the_name_may_follow_its_prefix_and_nothing_else_may():
    assert len(open_images("digits:")) == 1437
    with pytest.raises(DataError, match="the bundled digits have one name, 'digits'; got 'letters'"):
        open_images("digits:letters")
