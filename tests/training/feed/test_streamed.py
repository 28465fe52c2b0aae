"""Images of a stream in memory and out of it again."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgemim.data.streams.index import StreamIndex
from edgemim.data.streams.open import open_stream
from edgemim.errors import ConfigError, DataError
from edgemim.training.feed.augmentation import Augmentation
from edgemim.training.feed.images import AugmentedImages, loader
from edgemim.training.feed.streamed import StreamedImages
from edgemim.training.feed.unreadable import UnreadableImageError
from edgemim.training.feed.windows import WindowOrder
from edgemim.training.settings import stream
from edgemim.training.settings.augmentation import AugmentationSettings
from edgemim.training.settings.stream import StreamSettings

GROUP = 10
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def encoded(number: int) -> bytes:
    """An image of 16 by 16 whose first pixel tells its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels[0, 0] = number // 256, number % 256, 0
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def number_of(pixels: Any) -> int:
    return int(pixels[0, 0, 0]) * 256 + int(pixels[0, 0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 60 images in row groups of 10, each group about 10 kB."""
    folder = tmp_path_factory.mktemp("stream")
    for shard in range(4):
        rows = [encoded(60 * shard + i) for i in range(60)]
        pq.write_table(pa.table({"image": rows}), folder / f"{shard}.parquet", row_group_size=GROUP)
    return folder


@pytest.fixture
def index(folder: Path) -> StreamIndex:
    return open_stream(f"stream:{folder}").train


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the units that were read, in order."""
    numbers: list[int] = []
    real = StreamIndex.read

    def noted(self: StreamIndex, unit: int) -> Any:
        numbers.append(unit)
        return real(self, unit)

    monkeypatch.setattr(StreamIndex, "read", noted)
    return numbers


@pytest.fixture(autouse=True)
def _small_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are small for images as small as these: about five units."""
    monkeypatch.setattr(stream, "MB", 50_000)


WINDOW = StreamSettings(window_mb=1)


def order(index: StreamIndex, *, steps: int = 100, settings: StreamSettings = WINDOW) -> WindowOrder:
    units = StreamedImages(index, settings).units
    return WindowOrder(units=units, settings=settings, batch_size=12, steps=steps, seed=0)


def held_bytes(images: StreamedImages) -> int:
    return sum(held.size for held in images._held.values())


def test_every_image_is_the_one_that_was_asked_for(index: StreamIndex) -> None:
    images = StreamedImages(index, WINDOW)
    assert len(images) == 240
    assert [number_of(images.get(i)) for i in range(239, -1, -1)] == list(range(239, -1, -1))


def test_an_epoch_reads_every_unit_once_and_never_holds_more_than_a_window(index: StreamIndex, read: list[int]) -> None:
    images = StreamedImages(index, WINDOW)
    for batch in order(index, steps=60):  # three epochs
        for _, i in batch:
            images.get(i)
            assert held_bytes(images) <= WINDOW.window_bytes
    assert sorted(read) == sorted([*range(24)] * 3)
    assert held_bytes(images) == 0


def test_workers_that_divide_the_lanes_hold_their_share_of_a_window(index: StreamIndex, read: list[int]) -> None:
    # What worker 1 of 2 gets: every second batch.
    whole = StreamSettings(window_mb=5)
    images = StreamedImages(index, whole)
    held = []
    for batch in list(order(index, steps=200, settings=whole))[1::2]:
        for _, i in batch:
            images.get(i)
        held.append(held_bytes(images))
    assert np.mean(held[10:]) < 0.75 * index.sizes.sum()
    assert len(read) < 0.75 * 24 * 10  # of ten epochs


def test_a_unit_larger_than_a_window_is_refused(
    index: StreamIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MB", 6_000)
    with pytest.raises(ConfigError, match=rf"{folder}/\d\.parquet has a row group \(or sample\) of 1\.\d MB.*=2$"):
        StreamedImages(index, WINDOW)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [encoded(0), b"no image", None, encoded(3)[:300]]}), tmp_path / "a.parquet")
    images = StreamedImages(open_stream(f"stream:{tmp_path}").train, StreamSettings())
    assert number_of(images.get(0)) == 0
    for i, reason in ((1, "not an image that can be read: unknown format"), (2, "empty"), (3, "not .*: .*truncated")):
        with pytest.raises(UnreadableImageError, match=rf"image {i} of .*a\.parquet is {reason}"):
            images.get(i)


def test_a_worker_process_begins_with_nothing_in_memory(index: StreamIndex) -> None:
    images = StreamedImages(index, WINDOW)
    images.get(0)
    assert held_bytes(images) > 0
    copy = pickle.loads(pickle.dumps(images))
    assert held_bytes(copy) == 0
    assert number_of(copy.get(17)) == 17


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_whoever_reads_them(index: StreamIndex, workers: int) -> None:
    augmentation = Augmentation(size=(8, 8), settings=AugmentationSettings(), seed=0)
    images = AugmentedImages(StreamedImages(index, WINDOW), None, augmentation)
    batches = list(loader(images, order(index, steps=8), workers=workers))
    assert [b["index"].tolist() for b in batches] == [[i for _, i in batch] for batch in order(index, steps=8)]
    for batch in batches:
        for epoch, i, image in zip(batch["epoch"].tolist(), batch["index"].tolist(), batch["images"], strict=True):
            whole = StreamedImages(index, WINDOW).get(i)
            assert (augmentation(whole, epoch, i) == image).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_disappears_ends_the_run_in_one_line(
    tmp_path: Path, folder: Path, index: StreamIndex, workers: int
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    for shard in folder.iterdir():
        (gone / shard.name).write_bytes(shard.read_bytes())
    images = StreamedImages(open_stream(f"stream:{gone}").train, WINDOW)
    augmentation = Augmentation(size=(8, 8), settings=AugmentationSettings(), seed=0)
    (gone / "2.parquet").unlink()
    with pytest.raises(
        DataError, match=r"2\.parquet cannot be read: it does not exist; restore it, and go on"
    ) as found:
        list(loader(AugmentedImages(images, None, augmentation), order(index, steps=20), workers=workers))
    assert "\n" not in str(found.value)
