"""The images of a run, here or streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgemim.errors import DataError
from edgemim.training.feed.opened import open_run
from edgemim.training.feed.streamed import StreamedImages
from edgemim.training.settings.run import RunSettings

SIZE = (4, 4)
MakeSettings = Callable[..., RunSettings]


def test_a_set_that_is_here_is_what_it_is_measured_on(run_settings: MakeSettings, imagefolder: Any) -> None:
    settings = run_settings(data=str(imagefolder()))
    found = open_run(settings)
    train = found.training(SIZE, settings)
    assert len(found) == len(found.splits.train) == len(train) == 10
    assert found.fingerprint == found.splits.train.fingerprint
    assert found.known(SIZE, train) is train


def test_the_test_shards_of_a_stream_are_measured_in_two_halves(
    tmp_path: Path, run_settings: MakeSettings, write_tar: Any
) -> None:
    write_tar(tmp_path / "train.tar", count=20)
    write_tar(tmp_path / "test.tar", count=30)
    settings = run_settings(data=f"stream:{tmp_path}", evaluation={"probe": "knn", "max_images": 12})
    found = open_run(settings)
    train = found.training(SIZE, settings)
    assert isinstance(train.source, StreamedImages)
    assert len(found) == len(train) == 20
    known, asked = found.splits.train, found.splits.test
    assert sorted(known.labels.tolist() + asked.labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert set(known.labels.tolist()) == set(asked.labels.tolist()) == {0, 1, 2}
    assert len(found.known(SIZE, train)) == len(known) == 6


def test_without_test_shards_the_first_training_images_that_can_be_read_are_shown(
    tmp_path: Path, run_settings: MakeSettings, write_parquet: Any
) -> None:
    write_parquet(tmp_path / "a.parquet", count=20)
    settings = run_settings(data=f"stream:{tmp_path}", evaluation={"probe": "knn"})
    found = open_run(settings)
    assert len(found.splits.test) == 8
    assert found.splits.train.labels is None
    assert found.known(SIZE, found.training(SIZE, settings)) is not None


def test_what_is_shown_leaves_out_what_cannot_be_read(tmp_path: Path, run_settings: MakeSettings, encode: Any) -> None:
    pq.write_table(pa.table({"image": [b"no image", encode(1), None, encode(3)]}), tmp_path / "a.parquet")
    shown = open_run(run_settings(data=f"stream:{tmp_path}")).splits.test
    assert shown.encoded_block(0, 2) == [encode(1), encode(3)]
    pq.write_table(pa.table({"image": [b"no image", None]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"none of the first 2 images of .* can be read; give another data set"):
        open_run(run_settings(data=f"stream:{tmp_path}"))
