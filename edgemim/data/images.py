"""A map-style set of encoded images with optional labels: what every source returns and every stage reads.

The images stay as they were encoded (in a file, or in a row of a `datasets.Dataset`) until they are asked
for; decoding goes through `edgemim.preprocess.read_image`, the same as on the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgemim.data._threads import map_blocks
from edgemim.errors import DataError
from edgemim.preprocess import read_image

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

Labels = npt.NDArray[np.int64]
Indices = Sequence[int] | npt.NDArray[np.integer[Any]]

UNLABELLED = -1

_SIGNATURES = (
    (".jpg", 0, b"\xff\xd8\xff"),
    (".png", 0, b"\x89PNG\r\n\x1a\n"),
    (".webp", 8, b"WEBP"),
    (".gif", 0, b"GIF8"),
    (".bmp", 0, b"BM"),
    (".tif", 0, b"II*\0"),
    (".tif", 0, b"MM\0*"),
)


class Images:
    """Encoded images, read on demand; see the module. Instances are picklable.

    Args:
        dataset: Rows that hold an image each: encoded bytes, a path, or a mapping with `bytes` and `path`
            (what `datasets.Image(decode=False)` gives).
        name: What messages call the set.
        columns: Columns to look for the image in; the first that is not None counts.
        labels: One class index per image, None or `UNLABELLED` where it has none; None if no image has any.
        class_names: Name of each class; None if nobody knows.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        name: str,
        columns: Sequence[str] = ("image",),
        labels: Sequence[int | None] | Labels | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.class_names: tuple[str, ...] | None = tuple(class_names) if class_names else None
        self._dataset = dataset
        self._columns = tuple(columns)
        self._rows = np.arange(len(dataset), dtype=np.int64)
        self._labels = None if labels is None else _to_int64(labels)
        assert self._labels is None or len(self._labels) == len(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        kind = "unlabelled" if self._labels is None else f"of {self.num_classes} classes"
        return f"<{len(self)} images {kind}: {self.name}>"

    @property
    def labels(self) -> Labels | None:
        """int64 [N], each in [0, number of classes); None if no image has a label.

        Raises:
            DataError: Only some images have a label, or one is out of range.
        """
        labels = self._labels
        if labels is None or bool((labels == UNLABELLED).all()):
            return None
        count = len(self.class_names) if self.class_names else None
        wrong = np.flatnonzero((labels < 0) | (labels >= (count or np.iinfo(np.int64).max)))
        if len(wrong):
            label = int(labels[wrong[0]])
            found = "missing" if label == UNLABELLED else str(label)
            right = f"0 to {count - 1}" if count else "0 or more"
            raise DataError(
                f"{self.describe(int(wrong[0]))} has a label out of range: {found}, must be {right} "
                f"({len(wrong)} of {len(labels)} labels are wrong); correct or remove them"
            )
        return labels

    @property
    def num_classes(self) -> int | None:
        """Number of class names, or else the largest label + 1; None without either."""
        if self.class_names:
            return len(self.class_names)
        return int(self._labels.max()) + 1 if self._labels is not None and len(self._labels) else None

    def require_labels(self, stage: str) -> Labels:
        """The labels, int64 [N].

        Raises:
            DataError: There are none, or they are wrong; `stage` says who needs them.
        """
        labels = self.labels
        if labels is None:
            raise DataError(
                f"{stage} needs labels, {self.name} has none; give a folder with one subfolder per class, "
                "a parquet file with a column 'label', or webdataset shards with 'cls'"
            )
        return labels

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the encoded bytes of every image in order, the labels and the class names.

        It does not depend on where the images lie: a folder and its copy, or a parquet file with the same
        bytes, have the same fingerprint. Every byte is read once per instance.
        """
        digest = hashlib.sha256(b"edgemim images 1\n")
        for block in map_blocks(self._digests, len(self)):
            digest.update(block)
        labels = b"none" if self._labels is None else self._labels.astype("<i8").tobytes()
        digest.update(hashlib.sha256(labels).digest())
        digest.update(json.dumps(self.class_names).encode())
        return digest.hexdigest()

    def encoded(self, i: int) -> bytes:
        """The image's file as it is: JPEG, PNG, ...

        Raises:
            DataError: The file is gone, or the row is empty.
        """
        return self._bytes(self._dataset[int(self._rows[i])], i)

    def encoded_block(self, start: int, stop: int) -> list[bytes]:
        """`encoded` of a range of images, faster than one by one."""
        columns = self._dataset[self._rows[start:stop].tolist()]
        values = zip(*(columns[c] for c in self._columns), strict=True)
        rows = (dict(zip(self._columns, v, strict=True)) for v in values)
        return [self._bytes(row, start + k) for k, row in enumerate(rows)]

    def image(self, i: int) -> Image.Image:
        """The decoded image, RGB, upright.

        Raises:
            DataError: It is not an image, or cut off; names the file or the row.
        """
        return self.decode(i, self.encoded(i))

    def decode(self, i: int, encoded: bytes) -> Image.Image:
        """`image(i)` from bytes that were read before."""
        try:
            return read_image(encoded)
        except DataError as error:
            reason = error.__cause__ or error
            raise DataError(
                f"{self.describe(i)} is not an image that can be read: {reason}; remove or replace it"
            ) from error

    def suffix(self, i: int) -> str:
        """File suffix that fits the image's first bytes, with its dot: `.jpg`, `.png`, `.webp`, ...

        Raises:
            DataError: They are of no known image format.
        """
        start = self.encoded(i)[:16]
        for suffix, offset, signature in _SIGNATURES:
            if start[offset:].startswith(signature):
                return suffix
        raise DataError(f"{self.describe(i)} starts like no image file: {start[:8]!r}; remove or replace it")

    def select(self, indices: Indices) -> Images:
        """The images at `indices` (int [M], each in [0, N)), in that order, as a set of their own."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"indices must lie in [0, {len(self)}); got {wanted.min()} to {wanted.max()}")
        part = object.__new__(Images)
        part.__dict__.update({k: v for k, v in self.__dict__.items() if k != "fingerprint"})
        part._rows = self._rows[wanted]
        part._labels = None if self._labels is None else self._labels[wanted]
        return part

    def describe(self, i: int) -> str:
        """What messages call image `i`: its path, or its row and its set."""
        row = int(self._rows[i])
        path = next((p for p in map(_path, self._dataset[row].values()) if p), None)
        if path and Path(path).is_absolute():
            return path
        return f"image {row} of {self.name}" + (f" ({path})" if path else "")

    def _digests(self, start: int, stop: int) -> bytes:
        return b"".join(hashlib.sha256(data).digest() for data in self.encoded_block(start, stop))

    def _bytes(self, row: dict[str, Any], i: int) -> bytes:
        value = next((v for v in (row[c] for c in self._columns) if v is not None), None)
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return data
        path = _path(value)
        if not path:
            raise DataError(f"image {int(self._rows[i])} of {self.name} is empty; remove the row")
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; restore or remove it") from error


def _path(value: Any) -> str | None:
    path = value.get("path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and path else None


def _to_int64(labels: Sequence[int | None] | Labels) -> Labels:
    return np.array([UNLABELLED if v is None else v for v in labels], dtype=np.int64)
