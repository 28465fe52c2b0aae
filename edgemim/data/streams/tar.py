"""Webdataset shards: a unit is a run of samples of a few megabytes, found in one pass over the headers of the tar.

A sample is the files in a row that share a name up to its first dot: one `.jpg`, `.jpeg`, `.png` or `.webp`, and `.cls`
with the class index if there are labels. In an object store that one pass reads the whole file.

Source: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from edgemim.data.streams._format import Rows, ShardFormat, Unit
from edgemim.data.streams.files import Shard, reading
from edgemim.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp")
# Small beside a window, large beside what asking a store for a part of a file costs.
_UNIT_BYTES = 4 << 20
_BLOCK = 512


class Tar(ShardFormat):
    """Runs of samples; the headers inside a run are read again with it, so that the index stays small."""

    suffix = ".tar"

    def units(self, shard: Shard) -> list[Unit]:
        units: list[Unit] = []
        with shard.opened() as stream:
            rows, begin, end = 0, 0, 0
            for sample in _samples(stream, shard):
                if rows and sample.end - begin > _UNIT_BYTES:
                    units.append(Unit(rows=rows, size=end - begin, begin=begin, end=end))
                    rows = 0
                begin = begin if rows else sample.begin
                rows, end = rows + 1, sample.end
            if rows:
                units.append(Unit(rows=rows, size=end - begin, begin=begin, end=end))
        return units

    def read(self, shard: Shard, unit: Unit) -> Rows:
        data = shard.bytes_between(unit.begin, unit.end)
        images = [sample.image for sample in self._within(shard, unit, data)]
        return _Slices(data, [(i.offset_data, i.size) for i in images if i is not None])

    def labels(self, shard: Shard, unit: Unit) -> list[int] | None:
        data = shard.bytes_between(unit.begin, unit.end)
        labels = []
        for sample in self._within(shard, unit, data):
            member = sample.files.get("cls")
            text = b"" if member is None else data[member.offset_data : member.offset_data + member.size].strip()
            if not text.isdigit():
                return None
            labels.append(int(text))
        return labels

    def _within(self, shard: Shard, unit: Unit, data: bytes) -> list[_Sample]:
        with reading(shard.url):
            samples = list(_samples(io.BytesIO(data), shard))
        if len(samples) != unit.rows:
            raise shard.changed()
        return samples


@dataclass
class _Sample:
    """The files of one name, by what follows its first dot; and which bytes of the tar they take."""

    name: str
    begin: int
    end: int
    files: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    @property
    def image(self) -> tarfile.TarInfo | None:
        return next((self.files[kind] for kind in IMAGES if kind in self.files), None)


class _Slices:
    """Parts of one piece of memory."""

    def __init__(self, data: bytes, places: list[tuple[int, int]]) -> None:
        self._data = data
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> bytes:
        begin, size = self._places[row]
        return self._data[begin : begin + size]


def _samples(stream: IO[bytes], shard: Shard) -> Iterator[_Sample]:
    """Every sample of a tar, or of a part of one.

    Raises:
        DataError: One has no image.
    """
    sample: _Sample | None = None
    for member in _members(stream, shard):
        folder, slash, file = member.name.rpartition("/")
        stem, dot, kind = file.partition(".")
        if not member.isfile() or not stem or not dot:
            continue
        name = folder + slash + stem
        if sample is None or name != sample.name:
            if sample is not None:
                yield _with_image(sample, shard)
            sample = _Sample(name, begin=member.offset, end=0)
        sample.files[kind.lower()] = member
        sample.end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
    if sample is not None:
        yield _with_image(sample, shard)


def _with_image(sample: _Sample, shard: Shard) -> _Sample:
    if sample.image is None:
        raise DataError(
            f"sample {sample.name} of {shard.url} has no image, only {', '.join(sorted(sample.files))}; "
            f"looked for {', '.join(IMAGES)}; write the shard again"
        )
    return sample


def _members(stream: IO[bytes], shard: Shard) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every header of the file
            yield member
        # tarfile takes a header that it cannot read for the end.
        stream.seek(tar.offset)
        if stream.read(_BLOCK).strip(b"\0"):
            raise DataError(f"{shard.url} is damaged at byte {tar.offset}; write the shard again")
