"""The index of a stream, and what is kept of it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemim.data.streams.files import find_files
from edgemim.data.streams.index import SUFFIXES, StreamIndex, build_index
from edgemim.errors import DataError

Encode = Callable[..., bytes]


@pytest.fixture
def folder(tmp_path: Path, write_parquet: Any) -> Path:
    """Three shards of 6, 5 and 1 images in row groups of 4."""
    for name, count, seed in (("a", 6, 0), ("b", 5, 6), ("c", 1, 11)):
        write_parquet(tmp_path / "set" / f"{name}.parquet", count=count, seed=seed)
    return tmp_path / "set"


def index_of(folder: Path, cache: Path, **settings: Any) -> StreamIndex:
    return build_index("photos", find_files(str(folder), SUFFIXES), cache=cache, **settings)


def test_every_image_is_found_by_its_number(folder: Path, tmp_path: Path, encode: Encode) -> None:
    index = index_of(folder, tmp_path / "cache")
    assert len(index) == 12
    assert index.rows.tolist() == [4, 2, 4, 1, 1]
    for i in range(12):
        unit, row = index.find(i)
        assert index.read(unit)[row] == encode(i)
    assert np.concatenate([index.labels(u) for u in range(5)]).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0]


def test_an_image_is_named_by_its_row_in_its_shard(folder: Path, tmp_path: Path) -> None:
    index = index_of(folder, tmp_path / "cache")
    assert index.describe(5) == f"image 5 of {folder}/a.parquet"
    assert index.describe(6) == f"image 0 of {folder}/b.parquet"
    assert index.describe(11) == f"image 0 of {folder}/c.parquet"


def test_it_is_built_once_and_again_where_a_shard_changed(folder: Path, tmp_path: Path, write_parquet: Any) -> None:
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        index_of(folder, tmp_path / "cache", progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    write_parquet(folder / "b.parquet", count=7)
    assert len(index_of(folder, tmp_path / "cache", progress=lambda *call: calls.append(call))) == 14
    assert calls[3:] == [(3, 3)]


def test_a_damaged_entry_is_made_again(folder: Path, tmp_path: Path) -> None:
    index_of(folder, tmp_path / "cache")
    for kept in (tmp_path / "cache").iterdir():
        kept.write_text(kept.read_text().replace("4", "3"))
    assert index_of(folder, tmp_path / "cache").rows.tolist() == [4, 2, 4, 1, 1]


def test_the_fingerprint_is_of_names_sizes_and_rows_and_not_of_the_place(folder: Path, tmp_path: Path) -> None:
    before = index_of(folder, tmp_path / "cache").fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert index_of(tmp_path / "copy", tmp_path / "cache").fingerprint == before
    (tmp_path / "copy" / "a.parquet").rename(tmp_path / "copy" / "A.parquet")
    assert index_of(tmp_path / "copy", tmp_path / "cache").fingerprint != before
    (folder / "c.parquet").unlink()
    assert index_of(folder, tmp_path / "cache").fingerprint != before


def test_it_goes_to_another_process(folder: Path, tmp_path: Path, encode: Encode) -> None:
    index = pickle.loads(pickle.dumps(index_of(folder, tmp_path / "cache")))
    assert index.read(4)[0] == encode(11)


def test_shards_without_images_are_refused(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path / "set" / "a.parquet", count=0)
    with pytest.raises(DataError, match="photos has no images"):
        index_of(tmp_path / "set", tmp_path / "cache")


def test_a_broken_shard_ends_it_with_its_name(folder: Path, tmp_path: Path) -> None:
    (folder / "b.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"b\.parquet cannot be read: "):
        index_of(folder, tmp_path / "cache")
