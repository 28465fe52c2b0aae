"""Parquet files with encoded images: one file, a glob, braces or a folder.

Columns as on the Hugging Face Hub: `image` or `img` (encoded bytes, or bytes and path), and `label`,
`labels` or `fine_label`. The split is read from file names (`train-00000-of-00002.parquet`) or their folders.

Source: https://huggingface.co/docs/hub/datasets-image#parquet-format

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners, group_by_split
from edgemim.data.sources._files import find_shards, is_imagefolder, shards_in
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
    with reading(name):
        features = datasets.Features.from_arrow_schema(pq.read_schema(files[0]))
    image = find_image_column(features, name)
    with reading(name):
        dataset = datasets.load_dataset(
            "parquet",
            data_files=files,
            split="train",
            columns=[image, *[c for c in LABEL_COLUMNS if c in features][:1]],
            cache_dir=str(cache_folder_of(files)),
        )
    return images_of_dataset(dataset, name)


SOURCES.add("parquet", Parquet)
