"""The folder on which two stages meet: files, their hashes, and where they came from.

A folder with a `manifest.json` is an artifact. The manifest names every file with its size and sha256, and holds
the sha256 of its own other entries, so a reader opens only what it has verified; a file that the manifest does not
name (a log, the state to resume from) is not part of the artifact. The manifest is written last and by renaming, so
a folder without one was never finished.

    with create_artifact(out, "bundle") as draft:
        draft.path("model.onnx").write_bytes(...)
        draft.content["candidates"] = [...]
    artifact = load_artifact(out, "bundle")          # every hash checked
    artifact.file("model.onnx")                      # a path that was verified
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from edgemim import __version__
from edgemim.errors import ArtifactError, OutputError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
KINDS = ("checkpoint", "onnx", "bundle", "report")

# What only a folder that edgemim wrote holds: an artifact, a run that was not finished, a quickstart.
_OURS = (MANIFEST, "last/settings.json", "quickstart.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and sha256 (hex) of one file."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A verified artifact.

    Attributes:
        path: The folder.
        kind: One of `KINDS`.
        files: What the manifest names, by path relative to the folder, `/` as separator.
        content: What this kind of artifact says about itself.
        provenance: One record per stage so far, oldest first.
    """

    path: Path
    kind: str
    files: Mapping[str, FileRecord]
    content: Mapping[str, Any]
    provenance: Sequence[Mapping[str, Any]]

    def file(self, name: str) -> Path:
        """Path of a file that the manifest names.

        Raises:
            ArtifactError: The manifest does not name it.
        """
        if name not in self.files:
            raise ArtifactError(f"{self.path}: the {self.kind} has no file {name!r}; it has {sorted(self.files)}")
        return self.path / name

    @property
    def fingerprint(self) -> str:
        """sha256 over the content and the names and hashes of all files; the provenance does not count."""
        hashes = {name: record.sha256 for name, record in self.files.items()}
        return _digest({"kind": self.kind, "content": self.content, "files": hashes})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())


@dataclass(kw_only=True)
class Draft:
    """An artifact being written; see `create_artifact`."""

    folder: Path
    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    provenance: list[dict[str, Any]] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where to write the file `name`; its folders exist afterwards."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy_from(self, artifact: Artifact, names: Iterable[str] | None = None) -> None:
        """Copy files of another artifact (all by default) together with its provenance."""
        for name in artifact.files if names is None else names:
            shutil.copyfile(artifact.file(name), self.path(name))
        self.provenance = [*map(dict, artifact.provenance), *self.provenance]

    def record(self, stage: str, **facts: Any) -> None:
        """Append one stage to the provenance, with edgemim's version and the time."""
        self.provenance.append(stage_record(stage, **facts))


def stage_record(stage: str, **facts: Any) -> dict[str, Any]:
    """A provenance record: the stage, when, by which edgemim, and what the stage says."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"stage": stage, "time": now, "edgemim": __version__, **facts}


def load_artifact(path: Path | str, kind: str | Sequence[str] | None = None) -> Artifact:
    """Read a manifest and verify every file it names, before anything else is parsed.

    Raises:
        ArtifactError: No folder, no manifest, another schema or kind, a missing or altered file.
    """
    path = Path(path)
    kinds = (kind,) if isinstance(kind, str) else tuple(kind or KINDS)
    manifest = _read_manifest(path)
    if manifest["kind"] not in kinds:
        raise ArtifactError(f"{path} is a {manifest['kind']}; here a {' or '.join(kinds)} is needed")
    files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    for name, record in files.items():
        _verify(path, name, record)
    return Artifact(
        path=path,
        kind=manifest["kind"],
        files=files,
        content=manifest["content"],
        provenance=manifest["provenance"],
    )


@contextlib.contextmanager
def create_artifact(path: Path | str, kind: str, *, overwrite: bool = False) -> Iterator[Draft]:
    """Write an artifact in a temporary sibling and rename it when the block ends without an error.

    Raises:
        OutputError: `path` exists and may not be replaced, or cannot be written.
    """
    refuse_existing(Path(path), overwrite=overwrite)
    path = Path(os.path.realpath(path))  # a link stays a link, and `.` has a name
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        folder.chmod(0o755)
    try:
        draft = Draft(folder=folder, kind=kind)
        with writing(path):
            yield draft
            names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
            seal(folder, kind, names, content=draft.content, provenance=draft.provenance)
            refuse_existing(path, overwrite=overwrite)  # another run may have finished meanwhile
            _swap(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seal(
    folder: Path,
    kind: str,
    names: Iterable[str],
    *,
    content: Mapping[str, Any],
    provenance: Sequence[Mapping[str, Any]],
) -> None:
    """Turn files that lie in `folder` into an artifact by writing its manifest, last and by renaming."""
    assert kind in KINDS, kind
    manifest = {
        "edgemim": "artifact",
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "files": {name: _record(folder / name) for name in sorted(names)},
        "content": dict(content),
        "provenance": [dict(p) for p in provenance],
    }
    manifest["sha256"] = _digest(manifest)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, and with `overwrite` one that edgemim did not make.

    Raises:
        OutputError: See above; nothing was changed.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise OutputError(f"{path} exists; choose another --out, or replace it with --overwrite")
    ours = path.is_dir() and any((path / name).exists() for name in _OURS)
    if not ours:
        raise OutputError(f"{path} was not written by edgemim, so --overwrite leaves it alone; remove it yourself")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary sibling, flushed to disk before it gets its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: Path, *, instead: str = "choose another --out") -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one line for the user.

    Args:
        path: What is written.
        instead: What the user can do about the place.

    Raises:
        OutputError: The disk is full, permission is missing, or the like.
    """
    try:
        yield
    except OSError as error:
        cures = {
            errno.ENOSPC: f"the disk is full; free some space or {instead}",
            errno.EDQUOT: f"the disk quota is used up; free some space or {instead}",
            errno.EACCES: f"permission denied; {instead}",
            errno.EPERM: f"not permitted; {instead}",
            errno.EROFS: f"the file system is read-only; {instead}",
            errno.EEXIST: f"a part of the path is a file; {instead}",
            errno.ENOTDIR: f"a part of the path is a file; {instead}",
        }
        if error.errno not in cures or _is_elsewhere(error.filename, path):
            raise
        raise OutputError(f"cannot write {path}: {cures[error.errno]}") from error


