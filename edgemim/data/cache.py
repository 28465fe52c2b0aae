"""Every image decoded once, to uint8 RGB in a memory-mapped file, so that later epochs only copy pixels.

    decoded = decode_cached(images, shorter_side=256)
    decoded.get(0)                # uint8 [H, W, 3]
    decoded.batch([3, 1, 2])      # uint8 [3, H, W, 3]

An entry is a folder: `pixels.u8` (the images one after the other), `shapes.npy` (int32 [N, 2]; an image that cannot be
decoded is 0 by 0) and `index.json` with their sizes and hashes. It is written under another name and renamed when it is
complete, so two processes or a kill leave no half entry; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import platformdirs
from filelock import FileLock
from PIL import Image

from edgemim.artifact import sync_folder, write_bytes, writing
from edgemim.data._threads import map_blocks
from edgemim.data.images import Images, Indices
from edgemim.errors import ConfigError, DataError
from edgemim.preprocess import Pixels

Shapes = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]
Skip = Callable[[int, DataError], None]

_VERSION = 1
_UNREADABLE = (0, 0)


class Decoded:
    """Decoded images in a memory-mapped file. Picklable: a worker process maps the same file.

    Args:
        folder: An entry of the cache that is complete.

    Attributes:
        shapes: Height and width of each image, int32 [N, 2]; 0 and 0 where it cannot be decoded.
        rows: Where each image lies in `array`, int64 [N].

    Raises:
        DataError: The entry is damaged or incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes = _read_shapes(folder)
        sizes = self.shapes.astype(np.int64).prod(axis=1) * 3
        self._ends = np.cumsum(sizes)
        # A plain view: indexing a np.memmap makes a Python object of its own for each image.
        self._flat: Pixels = np.asarray(np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r"))
        readable = self.shapes.any(axis=1)
        self.rows = np.cumsum(readable) - 1
        height, width = map(int, self.shapes.max(axis=0))
        uniform = bool((self.shapes[readable] == (height, width)).all())
        self._array = self._flat.reshape(-1, height, width, 3) if uniform else None

    def __len__(self) -> int:
        return len(self.shapes)

    def __reduce__(self) -> tuple[type[Decoded], tuple[Path]]:
        return Decoded, (self.folder,)

    @property
    def array(self) -> Pixels | None:
        """All images that can be decoded, uint8 [M, H, W, 3], read-only, memory-mapped; None if their sizes differ."""
        return self._array

    def get(self, i: int) -> Pixels:
        """Image `i`, uint8 [H, W, 3]: a read-only view into the file, not a copy. [0, 0, 3] if it cannot be decoded."""
        if self._array is not None and len(self._array) == len(self):
            pixels: Pixels = self._array[i]
            return pixels
        i = range(len(self))[i]
        height, width = self.shapes[i]
        end = self._ends[i]
        return self._flat[end - 3 * int(height) * int(width) : end].reshape(height, width, 3)

    def batch(self, indices: Indices) -> Pixels:
        """Copies of several images of one size that can be decoded, uint8 [B, H, W, 3].

        Raises:
            ValueError: Their sizes differ; use `get`.
        """
        if self._array is not None:
            pixels: Pixels = self._array[self.rows[np.asarray(indices, dtype=np.int64)]]
            return pixels
        return np.stack([self.get(int(i)) for i in indices])


def decode_cached(
    images: Images,
    *,
    cache: Path | None = None,
    shorter_side: int | None = None,
    progress: Progress | None = None,
    skip: Skip | None = None,
) -> Decoded:
    """Decode all images, or open what an earlier call decoded.

    The entry is found by the fingerprint of the images, so a changed image is never served stale.

    Args:
        images: At least one image.
        cache: Folder for the entries; the user's cache folder by default.
        shorter_side: Images whose shorter side is longer than this are reduced to it, in pixels (bicubic,
            antialiased, aspect kept); none is enlarged. None keeps every size.
        progress: Called with the number of images done and of all; not called if nothing has to be decoded.
        skip: Called with the index of each image that cannot be decoded, in order, and with what is wrong with it; may
            raise to refuse it. None refuses every one.

    Raises:
        ConfigError: `shorter_side` is less than 1.
        DataError: There is no image, or one cannot be decoded; names it.
        OutputError: The cache cannot be written (the disk is full, ...).
    """
    if shorter_side is not None and shorter_side < 1:
        raise ConfigError(f"shorter_side must be at least 1 pixel; got {shorter_side}")
    if not len(images):
        raise DataError(f"{images.name} has no images to decode")
    folder = (cache or default_cache()) / _key(images, shorter_side)
    if (found := _open(folder)) is not None:
        return _told(found, images, skip)
    with writing(folder, instead="set XDG_CACHE_HOME to a folder with room"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            # Another process may have made it while this one waited for the lock.
            if (found := _open(folder)) is not None:
                return _told(found, images, skip)
            _build(folder, images, shorter_side, progress, skip)
            return Decoded(folder)


def default_cache() -> Path:
    """The user's cache folder for decoded images."""
    return Path(platformdirs.user_cache_dir("edgemim")) / "decoded"


def _open(folder: Path) -> Decoded | None:
    """A complete entry; None if there is none, or it is damaged and has to be made again."""
    try:
        return Decoded(folder)
    except DataError:
        return None


def _told(found: Decoded, images: Images, skip: Skip | None) -> Decoded:
    """The entry, after `skip` was told of what cannot be decoded in it, as when it was made."""
    for i in np.flatnonzero(~found.shapes.any(axis=1)).tolist():
        try:
            images.image(i)
        except DataError as error:
            _skip(i, error, skip)
        else:
            _skip(i, DataError(f"{images.describe(i)} could not be decoded before; delete {found.folder}"), skip)
    return found


def _skip(i: int, error: DataError, skip: Skip | None) -> None:
    if skip is None:
        raise error
    skip(i, error)


def _key(images: Images, shorter_side: int | None) -> str:
    # Another Pillow brings another JPEG decoder, whose pixels may differ by one.
    settings = [_VERSION, PIL.__version__, images.fingerprint, shorter_side]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]


def _build(
    folder: Path, images: Images, shorter_side: int | None, progress: Progress | None, skip: Skip | None
) -> None:
    """Write an entry; the caller holds its lock, so a leftover of a killed run is ours to remove."""
    partial = folder.with_suffix(".partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        shapes = _write_pixels(partial / "pixels.u8", images, shorter_side, progress, skip)
        stream = io.BytesIO()
        np.save(stream, shapes, allow_pickle=False)
        write_bytes(partial / "shapes.npy", stream.getvalue())
        write_bytes(partial / "index.json", _index(partial, stream.getvalue()))
        os.replace(partial, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_pixels(
    file: Path, images: Images, shorter_side: int | None, progress: Progress | None, skip: Skip | None
) -> Shapes:
    def decode(start: int, stop: int) -> list[Pixels | DataError]:
        return [decode_one(start + k, encoded) for k, encoded in enumerate(images.encoded_block(start, stop))]

    def decode_one(i: int, encoded: bytes) -> Pixels | DataError:
        try:
            return _reduced(images.decode(i, encoded), shorter_side)
        except DataError as error:
            return error

    shapes: list[tuple[int, ...]] = []
    with open(file, "wb") as stream:
        for block in map_blocks(decode, len(images)):
            for pixels in block:
                if isinstance(pixels, DataError):
                    _skip(len(shapes), pixels, skip)
                    shapes.append(_UNREADABLE)
                else:
                    stream.write(pixels.data)
                    shapes.append(pixels.shape[:2])
            if progress is not None:
                progress(len(shapes), len(images))
        stream.flush()
        os.fsync(stream.fileno())
    if not np.any(shapes):
        raise DataError(f"no image of {images.name} can be decoded; give another data set")
    return np.array(shapes, dtype=np.int32)


def _reduced(image: Image.Image, shorter_side: int | None) -> Pixels:
    shorter = min(image.size)
    if shorter_side is not None and shorter > shorter_side:
        size = (
            max(shorter_side, round(image.width * shorter_side / shorter)),
            max(shorter_side, round(image.height * shorter_side / shorter)),
        )
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(image, dtype=np.uint8)


def _index(partial: Path, shapes: bytes) -> bytes:
    facts = {
        "version": _VERSION,
        "pixels_size": (partial / "pixels.u8").stat().st_size,
        "shapes_sha256": hashlib.sha256(shapes).hexdigest(),
    }
    return json.dumps(facts | {"sha256": _digest_of(facts)}).encode()


def _digest_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_shapes(folder: Path) -> Shapes:
    """The shapes of a complete entry, after its sizes and hashes were compared."""
    try:
        facts = json.loads((folder / "index.json").read_bytes())
        told = facts.pop("sha256")
        data = (folder / "shapes.npy").read_bytes()
        size = (folder / "pixels.u8").stat().st_size
        right = {"version": _VERSION, "pixels_size": size, "shapes_sha256": hashlib.sha256(data).hexdigest()}
        if facts != right or told != _digest_of(facts):
            raise DataError(f"{folder} is damaged; delete it, it is made again")
        shapes: Shapes = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{folder} is incomplete: {error}; delete it, it is made again") from error
    return shapes
