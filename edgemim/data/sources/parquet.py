"""Parquet files with encoded images: one file, a glob, braces or a folder.

Columns as on the Hugging Face Hub: `image` or `img` (encoded bytes, or bytes and path), and `label`, `labels` or
`fine_label`. The split is read from file names (`train-00000-of-00002.parquet`) or their folders.

Source: https://huggingface.co/docs/hub/datasets-image#parquet-format

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import datasets

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners, group_by_split
from edgemim.data.sources._files import find_shards
from edgemim.data.sources._reading import (
    LABEL_COLUMNS,
    cache_folder_of,
    find_image_column,
    images_of_dataset,
    reading,
)

_SUFFIX = ".parquet"


class Parquet(Source):
    """Parquet through `datasets`, which keeps a memory-mapped copy of the two columns in its cache."""

    def matches(self, spec: str) -> bool:
        folder = Path(spec).expanduser()
        return spec.endswith(_SUFFIX) or (
            folder.is_dir() and next(folder.rglob(f"*{_SUFFIX}"), None) is not None
        )

    def splits(self, spec: str) -> SplitOpeners:
        groups = group_by_split(*find_shards(spec, _SUFFIX))
        return {
            split: partial(_open, files, f"{spec} [{split}]" if len(groups) > 1 else spec)
            for split, files in groups.items()
        }


def _open(files: list[str], name: str) -> Images:
    cache = str(cache_folder_of(files))
    with reading(name):
        stream = datasets.load_dataset(
            "parquet", data_files=files, split="train", streaming=True, cache_dir=cache
        )
        features = stream.features
    image = find_image_column(features, name)
    columns = [image, *[c for c in LABEL_COLUMNS if c in features][:1]]
    with reading(name):
        dataset = datasets.load_dataset(
            "parquet", data_files=files, split="train", columns=columns, cache_dir=cache
        )
    return images_of_dataset(dataset, name)


SOURCES.add("parquet", Parquet)
