"""What a board needs for one check: the files of the bundle and the wheels, each known by its sha256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgemim.artifact import MANIFEST, Artifact, sha256_of
from edgemim.errors import ArtifactError
from edgemim.remote.wheel import build_wheels

_STEP = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file: where it lies below the run's folder on the board, and what is in it."""

    name: str
    sha256: str
    size: int
    source: Path | bytes

    def read(self, offset: int) -> Iterator[bytes]:
        """The bytes from `offset` on, in small pieces and exactly as many as `size` says.

        Raises:
            ArtifactError: The file has gone or is shorter than it was.
        """
        if isinstance(self.source, bytes):
            yield self.source[offset:]
            return
        try:
            with open(self.source, "rb") as stream:
                stream.seek(offset)
                while offset < self.size:
                    data = stream.read(min(_STEP, self.size - offset))
                    if not data:
                        raise ArtifactError(f"{self.source} became shorter while it was copied; write the bundle again")
                    offset += len(data)
                    yield data
        except OSError as error:
            raise ArtifactError(f"{self.source} can no longer be read: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Everything for one check.

    Attributes:
        pieces: Every file; two with the same bytes are sent once.
        wheels: Names of the wheels among them: edgemim's, those of the packages it needs, and the stand-ins' last.
        bundle: The bundle as the check is to call it, relative to the folder that it runs in.
    """

    pieces: tuple[Piece, ...]
    wheels: tuple[str, ...]
    bundle: str

    def by_hash(self) -> dict[str, Piece]:
        """One piece for each sha256."""
        return {piece.sha256: piece for piece in self.pieces}


def make_parcel(bundle: Artifact) -> Parcel:
    """The parcel of a verified bundle."""
    name = Path(os.path.realpath(bundle.path)).name or "bundle"
    manifest = bundle.path / MANIFEST
    held = {file: (record.sha256, record.size) for file, record in bundle.files.items()}
    held[MANIFEST] = (sha256_of(manifest), manifest.stat().st_size)
    pieces = [
        Piece(name=f"work/{name}/{file}", sha256=sha256, size=size, source=bundle.path / file)
        for file, (sha256, size) in sorted(held.items())
    ]
    wheels = []
    for wheel in build_wheels():
        digest, path = hashlib.sha256(wheel.data).hexdigest(), f"wheels/{wheel.name}"
        pieces.append(Piece(name=path, sha256=digest, size=len(wheel.data), source=wheel.data))
        wheels.append(path)
    return Parcel(pieces=tuple(pieces), wheels=tuple(wheels), bundle=f"./{name}")
