"""What is sent: the manifest's files, the manifest and the wheels, each with the sha256 it must arrive with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ArtifactError
from edgemim.remote.parcel import Parcel, make_parcel


@pytest.fixture
def parcel(bundle: Callable[..., Path]) -> Parcel:
    path = bundle(name="my bundle")
    (path / "notes.txt").write_text("no part of the bundle")
    return make_parcel(load_artifact(path, "bundle"))


def test_every_piece_gives_the_bytes_of_its_hash_from_any_place_on(parcel: Parcel) -> None:
    for piece in parcel.pieces:
        data = b"".join(piece.read(0))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (piece.size, piece.sha256)
        assert b"".join(piece.read(piece.size // 2)) == data[piece.size // 2 :]
        assert b"".join(piece.read(piece.size)) == b""


def test_files_that_are_no_part_of_the_bundle_stay_here(parcel: Parcel) -> None:
    names = {piece.name for piece in parcel.pieces}
    assert {"work/my bundle/manifest.json", "work/my bundle/fp32.onnx"} <= names
    assert not any("notes" in name for name in names)
    assert parcel.bundle == "./my bundle"
    assert set(parcel.wheels) <= names


def test_a_file_that_goes_or_shrinks_meanwhile_is_told(parcel: Parcel) -> None:
    piece = next(piece for piece in parcel.pieces if piece.name.endswith("fp32.onnx"))
    assert isinstance(piece.source, Path)
    piece.source.write_bytes(b"short")
    with pytest.raises(ArtifactError, match="became shorter while it was copied"):
        list(piece.read(0))
    piece.source.unlink()
    with pytest.raises(ArtifactError, match="can no longer be read: No such file"):
        list(piece.read(0))
