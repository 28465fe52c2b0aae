"""The files of a stream, by path or URL: found, and read through fsspec, whose errors become one line.

A URL such as `s3://bucket/images/*.parquet` is read with fsspec's own settings for its store
(environment variables, `~/.config/fsspec`); local paths go the same way.

Source: https://filesystem-spec.readthedocs.io
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import posixpath
import re
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from edgemim.data.sources._files import expand_braces
from edgemim.errors import DataError, MissingDependencyError

CURE = "restore it, and go on with --resume"
_HIDDEN = re.compile(r"(^|/)\.")
# What the packages of stores raise that Python has no name for; a store that is not in use is not imported.
_STORE_ERRORS = (
    ("aiohttp", "ClientError"),
    ("azure.core.exceptions", "AzureError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("gcsfs.retry", "HttpError"),
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a stream.

    Attributes:
        url: By which it is opened: an absolute path, or a URL.
        name: Below the folder that all files of the set lie in.
        size: In bytes.
        version: Another one when the file changed (its time, its tag in the store).
    """

    url: str
    name: str
    size: int
    version: str

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file, to read and seek in.

        Raises:
            DataError: It is gone, or cannot be read; so does what the block raises in reading it.
        """
        with reading(self.url):
            files, path = _reach(self.url)
            with files.open(path, "rb") as stream:
                yield stream

    def bytes_between(self, begin: int, end: int) -> bytes:
        """A part of the file.

        Raises:
            DataError: It is gone, shorter than it was, or cannot be read.
        """
        with reading(self.url):
            files, path = _reach(self.url)
            data: bytes = files.cat_file(path, start=begin, end=end)
        if len(data) != end - begin:
            raise self.changed()
        return data

    def changed(self) -> DataError:
        """The error of a file that is not what the index says of it."""
        return DataError(f"{self.url} has changed since the run began; {CURE}")


def find_files(spec: str, suffixes: tuple[str, ...]) -> list[Shard]:
    """Files by path, URL, glob, braces (`{000..010}`, `{a,b}`) or folder (any depth), sorted by name.

    Args:
        spec: What the user wrote.
        suffixes: Kinds of files; only those of the first kind that is there are taken.

    Raises:
        DataError: There are none, one that was named is missing, or the store refuses.
        MissingDependencyError: The package for this kind of URL is not installed.
    """
    if "::" in spec:
        raise DataError(f"chained URLs are not read; got {spec!r}; give the shards' own URL")
    found: dict[str, Mapping[str, Any]] = {}
    patterns = expand_braces(spec)
    for pattern in patterns:
        with reading(pattern, cure="check the name and the access"):
            files, path = _reach(pattern)
            matched = _matching(files, path)
        if not matched:
            raise DataError(f"{pattern} matches no file")
        found.update(matched)
    for suffix in suffixes:
        paths = sorted(p for p in found if p.endswith(suffix))
        if paths:
            root = _root(files, _reach(spec)[1])
            return [_shard(files, path, root, found[path]) for path in paths]
    raise DataError(f"{spec} has no {' or '.join(suffixes)} files")


@contextlib.contextmanager
def reading(what: str, *, cure: str = CURE) -> Iterator[None]:
    """Turn what a file system, Arrow or tarfile raise while reading `what` into one line.

    Raises:
        DataError: It cannot be read.
    """
    try:
        yield
    except _errors() as error:
        raise DataError(f"{what} cannot be read: {_reason(error)}; {cure}") from error


def _reach(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it; made anew in a forked process, since its threads are not there."""
    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        package = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
        raise MissingDependencyError(
            f"reading {protocol}:// URLs", package, "train", f"pip install {package}"
        ) from error
    return files, str(path)


def _matching(files: AbstractFileSystem, path: str) -> dict[str, Mapping[str, Any]]:
    """Path to its facts, for all files that a path, glob or folder means; hidden ones are left out."""
    if glob.has_magic(path):
        found = files.glob(path, detail=True)
    else:
        info = files.info(path)
        found = files.find(path, detail=True) if info["type"] == "directory" else {path: info}
    # The listing says of a link only that it is one.
    found = {p: files.info(p) if info.get("islink") else info for p, info in found.items()}
    root = _root(files, path)
    return {p: i for p, i in found.items() if i["type"] == "file" and not _HIDDEN.search(p[len(root) :])}


def _root(files: AbstractFileSystem, path: str) -> str:
    """The folder that the names of a set's files begin after: the fixed part of a pattern, or the folder itself."""
    fixed = re.split(r"[*?[{]", path)[0]
    return path.rstrip("/") if fixed == path and files.isdir(path) else posixpath.dirname(fixed)


def _shard(files: AbstractFileSystem, path: str, root: str, info: Mapping[str, Any]) -> Shard:
    local = getattr(files, "local_file", False)
    return Shard(
        url=path if local else files.unstrip_protocol(path),
        name=path[len(root) :].lstrip("/"),
        size=int(info.get("size") or 0),
        version=hashlib.sha256(repr(sorted((k, repr(v)) for k, v in info.items())).encode()).hexdigest(),
    )


def _errors() -> tuple[type[Exception], ...]:
    """What says that a file cannot be read; Arrow's exceptions are subclasses of the built-in ones here."""
    loaded = ((sys.modules.get(module), name) for module, name in _STORE_ERRORS)
    of_stores = tuple(getattr(module, name) for module, name in loaded if hasattr(module, name))
    return (OSError, ValueError, KeyError, NotImplementedError, tarfile.TarError, *of_stores)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return "".join(c for c in line if c.isprintable())[:300].rstrip(".")
