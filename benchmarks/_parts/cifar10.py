"""CIFAR-10 from parquet files or from the batches that torchvision downloads, as the folder a comparison reads.

The rows that a comparison trains and tests on follow from their place in the file alone, not from a seed: the
first of each class are for training, the last of each class of the training file for validation.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = 10
VALIDATION_PER_CLASS = 500
BATCHES = "cifar-10-batches-py"
_FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_SHAPE = (3, 32, 32)

Rows = tuple[list[bytes], list[int]]


def write_comparison_data(
    source: Path, out: Path, *, train_images: int, test_images: int, validation: bool = False
) -> None:
    """Write `out`/train.parquet and `out`/test.parquet.

    Args:
        source: Folder with train.parquet and test.parquet, or torchvision's download.
        out: Folder to write.
        train_images: A multiple of 10, evenly from the classes; 0: all.
        test_images: Likewise.
        validation: Test on the last 500 training images of each class, which are then not trained on, and leave
            the test images alone.

    Raises:
        SystemExit: There is no CIFAR-10 in `source`, or too little of it.
    """
    train = read_split(source, "train")
    if validation:
        train, test = _without_last(train, VALIDATION_PER_CLASS), _last(train, VALIDATION_PER_CLASS)
    else:
        test = read_split(source, "test")
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "train.parquet", _first(train, train_images))
    _write(out / "test.parquet", _first(test, test_images))


def read_split(source: Path, split: str) -> Rows:
    """Encoded images and labels of `train` or `test`, in the order of the files."""
    parquet = source / f"{split}.parquet"
    batches = source / BATCHES if (source / BATCHES).is_dir() else source
    if parquet.is_file():
        table = pq.read_table(parquet)
        images, labels = table.column(_image_column(table, parquet)).to_pylist(), table.column("label").to_pylist()
        return [image["bytes"] for image in images], labels
    if all((batches / name).is_file() for name in _FILES[split]):
        parts = [read_batch(batches / name) for name in _FILES[split]]
        return [image for images, _ in parts for image in images], [label for _, labels in parts for label in labels]
    raise SystemExit(
        f"{source} has neither {split}.parquet nor {BATCHES}/{_FILES[split][0]}; give --data a folder with "
        "train.parquet and test.parquet, or the folder into which torchvision.datasets.CIFAR10 downloads"
    )


def read_batch(file: Path) -> Rows:
    """One pickled batch as PNG images and labels; nothing but arrays and plain values is unpickled.

    Raises:
        SystemExit: It is not a batch of CIFAR-10.
    """
    with file.open("rb") as stream:
        try:
            batch = _ArraysOnly(stream, encoding="bytes").load()
            pixels, labels = batch[b"data"], [int(label) for label in batch[b"labels"]]
        except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as error:
            raise SystemExit(f"{file} is not a CIFAR-10 batch: {error}; download it again") from error
    expected = (len(labels), int(np.prod(_SHAPE)))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != expected:
        raise SystemExit(f"{file} is not a CIFAR-10 batch: its data is no uint8 array of {expected}; download it again")
    return [_png(image.reshape(_SHAPE).transpose(1, 2, 0)) for image in pixels], labels


class _ArraysOnly(pickle.Unpickler):
    """A pickle can call whatever it names; this one may name the three things that arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}")
        return allowed[module, name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    # numpy's own `_reconstruct`, whose result is filled by `__setstate__`, for plain arrays only.
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("its array is no plain one")
    return np.ndarray((0,), np.int8)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _image_column(table: pa.Table, file: Path) -> str:
    for name in ("image", "img"):
        if name in table.column_names:
            return name
    raise SystemExit(f"{file} has no column 'image' or 'img'; it has {', '.join(table.column_names)}")


def _by_class(labels: Sequence[int]) -> list[list[int]]:
    rows = defaultdict(list)
    for row, label in enumerate(labels):
        rows[label].append(row)
    return [rows[label] for label in range(CLASSES)]


def _first(split: Rows, images: int) -> Rows:
    if not images:
        return split
    each = images // CLASSES
    classes = _by_class(split[1])
    fewest = min(map(len, classes))
    if fewest < each:
        raise SystemExit(f"{images} images need {each} of each class; one class has {fewest}")
    return _take(split, [row for rows in classes for row in rows[:each]])


def _last(split: Rows, each: int) -> Rows:
    return _take(split, [row for rows in _by_class(split[1]) for row in rows[-each:]])


def _without_last(split: Rows, each: int) -> Rows:
    return _take(split, [row for rows in _by_class(split[1]) for row in rows[:-each]])


def _take(split: Rows, rows: list[int]) -> Rows:
    rows = sorted(rows)  # in the order of the file: a set sorted by class would need a shuffle
    return [split[0][row] for row in rows], [split[1][row] for row in rows]


def _write(file: Path, split: Rows) -> None:
    images = pa.array(
        [{"bytes": image, "path": None} for image in split[0]], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": images, "label": pa.array(split[1], pa.int64())}), file)
