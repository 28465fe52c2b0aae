"""Parquet shards: a unit is a row group, whose number of rows stands in the file's footer.

Columns as on the Hugging Face Hub: `image` or `img` (encoded bytes, or bytes and path), else the first column of bytes
and path; and `label`, `labels` or `fine_label`.

Source: https://huggingface.co/docs/hub/datasets-image#parquet-format
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edgemim.data.streams._format import Rows, ShardFormat, Unit
from edgemim.data.streams.files import Shard
from edgemim.errors import DataError

_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")


class Parquet(ShardFormat):
    """Row groups, of which only the column of images is read."""

    suffix = ".parquet"

    def units(self, shard: Shard) -> list[Unit]:
        with shard.opened() as stream:
            file = pq.ParquetFile(stream)
            column = _image_column(file.schema_arrow, shard)
            groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        return [
            Unit(rows=group.num_rows, size=_size(group, column), begin=k, end=k + 1)
            for k, group in enumerate(groups)
            if group.num_rows
        ]

    def read(self, shard: Shard, unit: Unit) -> Rows:
        with shard.opened() as stream:
            file = pq.ParquetFile(stream)
            column = _image_column(file.schema_arrow, shard)
            values = _column(file, unit.begin, column)
        if values is None or len(values) != unit.rows:
            raise shard.changed()
        return _Values(values)

    def labels(self, shard: Shard, unit: Unit) -> list[int] | None:
        with shard.opened() as stream:
            file = pq.ParquetFile(stream)
            names = [n for n in _LABELS if n in file.schema_arrow.names]
            if not names or not pa.types.is_integer(file.schema_arrow.field(names[0]).type):
                return None
            values = _column(file, unit.begin, names[0])
        if values is None or len(values) != unit.rows:
            raise shard.changed()
        labels: list[int | None] = values.to_pylist()
        known = [label for label in labels if label is not None]
        return known if len(known) == len(labels) else None


class _Values:
    """Bytes of a column of Arrow's, one row at a time."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: int) -> bytes | None:
        value: bytes | None = self._values[row].as_py()
        return value


def _column(file: pq.ParquetFile, group: int, name: str) -> pa.ChunkedArray | None:
    """A column of one row group, read by this thread alone; None if the file has no such group."""
    if group >= file.metadata.num_row_groups:
        return None
    values = file.read_row_group(group, columns=[name], use_threads=False).column(0)
    return pc.struct_field(values, [0]) if pa.types.is_struct(values.type) else values


def _image_column(schema: pa.Schema, shard: Shard) -> str:
    """Path of the column with the encoded bytes, such as `image.bytes`."""
    named = [n for n in _IMAGES if n in schema.names and _bytes_of(schema.field(n).type) is not None]
    pairs = [n for n in schema.names if _bytes_of(schema.field(n).type) == "bytes" and _has_path(schema.field(n).type)]
    for name in (*named, *pairs):
        inner = _bytes_of(schema.field(name).type)
        return f"{name}.{inner}" if inner else name
    found = ", ".join(map(repr, schema.names)) or "none"
    raise DataError(f"{shard.url} has no column of encoded images; it has {found}; name one 'image', with the bytes")


def _bytes_of(type_: pa.DataType) -> str | None:
    """Name of the field with the bytes, empty where the column itself has them; None where there are none."""
    if _is_binary(type_):
        return ""
    inner = _fields(type_)
    return "bytes" if "bytes" in inner and _is_binary(type_.field(inner.index("bytes")).type) else None


def _has_path(type_: pa.DataType) -> bool:
    return "path" in _fields(type_)


def _fields(type_: pa.DataType) -> Sequence[str]:
    return [type_.field(k).name for k in range(type_.num_fields)] if pa.types.is_struct(type_) else []


def _is_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _size(group: pq.RowGroupMetaData, column: str) -> int:
    chunks = (group.column(k) for k in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == column)
