"""Where every image of a stream lies: units of rows, found once per shard and then kept on disk.

    index = build_index("photos", shards)
    unit, row = index.find(17)
    index.read(unit)[row]                 # encoded bytes

An entry of the cache is a JSON file per shard, under a name that follows from the shard's URL, size and version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from edgemim.artifact import write_bytes, writing
from edgemim.data.streams._format import Rows, ShardFormat, Unit
from edgemim.data.streams.files import Shard
from edgemim.data.streams.parquet import Parquet
from edgemim.data.streams.tar import Tar
from edgemim.errors import DataError

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

_FORMATS: dict[str, ShardFormat] = {kind.suffix: kind() for kind in (Parquet, Tar)}
SUFFIXES = tuple(_FORMATS)
_VERSION = 1
_THREADS = 8


class StreamIndex:
    """The images of a stream by number. Picklable; holds no file open, and a few numbers per unit.

    Args:
        name: What messages call the set.
        shards: Its files, in order.
        units: Of each shard, in order.

    Attributes:
        rows: Images of each unit, int64 [U].
        sizes: Bytes of each unit in memory, int64 [U].
    """

    def __init__(self, name: str, shards: Sequence[Shard], units: Sequence[Sequence[Unit]]) -> None:
        self.name = name
        self.shards = tuple(shards)
        self._shard = np.repeat(np.arange(len(shards)), [len(u) for u in units])
        facts = [(u.rows, u.size, u.begin, u.end) for of_shard in units for u in of_shard]
        self._facts: Ints = np.array(facts, dtype=np.int64).reshape(-1, 4)
        self.rows: Ints = self._facts[:, 0]
        self.sizes: Ints = self._facts[:, 1]
        self._ends: Ints = np.cumsum(self.rows)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the name and size of every shard and the rows of every unit.

        The images themselves are not read. It does not depend on where the shards lie.
        """
        files = [(shard.name, shard.size) for shard in self.shards]
        digest = hashlib.sha256(json.dumps(["edgemim stream 1", files]).encode())
        digest.update(np.stack([self._shard, self.rows]).astype("<i8").tobytes())
        return digest.hexdigest()

    def find(self, image: int) -> tuple[int, int]:
        """The unit that holds image `image`, in [0, N), and its row there."""
        unit = int(np.searchsorted(self._ends, image, side="right"))
        return unit, image - int(self._ends[unit] - self.rows[unit])

    def read(self, unit: int) -> Rows:
        """The encoded images of a unit.

        Raises:
            DataError: Its shard is gone or has changed.
        """
        shard, found = self._place(unit)
        return _format(shard).read(shard, found)

    def labels(self, unit: int) -> list[int] | None:
        """Class index of each image of a unit; None where one has none.

        Raises:
            DataError: Its shard is gone or has changed.
        """
        shard, found = self._place(unit)
        return _format(shard).labels(shard, found)

    def describe(self, image: int) -> str:
        """What messages call an image: its row in its shard."""
        unit, row = self.find(image)
        first = int(np.searchsorted(self._shard, self._shard[unit]))
        before = int(self.rows[first:unit].sum())
        return f"image {before + row} of {self.shards[self._shard[unit]].url}"

    def _place(self, unit: int) -> tuple[Shard, Unit]:
        rows, size, begin, end = map(int, self._facts[unit])
        return self.shards[self._shard[unit]], Unit(rows=rows, size=size, begin=begin, end=end)


def build_index(
    name: str, shards: Sequence[Shard], *, cache: Path | None = None, progress: Progress | None = None
) -> StreamIndex:
    """The index of a set; shards that were indexed before, and have not changed, are not opened.

    Args:
        name: What messages call the set.
        shards: Its files, in order.
        cache: Folder for the entries; the user's cache folder by default.
        progress: Called with the number of shards done and of all, where any has to be indexed.

    Raises:
        DataError: A shard cannot be read, or the set has no images.
        OutputError: The cache cannot be written.
    """
    folder = cache or Path(platformdirs.user_cache_dir("edgemim")) / "streams"
    kept = [_kept(folder, shard) for shard in shards]
    missing = [k for k, units in enumerate(kept) if units is None]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="edgemim-index") as pool:
        try:
            found = pool.map(lambda k: _indexed(folder, shards[k]), missing)
            for done, (k, units) in enumerate(zip(missing, found, strict=True), start=1):
                kept[k] = units
                if progress is not None:
                    progress(len(shards) - len(missing) + done, len(shards))
        finally:
            pool.shutdown(cancel_futures=True)
    index = StreamIndex(name, shards, [units or [] for units in kept])
    if not len(index):
        raise DataError(f"{name} has no images")
    return index


def _format(shard: Shard) -> ShardFormat:
    return _FORMATS[os.path.splitext(shard.url)[1]]


def _indexed(folder: Path, shard: Shard) -> list[Unit]:
    units = _format(shard).units(shard)
    facts = [[u.rows, u.size, u.begin, u.end] for u in units]
    with writing(folder, instead="set XDG_CACHE_HOME to a folder with room"):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(_entry(folder, shard), json.dumps({"units": facts, "sha256": _digest(facts)}).encode())
    return units


def _kept(folder: Path, shard: Shard) -> list[Unit] | None:
    """What an earlier call found; None where there is nothing, or it is damaged and has to be made again."""
    try:
        entry = json.loads(_entry(folder, shard).read_bytes())
        facts = entry["units"]
        if entry["sha256"] != _digest(facts):
            return None
        return [Unit(rows=rows, size=size, begin=begin, end=end) for rows, size, begin, end in facts]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _entry(folder: Path, shard: Shard) -> Path:
    key = json.dumps([_VERSION, shard.url, shard.size, shard.version])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
