"""The preprocessing contract: by hand, against torchvision's and timm's, and on images of every kind."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Preprocess, read_image, to_rgb

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with edges and grain, as a photograph has them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (5 + 3 * c) + c) + np.cos(y / (7 - c)) + (x > y * (c + 1) / 2) for c in range(3)]
    grey = np.stack(waves, axis=-1)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-9) * 230
    return Image.fromarray((grey + rng.random(grey.shape) * 25).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_worked_example() -> None:
    # A 6 x 4 image, size 2, crop_ratio 0.5: it must cover 2 / 0.5 = 4, and its height does, so nothing is
    # resized. The crop takes columns 2..3 and rows 1..2. Red is 10 * column, green is 10 * row, blue is 51.
    array = np.zeros((4, 6, 3), dtype=np.uint8)
    array[..., 0] = 10 * np.arange(6)
    array[..., 1] = 10 * np.arange(4)[:, None]
    array[..., 2] = 51
    contract = Preprocess(size=(2, 2), crop_ratio=0.5, mean=(0.0, 0.0, 0.1), std=(1.0, 0.5, 0.2))
    pixels = contract.pixels(Image.fromarray(array))
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[[20, 10, 51], [30, 10, 51]], [[20, 20, 51], [30, 20, 51]]]

    # Red: 20 / 255. Green: (10 / 255) / 0.5 = 20 / 255. Blue: (51 / 255 - 0.1) / 0.2 = 0.1 / 0.2 = 0.5.
    images = contract.normalise(pixels[None])
    assert images.dtype == np.float32
    expected = [
        [[20 / 255, 30 / 255], [20 / 255, 30 / 255]],
        [[20 / 255, 20 / 255], [40 / 255, 40 / 255]],
        [[0.5, 0.5], [0.5, 0.5]],
    ]
    np.testing.assert_allclose(images, [expected], atol=1e-6)  # float32 rounding


@pytest.mark.parametrize(
    ("image", "resized"),
    [
        # 90 / 0.875 = 102.86, cut to 102: the shorter side. The longer one keeps the ratio, cut to pixels.
        ((200, 100), (204, 102)),
        ((100, 200), (102, 204)),
        ((33, 50), (102, 154)),
        ((102, 102), (102, 102)),
    ],
)
def test_the_shorter_side_is_exact_and_the_longer_is_cut(image: tuple[int, int], resized: tuple[int, int]) -> None:
    assert Preprocess(size=(90, 90))._resized(*image) == resized


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_result_is_that_of_timm_and_torchvision(seed: int, crop_ratio: float, interpolation: str) -> None:
    transforms = pytest.importorskip("timm.data.transforms_factory")
    draw = random.Random(seed)
    width, height = draw.randint(20, 300), draw.randint(20, 300)
    size = draw.choice([15, 16, 32, 96, 224])
    image = scene(width, height, seed)
    contract = Preprocess(size=(size, size), crop_ratio=crop_ratio, interpolation=interpolation)
    theirs = transforms.transforms_imagenet_eval(
        size, crop_pct=crop_ratio, interpolation=interpolation, mean=contract.mean, std=contract.std
    )(image)
    ours = contract.normalise(contract.pixels(image)[None])[0]
    # Both resize with Pillow, so the pixels are equal; what is left is the rounding of float32.
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop_ratio=st.floats(0.3, 1),
    interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos", "nearest"]),
    mode=st.sampled_from(MODES),
)
def test_the_output_has_the_size_of_the_contract(
    width: int, height: int, size: tuple[int, int], crop_ratio: float, interpolation: str, mode: str
) -> None:
    contract = Preprocess(size=size, crop_ratio=crop_ratio, interpolation=interpolation)
    pixels = contract.pixels(Image.new(mode, (width, height)))
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    assert np.isfinite(contract.normalise(pixels[None])).all()


@given(grey=st.integers(0, 255), side=st.integers(1, 80), size=st.integers(1, 48))
@settings(max_examples=40)
def test_one_colour_stays_that_colour(grey: int, side: int, size: int) -> None:
    pixels = Preprocess(size=(size, size)).pixels(Image.new("RGB", (side, side + 3), (grey, 255 - grey, 7)))
    assert (pixels == (grey, 255 - grey, 7)).all()


@pytest.mark.parametrize("size", [(1, 40_000), (40_000, 1)])
def test_a_thin_strip_is_trimmed_before_it_is_enlarged(size: tuple[int, int]) -> None:
    image = Image.new("L", size, 9)
    middle = tuple(side // 2 for side in size)
    image.putpixel(middle, 255)  # type: ignore[arg-type]
    pixels = Preprocess(size=(32, 32)).pixels(image)
    assert pixels.shape == (32, 32, 3)
    assert pixels.max() > 200


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    wide = Image.fromarray(np.asarray(scene(12, 9).convert("L")).astype(np.uint16) * 257)
    converted = to_rgb(wide if mode == "I;16" else scene(12, 9).convert(mode))
    assert (converted.mode, converted.size) == ("RGB", (12, 9))
    assert np.asarray(converted).std() > 0


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "L"])
def test_white_stays_white(mode: str) -> None:
    assert to_rgb(Image.new("RGB", (2, 2), "white").convert(mode)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    image = read_image(encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 128, 255]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 32896, 65535]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 127, 255]),
        (np.array([[0.0, 128.0, 255.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[-5.0, 0.25, 1.0]], dtype=np.float32), [0, 63, 255]),
    ],
)
def test_wide_grey_is_scaled_by_the_white_it_most_likely_has(values: Any, expected: list[int]) -> None:
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_a_palette_with_transparency_becomes_rgb_without_a_warning() -> None:
    image = scene(8, 8).convert("P")
    data = encoded(image, "PNG", transparency=bytes(range(256)))
    assert read_image(data).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0, 0] = 255  # white in the upper left corner, as the viewer sees it
    # How the camera stored it: the inverse of what the orientation asks of a viewer.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.asarray(read_image(data)).tolist() == upright.tolist()


def test_a_path_and_its_bytes_give_the_same_image(tmp_path: Path) -> None:
    data = encoded(scene(20, 10), "JPEG")
    (tmp_path / "cat.jpg").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "cat.jpg"), read_image(data))
    assert np.array_equal(read_image(str(tmp_path / "cat.jpg")), read_image(data))


def test_what_is_not_an_image_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(encoded(scene(64, 64), "JPEG")[:700])
    for name in ("notes.jpg", "empty.png", "cut.jpg", "", "missing.jpg"):
        with pytest.raises(DataError) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "AVIF"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # Pillow's, on damaged headers
def test_a_damaged_image_is_read_or_refused_and_nothing_else(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    good = encoded(scene(24, 31), kind)
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(draw.choice([1, 2, 8])):
            data[draw.randrange(min(len(data), draw.choice([40, 100_000])))] = draw.randrange(256)
        try:
            assert read_image(bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])).mode == "RGB"
        except DataError:
            refused += 1
    assert refused > 0


@given(
    st.builds(
        Preprocess,
        size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
        crop_ratio=st.floats(0.01, 1),
        interpolation=st.sampled_from(["bicubic", "bilinear", "lanczos", "nearest"]),
        mean=st.tuples(*[st.floats(0, 1)] * 3),
        std=st.tuples(*[st.floats(0.01, 1)] * 3),
    )
)
def test_the_contract_comes_back_from_a_manifest(contract: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "a list"),
        ({"size": [32]}, "takes 2 values"),
        ({"size": [32.5, 32]}, "must be of type int"),
        ({"size": ["32", 32]}, "must be of type int"),
        ({"size": [0, 32]}, "two positive numbers"),
        ({"crop_ratio": 0.0}, "must lie in"),
        ({"crop_ratio": 1.5}, "must lie in"),
        ({"crop_ratio": "x"}, "must be of type float"),
        ({"interpolation": "area"}, "must be one of bicubic, bilinear"),
        ({"interpolation": []}, "must be of type str"),
        ({"mean": [0.5, 0.5]}, "3 means and 3 positive stds"),
        ({"mean": ["a", "b", "c"]}, "must be of type float"),
        ({"std": [0.5, 0.0, 0.5]}, "3 means and 3 positive stds"),
        ({"gamma": 2.2}, "unknown setting 'preprocess.gamma'"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    values = Preprocess(size=(32, 32)).to_dict() | change
    with pytest.raises(ConfigError, match="the preprocessing contract is not one this edgemim knows: ") as caught:
        Preprocess.from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", list(Preprocess(size=(1, 1)).to_dict()))
def test_an_incomplete_contract_is_refused_and_not_completed_by_a_guess(name: str) -> None:
    values = Preprocess(size=(32, 32)).to_dict()
    del values[name]
    with pytest.raises(ConfigError, match=f"it lacks {name}"):
        Preprocess.from_dict(values)


@pytest.mark.parametrize("values", [None, [], "x", 5])
def test_a_contract_that_is_not_a_table_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match="the preprocessing contract"):
        Preprocess.from_dict(values)
