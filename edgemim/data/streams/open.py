"""From what the user wrote after `--data` to the indices of a stream's splits.

A stream is `stream:SPEC` with a path, glob, braces or folder of `.parquet` or `.tar` shards, or the URL of shards in an
object store (`s3://`, `gs://`, `az://`, `hf://`, `https://`), which needs no prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgemim.data.open import STREAM
from edgemim.data.sources._base import split_of
from edgemim.data.streams.files import Shard, find_files
from edgemim.data.streams.index import SUFFIXES, Progress, StreamIndex, build_index
from edgemim.errors import DataError


@dataclass(frozen=True, kw_only=True)
class StreamSplits:
    """The images to train on, and those to look at on the way where the shards are named for it.

    Attributes:
        train: The training images.
        test: The split `test`, else `validation`; None where there is neither.
    """

    train: StreamIndex
    test: StreamIndex | None


def open_stream(spec: str, *, cache: Path | None = None, progress: Progress | None = None) -> StreamSplits:
    """Index the shards of a stream.

    The split of a shard is read from its name or its folders, as for shards that are copied; a set with one split
    is for training, whatever its name.

    Args:
        spec: With or without `stream:`.
        cache, progress: As of `build_index`.

    Raises:
        DataError: There are no such shards, none is for training, or one cannot be read.
        MissingDependencyError: The package for this kind of URL is not installed.
        OutputError: The cache of indices cannot be written.
    """
    where = spec.removeprefix(STREAM)
    if not where.strip():
        raise DataError("stream: names no shards; give stream:FOLDER, stream:'DIR/*.parquet' or a URL such as s3://...")
    groups: dict[str, list[Shard]] = {}
    for shard in find_files(where, SUFFIXES):
        groups.setdefault(split_of(PurePosixPath(shard.name)), []).append(shard)
    train = groups.get("train") if len(groups) > 1 else next(iter(groups.values()))
    if train is None:
        raise DataError(f"{where} has no split 'train'; it has {', '.join(sorted(groups))}")
    test = next((groups[n] for n in ("test", "validation") if n in groups and groups[n] is not train), None)
    return StreamSplits(
        train=build_index(where, train, cache=cache, progress=progress),
        test=None if test is None else build_index(f"{where} [test]", test, cache=cache, progress=progress),
    )
