"""WebDataset shards: `.tar` files by path, glob, braces (`shard-{000..010}.tar`) or folder.

A sample is the files that share a name: `.jpg`, `.jpeg`, `.png` or `.webp`, and `.cls` with the class
index if there are labels. The split is read from file names or their folders.

Source: https://github.com/webdataset/webdataset

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import datasets
import numpy as np

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners, group_by_split
from edgemim.data.sources._files import find_shards, is_imagefolder, shards_in
from edgemim.data.sources._reading import cache_folder_of, reading
from edgemim.errors import DataError

_SUFFIX = ".tar"
_KEYS = ("jpg", "jpeg", "png", "webp", "JPG", "JPEG", "PNG", "WEBP")


class WebDataset(Source):
    """Tar shards through `datasets`, which keeps a memory-mapped copy of images and classes in its cache."""

    def matches(self, spec: str) -> bool:
        folder = Path(spec).expanduser()
        if folder.is_dir():
            return not is_imagefolder(folder) and shards_in(folder) == _SUFFIX
        return spec.endswith(_SUFFIX)

    def splits(self, spec: str) -> SplitOpeners:
        groups = group_by_split(*find_shards(spec, _SUFFIX))
        return {
            split: partial(_open, files, f"{spec} [{split}]" if len(groups) > 1 else spec)
            for split, files in groups.items()
        }


def _open(files: list[str], name: str) -> Images:
    # Told what to look for, datasets takes samples whose keys differ; left to guess, it refuses them.
    schema = {key: datasets.Image(decode=False) for key in _KEYS} | {"cls": datasets.Value("int64")}
    with reading(name):
        dataset = datasets.load_dataset(
            "webdataset",
            data_files=files,
            split="train",
            features=datasets.Features(schema),
            cache_dir=str(cache_folder_of(files)),
        )
    filled = np.array([dataset.data.column(key).is_valid().to_numpy() for key in _KEYS]).any(axis=0)
    if not filled.any():
        raise DataError(f"{name} has no images; looked for files ending in {', '.join(_KEYS[:4])}")
    if not filled.all():
        row = int(np.argmin(filled))
        count = int(np.sum(~filled))
        raise DataError(f"sample {row} of {name} has no image ({count} have none); write the shards again")
    labels = dataset.data.column("cls").to_pylist()
    return Images(
        dataset.select_columns(list(_KEYS)),
        name=name,
        columns=_KEYS,
        labels=None if all(v is None for v in labels) else labels,
    )


SOURCES.add("webdataset", WebDataset)
