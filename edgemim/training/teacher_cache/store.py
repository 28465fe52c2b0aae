"""Rows of tensors on disk: safetensors shards of bounded size, each of which is whole or absent.

A folder holds `index.json` (whose rows these are, how many, of what shape) and `<number>-<hash>.safetensors`. The hash
in a shard's name is the beginning of its own sha256, so a shard needs no bookkeeping elsewhere: whoever is killed while
filling the store leaves whole shards, and the next one makes those that are missing. The folder may be deleted at any
time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from edgemim.artifact import sha256_of, write_bytes, write_text
from edgemim.errors import ArtifactError

FORMAT = 1
INDEX = "index.json"
_SHARD_BYTES = 128 << 20
_NAME = re.compile(r"(\d{5,})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One tensor of every row: name of its torch dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, rows: Tensor) -> Column:
        """That of a tensor [rows, ...]."""
        return cls(dtype=str(rows.dtype).removeprefix("torch."), shape=tuple(rows.shape[1:]))

    @property
    def size(self) -> int:
        """Bytes in a row."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize


class RowStore:
    """Rows by number, read through memory maps. Picklable: every process maps the same files.

    Args:
        folder: Of the store.
        rows: How many there are when it is full.
        columns: What a row holds, by name.
        shard_rows: Rows of a shard; 0: as many as 128 MiB hold.
    """

    def __init__(self, folder: Path, *, rows: int, columns: Mapping[str, Column], shard_rows: int = 0) -> None:
        self.folder = folder
        self.rows = rows
        self.columns = dict(columns)
        self.row_bytes = sum(column.size for column in columns.values())
        self.shard_rows = shard_rows or min(rows, max(1, _SHARD_BYTES // self.row_bytes))
        self._open: dict[int, dict[str, Tensor]] = {}
        self._found: dict[int, Path] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_found": {}}

    @property
    def shards(self) -> range:
        """Numbers of all shards, also of those that are missing."""
        return range(-(-self.rows // self.shard_rows))

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes

    def rows_of(self, shard: int) -> range:
        """Numbers of the rows in a shard."""
        return range(shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows))

    def missing(self) -> list[int]:
        """Shards that are not there, whole or damaged."""
        there = {shard for shard, _, _ in self._files()}
        return [shard for shard in self.shards if shard not in there]

    def drop_damaged(
        self, shards: Collection[int], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[int]:
        """Read the given shards whole, remove those that are not what was written, and return their numbers.

        Args:
            shards: Those of them that are there are read.
            progress: Called with the number of shards that were read and of all.
        """
        there = [(shard, digest, file) for shard, digest, file in self._files() if shard in shards]
        damaged = []
        for done, (shard, digest, file) in enumerate(there, start=1):
            if not sha256_of(file).startswith(digest):
                file.unlink(missing_ok=True)
                damaged.append(shard)
            progress(done, len(there))
        return damaged

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Add a shard, complete or not at all.

        Args:
            shard: Its number.
            tensors: For each column its [rows of the shard, ...].
        """
        given = {name: Column.of(tensor) for name, tensor in tensors.items()}
        assert given == self.columns, given
        assert all(len(tensor) == len(self.rows_of(shard)) for tensor in tensors.values())
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        for leftover in self.folder.glob(f".{shard:05d}-*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        write_bytes(self.folder / f"{shard:05d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors", data)

    def read(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Copies of rows: for each column [len(rows), ...].

        Raises:
            ArtifactError: A shard has gone.
        """
        places = [divmod(row, self.shard_rows) for row in rows]
        for shard in {shard for shard, _ in places} - self._open.keys():
            self._open[shard] = self._map(shard)
        return {name: torch.stack([self._open[shard][name][place] for shard, place in places]) for name in self.columns}

    def _map(self, shard: int) -> dict[str, Tensor]:
        self._found = self._found or {number: file for number, _, file in self._files()}
        try:
            with safe_open(self._found[shard], framework="pt") as stored:  # nothing is read before a row is
                return {name: stored.get_tensor(name) for name in self.columns}
        except (KeyError, OSError) as error:
            raise ArtifactError(
                f"{self.folder} has lost shard {shard}; run the same command again with --resume, it is made anew"
            ) from error

    def _files(self) -> list[tuple[int, str, Path]]:
        """Number, hash and place of the shards that are there. Two processes at once may make one shard twice."""
        found = [(match, self.folder / name) for name in _names(self.folder) if (match := _NAME.fullmatch(name))]
        return [(int(match[1]), match[2], file) for match, file in found]


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def write_index(store: RowStore, facts: Mapping[str, Any]) -> None:
    """Write what a folder holds, before it holds any of it.

    Args:
        store: Of that folder.
        facts: Plain values that say whose rows these are.
    """
    columns = {name: {"dtype": c.dtype, "shape": list(c.shape)} for name, c in store.columns.items()}
    values = {"rows": store.rows, "shard_rows": store.shard_rows, "columns": columns, "facts": dict(facts)}
    write_text(store.folder / INDEX, json.dumps(values, indent=2, sort_keys=True) + "\n")


def open_store(folder: Path, facts: Mapping[str, Any]) -> RowStore | None:
    """The store of a folder, full or not; None where there is none whose index can be read and says these facts."""
    try:
        values = json.loads((folder / INDEX).read_bytes())
        if values["facts"] != json.loads(json.dumps(dict(facts))):
            return None
        columns = {
            name: Column(dtype=str(c["dtype"]), shape=tuple(map(int, c["shape"])))
            for name, c in values["columns"].items()
        }
        return RowStore(folder, rows=int(values["rows"]), columns=columns, shard_rows=int(values["shard_rows"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