def _is_elsewhere(name: Any, path: Path) -> bool:
    """Whether an error names a file that does not belong to the output, such as an input without permission."""
    if not isinstance(name, str) or not name:
        return False
    folder = Path(os.path.abspath(path)).parent
    named = Path(os.path.abspath(name))
    return not (named.is_relative_to(folder) or folder.is_relative_to(named))


def _record(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(path), "size": path.stat().st_size}


def _swap(folder: Path, path: Path) -> None:
    """Give `folder` the name `path`; what had the name is removed after that."""
    old = folder.with_name(folder.name + ".old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(folder, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ArtifactError(f"{path} does not exist")
    file = path / MANIFEST
    if not file.is_file():
        unfinished = (path / "last").is_dir()
        hint = "the run in it was never finished: run it again with --resume" if unfinished else "no manifest.json"
        raise ArtifactError(f"{path} is not an edgemim artifact: {hint}")
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtifactError(f"{file} is damaged: {error}; write the artifact again") from error
    _check_schema(file, manifest)
    assert isinstance(manifest, dict)
    return manifest


def _check_schema(file: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or manifest.get("edgemim") != "artifact":
        raise ArtifactError(f"{file} is not a manifest of edgemim")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema version {version!r}, this edgemim {__version__} reads {SCHEMA_VERSION}; "
            "use the edgemim that wrote it, or write it again"
        )
    if manifest.get("kind") not in KINDS:
        raise ArtifactError(f"{file} has the unknown kind {manifest.get('kind')!r}; known: {', '.join(KINDS)}")
    shapes = (("files", dict), ("content", dict), ("provenance", list))
    wrong = [key for key, shape in shapes if not isinstance(manifest.get(key), shape)]
    if wrong:
        raise ArtifactError(f"{file} lacks {', '.join(wrong)}; write the artifact again")
    for name, record in manifest["files"].items():
        _check_file_entry(file, name, record)
    if manifest.get("sha256") != _digest({k: v for k, v in manifest.items() if k != "sha256"}):
        raise ArtifactError(f"{file} was altered: its entries do not give its sha256; copy or write it again")


def _digest(values: Mapping[str, Any]) -> str:
    """sha256 of plain values, whatever the order of their names and the layout of their JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_file_entry(file: Path, name: str, record: Any) -> None:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise ArtifactError(f"{file} names a file outside its folder: {name!r}")
    good = isinstance(record, dict) and set(record) == {"sha256", "size"}
    if not good or not _SHA256.fullmatch(str(record["sha256"])) or type(record["size"]) is not int:
        raise ArtifactError(f"{file} has no valid sha256 and size for {name!r}; write the artifact again")


def _verify(folder: Path, name: str, record: FileRecord) -> None:
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"{folder} is incomplete: {name} is missing; copy or write it again")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder}: {name} is a link that leaves the folder; copy the file itself")
    size = path.stat().st_size
    if size != record.size:
        raise ArtifactError(f"{path} was altered: {size} bytes, the manifest says {record.size}; write it again")
    if sha256_of(path) != record.sha256:
        raise ArtifactError(f"{path} was altered: its sha256 is not the manifest's; copy or write it again")
