"""A folder with one subfolder per class, by itself or under `train` and `val`, `validation` or `test`.

The class indices are those of the sorted names of the training folders, for every split.

Needs: datasets; pip install 'edgemim[train]'
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgemim.data.images import Images
from edgemim.data.sources import SOURCES
from edgemim.data.sources._base import Source, SplitOpeners
from edgemim.data.sources._files import (
    class_split_folders,
    existing_folder,
    has_images,
    has_own_images,
    is_imagefolder,
    subfolders,
    walk_images,
)
from edgemim.data.sources._reading import images_of_paths
from edgemim.errors import DataError


class ImageFolder(Source):
    """Class folders; images of a class may lie deeper inside its folder."""

    def matches(self, spec: str) -> bool:
        folder = Path(spec).expanduser()
        return folder.is_dir() and is_imagefolder(folder)

    def splits(self, spec: str) -> SplitOpeners:
        folder = existing_folder(spec)
        named = class_split_folders(folder) or {"train": folder}
        classes = _class_names(named.get("train", next(iter(named.values()))), spec)
        return {
            split: partial(_open, f, f"{spec} [{split}]" if len(named) > 1 else spec, classes)
            for split, f in named.items()
        }


def _class_names(folder: Path, spec: str) -> tuple[str, ...]:
    classes = subfolders(folder)
    if not classes:
        raise DataError(f"{folder} has no class folders; put each class's images into a folder of its own")
    empty = [f.name for f in classes if not has_images(f)]
    if empty:
        raise DataError(f"class folder {empty[0]!r} of {spec} has no images; add some, or remove the folder")
    return tuple(f.name for f in classes)


def _open(folder: Path, name: str, classes: tuple[str, ...]) -> Images:
    unknown = sorted({f.name for f in subfolders(folder) if has_images(f)} - set(classes))
    if unknown:
        raise DataError(f"{name} has the class {unknown[0]!r}, the training images have not; add or remove it")
    if has_own_images(folder):
        raise DataError(f"{folder} has images beside its class folders; move them into these")
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        found = sorted(walk_images(folder / class_name), key=lambda p: p.parts)
        paths += found
        labels += [label] * len(found)
    return images_of_paths(paths, name=name, labels=labels, class_names=classes)


SOURCES.add("imagefolder", ImageFolder)
