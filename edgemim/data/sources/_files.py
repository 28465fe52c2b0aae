"""Finding files: images below a folder, and shards by path, glob, braces or folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from edgemim.data.sources._base import SPLIT_NAMES
from edgemim.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SHARD_SUFFIXES = (".parquet", ".tar")


def walk_images(folder: Path) -> Iterator[Path]:
    """Image files (by suffix) at any depth, hidden ones left out, unsorted; links to folders are followed."""
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        folders[:] = [f for f in folders if not f.startswith(".") and not _leads_up(os.path.join(root, f), here)]
        for name in names:
            if is_image_name(name):
                yield Path(root, name)


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image: a known suffix, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def has_images(folder: Path) -> bool:
    """Whether there is an image at any depth; stops at the first."""
    return next(walk_images(folder), None) is not None


def has_own_images(folder: Path) -> bool:
    """Whether an image lies in the folder itself."""
    with os.scandir(folder) as entries:
        return any(is_image_name(entry.name) for entry in entries if not entry.is_dir())


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted by name; hidden ones and links to a folder above are left out."""
    here = os.path.realpath(folder)
    found = (f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    return sorted(f for f in found if not _leads_up(str(f), here))


def shards_in(folder: Path) -> str | None:
    """`.parquet` or `.tar` if a folder holds such files at any depth, else None.

    In the folder itself they count even beside images (a data set's card has pictures too); a folder below
    that has images of its own is a folder of images, whatever archive lies in it.
    """
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if root != str(folder) and any(map(is_image_name, names)):
            continue
        for suffix in SHARD_SUFFIXES:
            if any(name.endswith(suffix) and not name.startswith(".") for name in names):
                return suffix
    return None


def is_imagefolder(folder: Path) -> bool:
    """Whether a folder looks like classes: split folders with class folders, or two class folders or more.

    One subfolder with images is no class, and neither is a subfolder beside images.
    """
    if class_split_folders(folder):
        return True
    if has_own_images(folder):
        return False
    with_images = [f for f in subfolders(folder) if f.name.lower() not in SPLIT_NAMES and has_images(f)]
    return len(with_images) >= 2


def class_split_folders(folder: Path) -> dict[str, Path]:
    """Split name to its folder, for folders named like a split that hold class folders and no images."""
    found = {}
    for sub in subfolders(folder):
        split = SPLIT_NAMES.get(sub.name.lower())
        if split and not has_own_images(sub) and any(map(has_images, subfolders(sub))):
            found[split] = sub
    return found


def existing_folder(spec: str) -> Path:
    """The absolute path of a folder.

    Raises:
        DataError: There is none at this path.
    """
    folder = Path(spec).expanduser()
    if not folder.exists():
        raise DataError(f"folder {spec} does not exist")
    if not folder.is_dir():
        raise DataError(f"{spec} is a file; give the folder that the images are in")
    return folder.absolute()


def find_shards(spec: str, suffix: str) -> tuple[list[Path], Path]:
    """Files of one suffix by path, glob, braces (`{000..010}`, `{a,b}`) or folder (any depth), sorted.

    Returns the absolute files, and the folder below which their names may tell the split.

    Raises:
        DataError: There are none, or one that was named is missing.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        files = [f for f in path.rglob(f"*{suffix}") if f.is_file() and not f.name.startswith(".")]
        if not files:
            raise DataError(f"folder {spec} has no {suffix} files")
        return sorted(f.absolute() for f in files), path.absolute()
    patterns = [str(path)] if path.is_file() else expand_braces(str(path))
    found = {p: [p] if os.path.isfile(p) else sorted(glob.glob(p, recursive=True)) for p in patterns}
    missing = [pattern for pattern, files in found.items() if not files]
    if missing:
        raise DataError(f"{missing[0]} does not exist" if len(patterns) > 1 else f"{spec} matches no file")
    shards = [Path(f).absolute() for files in found.values() for f in files if os.path.isfile(f)]
    if not shards:
        raise DataError(f"{spec} matches folders only; give one of them, or a pattern for {suffix} files")
    # The fixed part of a glob is where the user says the data is; only what it matched may name a split.
    fixed = os.path.dirname(re.split(r"[*?[{]", str(path))[0])
    return shards, Path(fixed).absolute()


def expand_braces(pattern: str) -> list[str]:
    """`a{1..3}` and `a{x,y}` to all names, in order; zeros in front are kept."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        words = [str(n).zfill(len(span[1])) for n in range(first, last + 1)]
    else:
        words = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for word in words for name in expand_braces(before + word + after)]


def _leads_up(path: str, here: str) -> bool:
    """Whether a link leads to a folder that it lies in, so that following it would never end."""
    return os.path.islink(path) and (here + os.sep).startswith(os.path.realpath(path).rstrip(os.sep) + os.sep)
