"""A data set on the Hugging Face Hub: `hub:owner/name`, `hub:owner/name:config`, or `owner/name` by itself.

Downloaded once, into the cache of `datasets`. Data sets that run code of their own are not supported.

Source: https://huggingface.co/docs/datasets/loading#hugging-face-hub

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import datasets

from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import SPLIT_NAMES, Source, SplitOpeners
from edgemim.data.sources._reading import cache_folder, images_of_dataset, reading
from edgemim.errors import DataError

_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(:(?P<config>[\w.-]+))?")


class Hub(Source):
    """The Hub through `datasets.load_dataset`."""

    def matches(self, spec: str) -> bool:
        found = _NAME.fullmatch(spec)
        # A path with a typing error must not become a question to the Hub.
        local = Path(spec).exists() or Path(spec).parent.is_dir() or Path(spec).suffix in (".parquet", ".tar")
        return found is not None and not local

    def splits(self, spec: str) -> SplitOpeners:
        found = _NAME.fullmatch(spec)
        if found is None:
            raise DataError(f"the Hub's data sets are named owner/name or owner/name:config; got {spec!r}")
        what = f"the Hub's data set {spec}"
        cure = "check its name and the connection, or give a path that exists"
        with reading(what, cure=cure):
            # datasets downloads all splits even when asked for one, so there is nothing to put off.
            loaded = datasets.load_dataset(found["name"], found["config"], cache_dir=str(cache_folder()))
        return {
            SPLIT_NAMES.get(split, split): partial(images_of_dataset, dataset, f"{what} [{split}]")
            for split, dataset in loaded.items()
        }


SOURCES.add("hub", Hub)
