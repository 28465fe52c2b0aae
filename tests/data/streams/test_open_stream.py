"""From what the user wrote to the splits of a stream, and to its first images as a set."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from edgemim.data.cache import decode_cached
from edgemim.data.open import is_stream, open_images
from edgemim.data.streams.first import first_images
from edgemim.data.streams.open import open_stream
from edgemim.errors import DataError

Encode = Callable[..., bytes]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("stream:photos", True),
        ("stream:s3://bucket/a.tar", True),
        ("s3://bucket/a-*.parquet", True),
        ("photos", False),
        ("hub:owner/name", False),
        ("parquet:photos", False),
    ],
)
def test_a_stream_is_known_by_its_prefix_or_its_url(spec: str, expected: bool) -> None:
    assert is_stream(spec) is expected


def test_splits_are_read_from_names_and_folders(tmp_path: Path, write_tar: Any) -> None:
    write_tar(tmp_path / "train-0.tar", count=4)
    write_tar(tmp_path / "train-1.tar", count=3)
    write_tar(tmp_path / "val" / "0.tar", count=2)
    splits = open_stream(f"stream:{tmp_path}")
    assert len(splits.train) == 7
    assert splits.test is not None
    assert len(splits.test) == 2
    write_tar(tmp_path / "test.tar", count=1)
    found = open_stream(f"stream:{tmp_path}").test
    assert found is not None
    assert len(found) == 1


def test_a_set_of_one_split_is_for_training_whatever_its_name(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "test-0.parquet")
    splits = open_stream(f"stream:{tmp_path}")
    assert len(splits.train) == 6
    assert splits.test is None


def test_a_set_without_training_images_is_refused(tmp_path: Path, write_tar: Any) -> None:
    write_tar(tmp_path / "test.tar")
    write_tar(tmp_path / "val.tar")
    with pytest.raises(DataError, match=r"has no split 'train'; it has test, validation"):
        open_stream(f"stream:{tmp_path}")
    with pytest.raises(DataError, match=r"stream: names no shards"):
        open_stream("stream:")


def test_shards_in_a_store_are_read_by_url(tmp_path: Path, write_tar: Any, encode: Encode) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/photos/train-0.tar", write_tar(tmp_path / "a.tar", count=3).read_bytes())
    splits = open_stream("memory://photos/train-*.tar")
    assert [splits.train.read(0)[row] for row in range(3)] == [encode(i) for i in range(3)]
    store.rm("/photos", recursive=True)


def test_other_stages_say_that_they_do_not_stream(tmp_path: Path) -> None:
    for spec in (f"stream:{tmp_path}", "s3://bucket/a.tar"):
        with pytest.raises(DataError, match=r"is a stream, which only pretrain and distill read; give a folder"):
            open_images(spec)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_the_first_images_are_a_set_of_their_own(
    tmp_path: Path, write_tar: Any, write_parquet: Any, encode: Encode, kind: str
) -> None:
    write = write_tar if kind == "tar" else write_parquet
    write(tmp_path / f"0.{kind}", count=6)
    write(tmp_path / f"1.{kind}", count=6, seed=6)
    index = open_stream(f"stream:{tmp_path}").train
    images = first_images(index, 8)
    assert len(images) == 8
    assert images.encoded_block(0, 8) == [encode(i) for i in range(8)]
    labels = images.labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert images.select([7, 2]).encoded(0) == encode(7)
    assert pickle.loads(pickle.dumps(images)).encoded(3) == encode(3)
    assert len(decode_cached(images)) == 8
    assert first_images(index, 8, labelled=False).labels is None
    assert len(first_images(index, 100)) == 12
