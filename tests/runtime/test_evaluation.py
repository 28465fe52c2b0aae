"""`edgemim.runtime.evaluation`: what goes into the zip comes out, and nothing else does."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.artifact import sha256_of
from edgemim.errors import ArtifactError, DataError
from edgemim.runtime.evaluation import open_evaluation, write_evaluation


def test_bytes_and_labels_come_back_in_order(world: SimpleNamespace, tmp_path: Path) -> None:
    images = world.labelled(12)
    assert write_evaluation(tmp_path / "e.zip", images, classes=5) == {"count": 12, "labelled": True}
    evaluation = open_evaluation(tmp_path / "e.zip", count=12, classes=5)
    assert list(evaluation.encoded()) == [data for data, _ in images]
    assert evaluation.labels is not None
    assert evaluation.labels.tolist() == [label for _, label in images]


def test_the_same_images_give_the_same_bytes(world: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_evaluation(tmp_path / name, world.labelled(3), classes=5)
    assert sha256_of(tmp_path / "a.zip") == sha256_of(tmp_path / "b.zip")


def test_images_without_labels(world: SimpleNamespace, tmp_path: Path) -> None:
    images = [(data, None) for data, _ in world.labelled(2)]
    assert write_evaluation(tmp_path / "e.zip", images, classes=5) == {"count": 2, "labelled": False}
    assert open_evaluation(tmp_path / "e.zip", count=2, classes=5).labels is None


def test_bad_images_and_labels_are_refused(world: SimpleNamespace, tmp_path: Path) -> None:
    good, _ = world.labelled(1)[0]
    cases = [
        ([], "no evaluation images"),
        ([(good, 1), (good, None)], "1 of 2 evaluation images have no label"),
        ([(good, 5)], "label 5, the model has 5 classes"),
        ([(good, -1)], "label -1"),
        ([(b"not an image", 0)], "not an image"),
        ([(good[:40], 0)], "not an image"),
    ]
    for images, message in cases:
        with pytest.raises(DataError, match=message):
            write_evaluation(tmp_path / "e.zip", images, classes=5)


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name", ["../00000.png", "/images/00000.png", "images/00001.png", "images/0.png", "images/00000.svg", "x.txt"]
)
def test_a_member_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    path = _zip(tmp_path / "e.zip", {name: b"x", "labels.json": b"null"})
    with pytest.raises(ArtifactError, match="unexpected member"):
        open_evaluation(path, count=1, classes=5)


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    members = {"images/00000.png": b"0" * 1000, "labels.json": b"null"}
    path = _zip(tmp_path / "e.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="unexpected member"):
        open_evaluation(path, count=1, classes=5)


@pytest.mark.parametrize("labels", [[0], [0, 5], [0, -1], [0, "1"], [0, True], {"a": 1}])
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: object) -> None:
    members = {"images/00000.png": b"x", "images/00001.png": b"x", "labels.json": json.dumps(labels).encode()}
    with pytest.raises(ArtifactError, match="does not hold 2 class numbers below 5"):
        open_evaluation(_zip(tmp_path / "e.zip", members), count=2, classes=5)


def test_a_file_that_is_no_zip_or_lacks_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(ArtifactError, match="is damaged"):
        open_evaluation(tmp_path / "e.zip", count=1, classes=5)
    with pytest.raises(ArtifactError, match=r"damaged at labels\.json"):
        open_evaluation(_zip(tmp_path / "f.zip", {"images/00000.png": b"x"}), count=1, classes=5)


def test_another_number_of_images_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "e.zip", {"images/00000.png": b"x", "labels.json": b"null"})
    with pytest.raises(ArtifactError, match="holds 1 images, the manifest says 2"):
        open_evaluation(path, count=2, classes=5)


def test_a_damaged_image_is_found_when_it_is_read(world: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "e.zip"
    write_evaluation(path, world.labelled(1), classes=5)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"IDAT", b"IDAX", 1))
    evaluation = open_evaluation(path, count=1, classes=5)
    with pytest.raises(ArtifactError, match="damaged at images/00000"):
        list(evaluation.encoded())
