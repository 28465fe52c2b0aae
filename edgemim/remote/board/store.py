"""Files by their sha256, whole ones and the beginnings of others, kept from one check to the next."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from edgemim.remote.board.link import STEP, Link

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_UNUSED_S = 14 * 86400


class Store:
    """Files by their sha256, whole ones and the beginnings of others."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file is once it is whole."""
        return self.folder / sha256

    def missing(self, wanted: dict[str, int]) -> dict[str, int]:
        """Of the wanted files (sha256 to size) those that are not there; how much of each is."""
        found = {}
        for sha256, size in wanted.items():
            if not self._settle(sha256, size):
                part = self._part(sha256)
                found[sha256] = part.stat().st_size if part.exists() else 0
        return found

    def take(self, sha256: str, offset: int, size: int, link: Link) -> Iterator[int]:
        """Write the bytes from `offset` on as they come; yields how many came."""
        with open(self._part(sha256), "r+b" if offset else "wb") as stream:
            stream.seek(offset)
            stream.truncate()
            while offset < size:
                data = link.some(min(size - offset, STEP))
                stream.write(data)
                stream.flush()  # what has arrived stays, should the connection end now
                offset += len(data)
                yield len(data)

    def prune(self) -> None:
        """Remove what no check has used for a while."""
        oldest = time.time() - _UNUSED_S
        for path in self.folder.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink()

    def _settle(self, sha256: str, size: int) -> bool:
        """Whether the file is there, whole and unaltered; a damaged one is removed."""
        path, part = self.path(sha256), self._part(sha256)
        if path.exists() and _sha256(path) == sha256:
            os.utime(path)
            return True
        path.unlink(missing_ok=True)
        if not part.exists() or part.stat().st_size < size:
            return False
        if _sha256(part) == sha256:
            os.replace(part, path)
            return True
        part.unlink()
        return False

    def _part(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.part"


def place(source: Path, target: Path) -> None:
    """The file under another name: a link, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copyfile(source, target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(STEP):
            digest.update(piece)
    return digest.hexdigest()
