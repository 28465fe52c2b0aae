"""Images that travel in a bundle, to evaluate on or golden ones: encoded bytes and labels in one stored zip.

    evaluation.zip
    ├── images/00000.png ...      the bytes as they were, numbered in order
    └── labels.json               one class number per image, or null

The bytes stay encoded, so that decoding and resizing happen on the device, through the same contract as
everywhere. Same images, same zip: members have a fixed time and no compression.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.errors import ArtifactError, DataError
from edgemim.preprocess import read_image

LABELS = "labels.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MEMBER = re.compile(r"images/(\d{5,})\.(png|jpg|webp|bmp|gif|tif|img)")
_MAGIC = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"BM", "bmp"),
    (b"GIF8", "gif"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Images to measure accuracy on, read from a zip whose hash was checked.

    Attributes:
        path: The zip.
        members: Its images, in order.
        labels: int64 [N], class numbers; None if the images have no labels.
    """

    path: Path
    members: tuple[str, ...]
    labels: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.members)

    def encoded(self) -> Iterator[bytes]:
        """The encoded images, in order.

        Raises:
            ArtifactError: The zip is damaged.
        """
        with zipfile.ZipFile(self.path) as archive:
            for member in self.members:
                yield _read(archive, self.path, member)

    def read(self, index: int) -> bytes:
        """One encoded image.

        Raises:
            ArtifactError: The zip is damaged.
        """
        with zipfile.ZipFile(self.path) as archive:
            return _read(archive, self.path, self.members[index])


def write_evaluation(path: Path, images: Iterable[tuple[bytes, int | None]], *, classes: int) -> dict[str, Any]:
    """Write encoded images and their labels to `path`; every image is decoded once to see that it can be.

    Args:
        images: Encoded bytes and class number; the numbers are given for all images or for none.
        classes: Classes that the model knows; labels lie in 0..classes - 1.

    Returns:
        `{"count": N, "labelled": bool}` for the manifest.

    Raises:
        DataError: No image, one that cannot be read, some labels missing, or one out of range.
    """
    labels: list[int | None] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for data, label in images:
            read_image(data)
            if label is not None and not 0 <= label < classes:
                raise DataError(f"evaluation image {len(labels)} has label {label}, the model has {classes} classes")
            _write(archive, f"images/{len(labels):05d}.{_suffix(data)}", data)
            labels.append(None if label is None else int(label))
        unlabelled = labels.count(None)
        if not labels:
            raise DataError("there are no evaluation images; give some, or none at all")
        if 0 < unlabelled < len(labels):
            raise DataError(f"{unlabelled} of {len(labels)} evaluation images have no label; label all or none")
        _write(archive, LABELS, json.dumps(None if unlabelled else labels).encode())
    return {"count": len(labels), "labelled": not unlabelled}


def open_evaluation(path: Path, *, count: int, classes: int) -> Evaluation:
    """Read names and labels of a zip that `write_evaluation` made, and compare them with the manifest.

    Raises:
        ArtifactError: The zip is damaged, or not what the manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            labels = json.loads(_read(archive, path, LABELS))
    except (zipfile.BadZipFile, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; write the bundle again") from error
    if len(members) != count:
        raise ArtifactError(f"{path} holds {len(members)} images, the manifest says {count}")
    return Evaluation(path=path, members=members, labels=_check_labels(path, labels, count, classes))


def _members(archive: zipfile.ZipFile, path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for info in archive.infolist():
        if info.filename == LABELS:
            continue
        match = _MEMBER.fullmatch(info.filename)
        # Stored only: a compressed member could unpack to more than the disk holds.
        if match is None or int(match[1]) != len(names) or info.compress_type != zipfile.ZIP_STORED:
            raise ArtifactError(f"{path} has the unexpected member {info.filename!r}; write the bundle again")
        names.append(info.filename)
    return tuple(names)


def _check_labels(path: Path, labels: Any, count: int, classes: int) -> npt.NDArray[np.int64] | None:
    if labels is None:
        return None
    good = isinstance(labels, list) and all(type(v) is int and 0 <= v < classes for v in labels)
    if not good or len(labels) != count:
        raise ArtifactError(f"{path}: {LABELS} does not hold {count} class numbers below {classes}")
    return np.asarray(labels, dtype=np.int64)


def _read(archive: zipfile.ZipFile, path: Path, member: str) -> bytes:
    try:
        return archive.read(member)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise ArtifactError(f"{path} is damaged at {member}: {error}; write the bundle again") from error


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, compress_type=zipfile.ZIP_STORED)


def _suffix(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "img")
