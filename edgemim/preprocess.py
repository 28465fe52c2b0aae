"""From an image file to the numbers a model takes: the only implementation, used by every stage and device.

    contract = Preprocess(size=(224, 224))
    pixels = contract.pixels(read_image("cat.jpg"))          # uint8 [224, 224, 3]
    images = contract.normalise(pixels[None])                # float32 [1, 3, 224, 224]

The contract travels in the manifest (`to_dict`, `from_dict`), so that a device cannot do it differently.
Training augments with its own random crops, but normalises with the same mean and std.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edgemim.config import build
from edgemim.errors import ConfigError, DataError

Pixels = npt.NDArray[np.uint8]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A strip longer than this is trimmed before it is resized: the crop shows its middle anyway, and a 1 x 10,000
# image would become one of 2,560,000 pixels in length.
_LONGEST_STRIP = 16

# Pillow before 9.1 (Ubuntu 22.04, and thus JetPack 6) has these names in Image itself.
_FILTERS = getattr(Image, "Resampling", Image)
_INTERPOLATIONS = {
    "bicubic": _FILTERS.BICUBIC,
    "bilinear": _FILTERS.BILINEAR,
    "lanczos": _FILTERS.LANCZOS,
    "nearest": _FILTERS.NEAREST,
}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """The contract: decode to RGB, resize, centre crop, scale to [0, 1], normalise.

    Attributes:
        size: Height and width that the model takes, in pixels.
        crop_ratio: Share of the resized image that the crop keeps along its tighter side, in (0, 1]; the
            image is resized, keeping its aspect ratio, until it just covers `size / crop_ratio`. All
            roundings are torchvision's and timm's, so a pretrained backbone sees what it was rated on.
        interpolation: Filter of the resize, antialiased (Pillow's): bicubic, bilinear, lanczos or nearest.
        mean: Per channel (R, G, B), of values in [0, 1].
        std: Per channel, greater than 0.
    """

    size: tuple[int, int]
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"preprocess.size must be two positive numbers; got {self.size}")
        if not 0 < self.crop_ratio <= 1:
            raise ConfigError(f"preprocess.crop_ratio must lie in (0, 1]; got {self.crop_ratio}")
        if self.interpolation not in _INTERPOLATIONS:
            known = ", ".join(_INTERPOLATIONS)
            raise ConfigError(f"preprocess.interpolation must be one of {known}; got {self.interpolation!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"preprocess needs 3 means and 3 positive stds; got {self.mean} and {self.std}")

    def pixels(self, image: Image.Image) -> Pixels:
        """Resize and centre-crop one image of any mode and size; uint8 [H, W, 3], RGB."""
        image = to_rgb(_trim_strip(image))
        height, width = self.size
        resized = self._resized(image.width, image.height)
        if resized != image.size:
            image = image.resize(resized, _INTERPOLATIONS[self.interpolation])
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.uint8)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the resize: one side exact, the other cut to whole pixels."""
        cover_height, cover_width = (int(side / self.crop_ratio) for side in self.size)
        if cover_height * width >= cover_width * height:
            return width * cover_height // height, cover_height
        return cover_width, height * cover_width // width

    def normalise(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, 3] to float32 [N, 3, H, W]: (pixel / 255 - mean) / std."""
        mean = np.asarray(self.mean, dtype=np.float32) * np.float32(255)
        std = np.asarray(self.std, dtype=np.float32) * np.float32(255)
        scaled = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def to_dict(self) -> dict[str, Any]:
        """The contract as plain values for a manifest."""
        return asdict(self) | {"size": list(self.size), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The contract that `to_dict` wrote.

        Raises:
            ConfigError: A name or a value that this version does not know.
        """
        try:
            missing = [f.name for f in fields(cls) if f.name not in values]
            if missing:
                raise ConfigError(f"it lacks {', '.join(missing)}")
            return build(cls, values, "preprocess")
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"the preprocessing contract is not one this edgemim knows: {error}") from error


# What Pillow's decoders raise on files that are cut off, altered or something else (RuntimeError: AVIF, DDS).
_UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    Image.DecompressionBombError,
)


def read_image(source: Path | str | bytes) -> Image.Image:
    """Decode an image file, or its bytes, to RGB, upright by its EXIF orientation.

    Raises:
        DataError: It is not an image, or it is cut off.
    """
    name = "these bytes" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except _UNREADABLE as error:
        raise DataError(f"{name} is not an image that can be read: {_reason(error)}; remove or replace it") from error


def _reason(error: Exception) -> str:
    """What Pillow says, without the address of the buffer that it read from."""
    return "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB; 16-bit and float grey are scaled to 8 bits, transparency is dropped."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_scale_wide_grey(np.asarray(image))).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _trim_strip(image: Image.Image) -> Image.Image:
    """The middle of an image that is much longer than wide; any other as it is."""
    longest = _LONGEST_STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _scale_wide_grey(values: npt.NDArray[Any]) -> Pixels:
    """32-bit grey has no fixed white: 16-bit when larger than 255, 8-bit when larger than 1, else [0, 1]."""
    top = float(values.max(initial=0))
    white = 65535.0 if top > 255 else 255.0 if top > 1 or values.dtype.kind == "i" else 1.0
    return np.clip(values / white * 255, 0, 255).astype(np.uint8)
