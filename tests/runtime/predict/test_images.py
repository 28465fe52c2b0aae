"""`edgemim.runtime.predict.images`: whatever holds an image gives the same pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemim.errors import DataError
from edgemim.preprocess import Preprocess
from edgemim.runtime.predict.images import each, to_pixels

CONTRACT = Preprocess(size=(8, 8), crop_ratio=1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)


def png(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", **options)
    return stream.getvalue()


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(PIXELS))
    expected = CONTRACT.pixels(Image.fromarray(PIXELS))
    for source in (PIXELS, PIXELS[:, ::-1][:, ::-1], Image.fromarray(PIXELS), file, str(file), file.read_bytes()):
        np.testing.assert_array_equal(to_pixels(source, CONTRACT), expected)


def test_a_picture_is_turned_upright_as_its_file_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    data = png(PIXELS, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        turned = to_pixels(image, CONTRACT)
    np.testing.assert_array_equal(turned, to_pixels(data, CONTRACT))
    assert not np.array_equal(turned, to_pixels(PIXELS, CONTRACT))


def test_one_image_several_in_an_array_and_any_number_are_told_apart() -> None:
    assert len(list(each(PIXELS))) == 1
    assert len(list(each(np.stack([PIXELS] * 3)))) == 3
    assert list(each("a.png")) == ["a.png"]
    assert list(each(b"abc")) == [b"abc"]
    assert list(each(f"{i}.png" for i in range(3))) == ["0.png", "1.png", "2.png"]
    assert list(each([])) == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (PIXELS.astype(np.float32) / 255, r"got float32 \[24, 31, 3\]"),
        (PIXELS.transpose(2, 0, 1), r"got uint8 \[3, 24, 31\]"),
        (PIXELS[..., 0], r"got uint8 \[24, 31\]"),
        (PIXELS[:0], r"got uint8 \[0, 31, 3\]"),
        (b"no image", "these bytes is not an image that can be read"),
        ("gone.png", "gone.png does not exist"),
        (7, "a Pillow image, a path or bytes; got int"),
    ],
)
def test_what_is_no_image_is_refused(source: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        to_pixels(source, CONTRACT)  # type: ignore[arg-type]
