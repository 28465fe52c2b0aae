"""Shards of small images, each image another one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

WriteParquet = Callable[..., Path]
WriteTar = Callable[..., Path]


def write_members(path: Path, members: Mapping[str, bytes], **settings: object) -> Path:
    """A tar of the files given, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def write_tar(encode: Callable[..., bytes]) -> WriteTar:
    """`write_tar(path, count=6, seed=0, labelled=True)`: a shard of PNG samples whose class is their number mod 3."""

    def write(path: Path, count: int = 6, seed: int = 0, labelled: bool = True) -> Path:
        members = {}
        for i in range(count):
            members[f"{i:04}.png"] = encode(seed + i)
            if labelled:
                members[f"{i:04}.cls"] = b"%d\n" % (i % 3)
        return write_members(path, members)

    return write


@pytest.fixture
def write_parquet(encode: Callable[..., bytes]) -> WriteParquet:
    """`write_parquet(path, count=6, seed=0, group=4)`: a shard in row groups of `group` images."""

    def write(path: Path, count: int = 6, seed: int = 0, group: int = 4, labelled: bool = True) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"bytes": encode(seed + i), "path": f"{i}.png"} for i in range(count)]
        columns = {"image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
        if labelled:
            columns["label"] = pa.array([i % 3 for i in range(count)], pa.int64())
        pq.write_table(pa.table(columns), path, row_group_size=group)
        return path

    return write
