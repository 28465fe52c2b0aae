"""What both kinds of shards promise, and what is special about each."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgemim.data.streams import tar as tar_module
from edgemim.data.streams._format import ShardFormat
from edgemim.data.streams.files import Shard, find_files
from edgemim.data.streams.parquet import Parquet
from edgemim.data.streams.tar import Tar
from edgemim.errors import DataError
from tests.data.streams.conftest import write_members

Encode = Callable[..., bytes]


def shard_of(path: Path) -> Shard:
    return find_files(str(path), (".parquet", ".tar"))[0]


def contents(kind: ShardFormat, shard: Shard) -> list[bytes | None]:
    """Every image of a shard, unit after unit."""
    return [rows[row] for rows in (kind.read(shard, u) for u in kind.units(shard)) for row in range(len(rows))]


@pytest.fixture(params=["parquet", "tar"])
def kind_and_path(request: pytest.FixtureRequest, tmp_path: Path, write_parquet: Any, write_tar: Any) -> Any:
    """A format, and a shard of nine labelled images in units of a few."""
    if request.param == "parquet":
        return Parquet(), write_parquet(tmp_path / "a.parquet", count=9)
    return Tar(), write_tar(tmp_path / "a.tar", count=9)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few of the tests' tiny samples."""
    monkeypatch.setattr(tar_module, "_UNIT_BYTES", 8000)


def test_every_image_is_in_one_unit_in_order(kind_and_path: Any, encode: Encode) -> None:
    kind, path = kind_and_path
    shard = shard_of(path)
    units = kind.units(shard)
    assert len(units) > 1
    assert sum(unit.rows for unit in units) == 9
    assert contents(kind, shard) == [encode(i) for i in range(9)]


def test_the_size_of_a_unit_is_about_that_of_its_images(kind_and_path: Any, encode: Encode) -> None:
    kind, path = kind_and_path
    for unit in kind.units(shard_of(path)):
        rows = kind.read(shard_of(path), unit)
        images = sum(len(rows[i]) for i in range(len(rows)))
        assert images <= unit.size <= images + 2048 * unit.rows  # headers and padding


def test_labels_are_read_apart(kind_and_path: Any) -> None:
    kind, path = kind_and_path
    shard = shard_of(path)
    labels = [label for unit in kind.units(shard) for label in kind.labels(shard, unit)]
    assert labels == [i % 3 for i in range(9)]


def test_a_shard_that_was_written_anew_has_changed(kind_and_path: Any, write_parquet: Any, write_tar: Any) -> None:
    kind, path = kind_and_path
    shard = shard_of(path)
    units = kind.units(shard)
    write = write_parquet if isinstance(kind, Parquet) else write_tar
    write(path, count=5)
    with pytest.raises(DataError, match=r"has changed since the run began; restore it, and go on with --resume"):
        [kind.read(shard, unit) for unit in units]


def test_a_file_that_is_something_else_is_one_line(kind_and_path: Any) -> None:
    kind, path = kind_and_path
    path.write_bytes(b"something else" * 100)
    with pytest.raises(DataError, match=r"cannot be read: ") as caught:
        kind.units(shard_of(path))
    assert "\n" not in str(caught.value)


def test_shards_without_labels_have_none(tmp_path: Path, write_parquet: Any, write_tar: Any) -> None:
    parquet = shard_of(write_parquet(tmp_path / "a.parquet", labelled=False))
    tar = shard_of(write_tar(tmp_path / "a.tar", labelled=False))
    assert Parquet().labels(parquet, Parquet().units(parquet)[0]) is None
    assert Tar().labels(tar, Tar().units(tar)[0]) is None


@pytest.mark.parametrize("column", ["img", "picture"])
def test_the_column_of_images_is_found(tmp_path: Path, encode: Encode, column: str) -> None:
    values = [{"bytes": encode(0), "path": "0.png"}]
    pq.write_table(pa.table({"caption": [b"bytes too"], column: values}), tmp_path / "a.parquet")
    assert contents(Parquet(), shard_of(tmp_path / "a.parquet")) == [encode(0)]


def test_plain_bytes_will_do_and_an_empty_row_is_none(tmp_path: Path, encode: Encode) -> None:
    pq.write_table(pa.table({"image": [encode(0), None]}), tmp_path / "a.parquet")
    assert contents(Parquet(), shard_of(tmp_path / "a.parquet")) == [encode(0), None]


def test_no_column_of_images_names_those_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"width": [1], "image": ["a.png"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column of encoded images; it has 'width', 'image'; name one 'image'"):
        Parquet().units(shard_of(tmp_path / "a.parquet"))


def test_a_sample_is_files_of_one_name_in_any_folder(tmp_path: Path, encode: Encode) -> None:
    members = {
        "x/0.seg.png": encode(9),
        "x/0.json": b"{}",
        "x/0.JPG": encode(0),
        "x/._0.jpg": b"left by a file system",
        "y/0.png": encode(1),
        "y/0.cls": b"7",
        "readme": b"no sample",
    }
    shard = shard_of(write_members(tmp_path / "a.tar", members))
    assert contents(Tar(), shard) == [encode(0), encode(1)]


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_of_every_kind_are_read(tmp_path: Path, encode: Encode, format_: int) -> None:
    # A long name and one that is not ASCII take headers of their own in front of the file's.
    long = "d" * 90 + "/" + "n" * 60
    names = [f"{long}{i}{'ä' if format_ == tarfile.PAX_FORMAT else ''}.png" for i in range(8)]
    members = {name: encode(i) for i, name in enumerate(names)}
    shard = shard_of(write_members(tmp_path / "a.tar", members, format=format_))
    assert len(Tar().units(shard)) > 1
    assert contents(Tar(), shard) == [encode(i) for i in range(8)]


def test_a_sample_without_an_image_is_named(tmp_path: Path, encode: Encode) -> None:
    shard = shard_of(write_members(tmp_path / "a.tar", {"0.png": encode(0), "1.txt": b"x", "2.png": encode(2)}))
    with pytest.raises(DataError, match=r"sample 1 of .*a\.tar has no image, only txt; looked for jpg"):
        Tar().units(shard)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, write_tar: Any) -> None:
    path = write_tar(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4].offset
    data = bytearray(path.read_bytes())
    data[third : third + 100] = b"\xff" * 100
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.tar is damaged at byte {third}; write the shard again"):
        Tar().units(shard_of(path))


def test_a_shard_cut_off_is_one_line(tmp_path: Path, write_tar: Any) -> None:
    path = write_tar(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2]
    path.write_bytes(path.read_bytes()[: last.offset_data + 10])
    with pytest.raises(DataError, match=r"a\.tar cannot be read: unexpected end of data"):
        Tar().units(shard_of(path))


def test_an_empty_shard_has_no_units(tmp_path: Path) -> None:
    stream = io.BytesIO()
    tarfile.open(fileobj=stream, mode="w").close()
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "b.parquet")
    assert Tar().units(shard_of(tmp_path / "a.tar")) == []
    assert Parquet().units(shard_of(tmp_path / "b.parquet")) == []
