"""Which images of a set a run may go without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgemim.data.images import Images
from edgemim.data.open import open_images
from edgemim.errors import DataError
from edgemim.training.feed import inputs
from edgemim.training.feed.inputs import OnTheFly, decoded, training_images
from edgemim.training.feed.unreadable import UnreadableImageError

SIZE = (16, 16)


@pytest.fixture
def broken(imagefolder: Callable[..., Path]) -> Images:
    """Twelve images, the fourth of which is a text."""
    folder = imagefolder("photos", classes=2, each=6)
    (folder / "class0" / "3.png").write_text("no image")
    return open_images(str(folder))


@pytest.fixture(params=["decoded once", "on the fly"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "on the fly":
        monkeypatch.setattr(inputs, "_CACHE_BYTES", 0)


@pytest.mark.usefixtures("either")
def test_a_training_set_goes_on_without_it(broken: Images) -> None:
    images = training_images(broken, SIZE, max_unreadable=0.1)
    assert [images.read(i)[0] for i in range(12)] == [0, 1, 2, 4, 4, 5, 6, 7, 8, 9, 10, 11]
    for i in (2, 3):
        index, pixels = images.read(i)
        assert np.array_equal(pixels, np.asarray(broken.image(index)))
    assert list(images.unreadable) == [3]
    summary = images.unreadable.summary()
    assert summary is not None
    assert summary.endswith("class0/3.png")


@pytest.mark.usefixtures("either")
def test_a_set_that_may_lack_none_says_which_it_is(broken: Images) -> None:
    with pytest.raises(DataError, match=r"class0/3\.png is not an image that can be read") as caught:
        training_images(broken, SIZE, max_unreadable=0.01).read(3)
    assert "training.max_unreadable 0.01 of 12 images is none" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("either")
def test_evaluation_goes_without_none(broken: Images) -> None:
    training_images(broken, SIZE, max_unreadable=0.1)  # what it has decoded is no way around
    with pytest.raises(DataError, match=r"class0/3\.png is not an image that can be read"):
        decoded(broken, SIZE).get(3)


def test_a_file_that_disappears_is_unreadable(imagefolder: Callable[..., Path]) -> None:
    folder = imagefolder("photos", classes=2, each=6)
    images = OnTheFly(open_images(str(folder)))
    images.get(3)
    (folder / "class0" / "3.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"class0/3\.png cannot be read"):
        images.get(3)
