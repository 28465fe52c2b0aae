"""The images of a comparison: both forms of the data set, rows that a seed does not change, no foreign code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from _parts import cifar10
from PIL import Image


def batch(images: int, first_label: int = 0) -> dict[bytes, Any]:
    """A batch as CIFAR-10 has them; the first pixel of an image is its row."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3072), dtype=np.uint8)
    pixels[:, 0] = np.arange(images) % 256
    return {b"data": pixels, b"labels": [(first_label + i) % 10 for i in range(images)], b"batch_label": b"some"}


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """What torchvision leaves behind, with 5 x 200 training and 40 test images."""
    folder = tmp_path / "download" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch(200), protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(40, first_label=3), protocol=2))
    return folder.parent


def labels(file: Path) -> list[int]:
    return list(pq.read_table(file).column("label").to_pylist())


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_a_pickled_batch_keeps_every_pixel(download: Path) -> None:
    images, of_each = cifar10.read_batch(download / "cifar-10-batches-py" / "test_batch")
    written = batch(40, first_label=3)
    assert of_each == written[b"labels"]
    # Channels come first in the file: 1024 reds, 1024 greens, 1024 blues, each row by row.
    assert np.array_equal(pixels(images[7])[2, 5], written[b"data"][7].reshape(3, 32, 32)[:, 2, 5])


def test_the_folder_of_the_batches_itself_will_do(download: Path) -> None:
    assert cifar10.read_split(download / "cifar-10-batches-py", "test")[1] == cifar10.read_split(download, "test")[1]


def test_the_first_of_each_class_are_trained_on_in_the_order_of_the_file(download: Path, tmp_path: Path) -> None:
    cifar10.write_comparison_data(download, tmp_path / "out", train_images=30, test_images=0)
    assert labels(tmp_path / "out" / "train.parquet") == [i % 10 for i in range(30)]
    assert len(labels(tmp_path / "out" / "test.parquet")) == 40


def test_what_was_written_can_be_read_again(download: Path, tmp_path: Path) -> None:
    cifar10.write_comparison_data(download, tmp_path / "out", train_images=0, test_images=0)
    again, of_each = cifar10.read_split(tmp_path / "out", "train")
    images, written = cifar10.read_split(download, "train")
    assert (again, of_each) == (images, written)


def test_validation_images_are_training_images_that_are_not_trained_on(
    download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "VALIDATION_PER_CLASS", 20)
    cifar10.write_comparison_data(download, tmp_path / "out", train_images=0, test_images=0, validation=True)
    train, _ = cifar10.read_split(tmp_path / "out", "train")
    test, of_each = cifar10.read_split(tmp_path / "out", "test")
    # The five batches repeat the same 200 images: the last 200 of the file are the fifth batch.
    assert (len(train), len(test)) == (800, 200)
    assert test == cifar10.read_batch(download / "cifar-10-batches-py" / "data_batch_5")[0]
    assert [of_each.count(label) for label in range(10)] == [20] * 10


def test_too_few_images_of_a_class_are_said(download: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="one class has 4"):
        cifar10.write_comparison_data(download, tmp_path / "out", train_images=0, test_images=100)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    file = tmp_path / "test_batch"
    file.write_bytes(pickle.dumps({b"data": Harmful()}, protocol=2))
    with pytest.raises(SystemExit, match="it wants to load"):
        cifar10.read_batch(file)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        {b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]},
        [1, 2],
    ],
    ids=["no data", "no bytes", "other number of labels", "no table"],
)
def test_what_is_no_batch_is_refused(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "test_batch"
    file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(SystemExit, match="is not a CIFAR-10 batch"):
        cifar10.read_batch(file)


def test_a_folder_without_the_set_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"train\.parquet and test\.parquet, or the folder into which torchvision"):
        cifar10.read_split(tmp_path, "train")
