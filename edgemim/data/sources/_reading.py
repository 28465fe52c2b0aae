"""What the sources share in using Hugging Face `datasets`: its cache, its errors, its progress bars."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import platformdirs
from datasets.exceptions import DatasetsError

from edgemim.artifact import writing
from edgemim.data.images import Images
from edgemim.errors import DataError

LABEL_COLUMNS = ("label", "labels", "fine_label")


def cache_folder() -> Path:
    """Where `datasets` may keep its copies: its own setting if the user made one, else edgemim's cache."""
    if folder := os.environ.get("HF_DATASETS_CACHE"):
        return Path(folder).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "datasets"
    return Path(platformdirs.user_cache_dir("edgemim")) / "datasets"


def cache_folder_of(files: Sequence[str | Path]) -> Path:
    """A folder for what is made from these files as they are now.

    `datasets` looks at the modification time alone, which copying tools set back; the size and the time of
    the last change of the inode are part of the name here, so that nothing stale is ever served.
    """
    digest = hashlib.sha256()
    for file in files:
        state = os.stat(file)
        facts = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
        digest.update(f"{file}\0{facts}\n".encode())
    return cache_folder() / digest.hexdigest()[:24]


@contextlib.contextmanager
def reading(what: str, *, cure: str = "restore or remove it") -> Iterator[None]:
    """Turn what `datasets` and Arrow raise while reading `what` into one line; progress bars are off.

    Raises:
        DataError: It cannot be read.
        OutputError: The cache cannot be written.
    """
    shown = not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        with writing(cache_folder(), instead="set HF_HOME to a folder with room"), _unwrapped():
            yield
    # Arrow's exceptions are subclasses of these built-in ones.
    except (DatasetsError, OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise DataError(f"{what} cannot be read: {_first_line(error)}; {cure}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def images_of_paths(paths: Sequence[Path], **settings: Any) -> Images:
    """Images of files that stay where they are; nothing is copied or cached. Settings as of `Images`."""
    dataset = datasets.Dataset.from_dict({"image": [str(p) for p in paths]})
    return Images(dataset, **settings)


def images_of_dataset(dataset: Any, name: str) -> Images:
    """Images of a `datasets.Dataset` with the Hub's image schema: image column, label column, class names.

    Raises:
        DataError: No column holds images; no rows; labels that are not integers.
    """
    column = find_image_column(dataset.features, name)
    label = next((c for c in LABEL_COLUMNS if c in dataset.features), None)
    if not len(dataset):
        raise DataError(f"{name} has no rows")
    values = names = None
    if label is not None:
        values, names = _labels(dataset, label, name)
    dataset = dataset.select_columns([column])
    if isinstance(dataset.features[column], datasets.Image):
        dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return Images(dataset, name=name, columns=(column,), labels=values, class_names=names)


def find_image_column(features: Any, name: str) -> str:
    """`image` or `img`, else the first column that the schema says holds images.

    Raises:
        DataError: There is none; names the columns found.
    """
    for column, feature in features.items():
        if column in ("image", "img") and _may_hold_images(feature):
            return str(column)
    for column, feature in features.items():
        if isinstance(feature, datasets.Image):
            return str(column)
    found = ", ".join(map(repr, features)) or "none"
    raise DataError(f"{name} has no image column; it has {found}; name the column 'image' (encoded bytes)")


def _may_hold_images(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("binary", "large_binary", "string", "large_string")
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature)


def _labels(dataset: Any, column: str, name: str) -> tuple[list[int | None], list[str] | None]:
    feature = dataset.features[column]
    if not isinstance(feature, datasets.ClassLabel) and "int" not in getattr(feature, "dtype", ""):
        raise DataError(
            f"{name}: labels must be integers; column {column!r} is {getattr(feature, 'dtype', feature)!s}; "
            "store it as a datasets.ClassLabel"
        )
    return dataset.data.column(column).to_pylist(), getattr(feature, "names", None)


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise a full disk as what it is, where `datasets` wrapped it."""
    try:
        yield
    except DatasetsError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise cause from error
        raise


def _first_line(error: BaseException) -> str:
    told = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
    if "corresponds to no data" in str(told):
        return "it holds no images"
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    line = lines[0] if lines else type(told).__name__
    return "".join(c for c in line if c.isprintable())[:300].rstrip(".")
