"""The contract of a data source, and how the names of splits are recognised."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath

from edgemim.data.images import Images

# Names of splits as people write them, and as edgemim does.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}

SplitOpeners = Mapping[str, Callable[[], Images]]


class Source(ABC):
    """One way to store images. Sources are made without arguments and keep no state.

    At most one source should match a spec that the user gave without a prefix; with a prefix
    (`parquet:PATH`) `matches` is not asked.
    """

    @abstractmethod
    def matches(self, spec: str) -> bool:
        """Whether `spec` looks like this source; reads names of files at most, and never raises."""

    @abstractmethod
    def splits(self, spec: str) -> SplitOpeners:
        """Name of each split (`train`, `validation`, `test`, or the source's own) to what opens it.

        Local files are not opened before it is called. There is at least one split, and none is empty.

        Raises:
            DataError: There is nothing to read; says what was looked for.
        """


def split_of(path: PurePath) -> str:
    """The split that a file's stem names (`train-00000-of-00002.parquet`), else its folders, else `train`."""
    for part in (path.stem, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "train"


def group_by_split(files: Iterable[PurePath], root: PurePath) -> dict[str, list[str]]:
    """Files (as text, order kept) by split; only what lies below `root` counts as a name."""
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(split_of(file.relative_to(root)), []).append(str(file))
    return groups
