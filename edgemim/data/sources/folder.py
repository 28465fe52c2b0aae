"""A folder of images without labels, at any depth.

With subfolders `train` and `val`, `validation` or `test` and no image beside them, these are the splits.

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import SPLIT_NAMES, Source, SplitOpeners
from edgemim.data.sources._files import (
    IMAGE_SUFFIXES,
    existing_folder,
    has_images,
    has_own_images,
    is_imagefolder,
    shards_in,
    subfolders,
    walk_images,
)
from edgemim.data.sources._reading import images_of_paths
from edgemim.errors import DataError


class Folder(Source):
    """Every image below a folder, sorted by path."""

    def matches(self, spec: str) -> bool:
        folder = Path(spec).expanduser()
        return folder.is_dir() and not is_imagefolder(folder) and not shards_in(folder) and has_images(folder)

    def splits(self, spec: str) -> SplitOpeners:
        folder = existing_folder(spec)
        if not has_images(folder):
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"folder {spec} has no images; looked for {kinds} at any depth")
        named = {SPLIT_NAMES[f.name.lower()]: f for f in subfolders(folder) if f.name.lower() in SPLIT_NAMES}
        if has_own_images(folder) or not any(has_images(f) for f in named.values()):
            named = {"train": folder}
        return {
            split: partial(_open, f, f"{spec} [{split}]" if len(named) > 1 else spec)
            for split, f in named.items()
            if has_images(f)
        }


def _open(folder: Path, name: str) -> Images:
    paths = sorted(walk_images(folder), key=lambda p: p.relative_to(folder).parts)
    return images_of_paths(paths, name=name)


SOURCES.add("folder", Folder)
