"""The folder of a run, from a clean start or a resume to a finished checkpoint."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from edgemim.artifact import MANIFEST, load_artifact, refuse_existing, stage_record, writing
from edgemim.config import resolved
from edgemim.errors import ConfigError, OutputError
from edgemim.models.teachers import Teacher
from edgemim.training.loop.fit import Fitted
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.saving.changes import note_changes
from edgemim.training.saving.state import LAST, SETTINGS, check_same_settings, remove_drafts, save_settings, states
from edgemim.training.settings.run import RunSettings

# Settings that change how a run is done, not what comes out.
_FREE = (
    "workers",
    "max_unreadable",
    "shard_teacher",
    "diverged_at",
    "save_minutes",
    "save_keep",
    "save_every",
    "picture_steps",
    "picture_epochs",
)
_PARTS = "parts of a batch (training.accumulate times processes)"
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "datasets", "numpy", "pillow")


class TrainingSet(Protocol):
    """Images to train on."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) that is another one for other images."""


@contextmanager
def run_folder(
    out: Path,
    settings: RunSettings,
    *,
    data: str = "",
    resume: bool,
    overwrite: bool,
    accept_changes: bool = False,
    team: Team = ALONE,
) -> Iterator[Path]:
    """Prepare `out` for a run and hold its lock.

    Call it when everything that can be wrong with the input has been checked: with `overwrite` the old run is
    removed here. `resume` without a saved state starts from the beginning, so that a pre-empted job can always
    be given it.

    Args:
        out: Folder of the run.
        settings: Of the run.
        data: Fingerprint of the training images.
        resume: Go on from the saved state.
        overwrite: Replace an earlier run.
        accept_changes: Go on with other settings than the run was started with; `last/changes.json` remembers them.
        team: The processes of the run: the first does all this, the others wait until it is done.

    Raises:
        OutputError: It exists, is not ours or not a run, is in use, or cannot be written.
        TrainingError: `resume` with other settings or images than the run was started with.
    """
    if not team.first:
        team.wait()
        if not out.is_dir():
            raise OutputError(f"{out} is not on a disk that all machines of the run see; choose another --out")
        yield out
        return
    decides = identity(settings, data, team)
    if resume:
        _refuse_other(out)
        check_same_settings(out, decides, accept=accept_changes)
    else:
        refuse_existing(out, overwrite=overwrite)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
    try:
        with writing(out):
            lock.acquire()
    except Timeout as error:
        raise OutputError(f"another run is writing {out}; wait for it or choose another --out") from error
    try:
        with writing(out):
            if not resume and overwrite:
                _clear(out)
            remove_drafts(out)
            (out / MANIFEST).unlink(missing_ok=True)
            if resume:
                note_changes(out, check_same_settings(out, decides, accept=accept_changes))
            save_settings(out, decides)
            team.wait()
            yield out
    finally:
        # Only the holder removes the file: without it a third run would not see the first one's lock.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def identity(settings: RunSettings, data: str, team: Team = ALONE) -> dict[str, Any]:
    """What must be the same when a run is resumed: all that decides its result.

    Into how many parts a batch is divided does, who computes which of them does not: a run of four processes goes on
    with two that accumulate twice.

    Args:
        settings: Of the run.
        data: Fingerprint of the training images.
        team: The processes of the run.
    """
    values: dict[str, Any] = resolved(settings)
    for name in _FREE:
        values["training"].pop(name)
    values[_PARTS] = team.count * values["training"].pop("accumulate")
    values["evaluation"].pop("every")
    return values | {"data_fingerprint": data}


def refuse_early(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an output folder before time is spent on the images; `run_folder` decides again when it begins.

    Raises:
        ConfigError: Both `resume` and `overwrite`.
        OutputError: It exists and may not be replaced.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run, --overwrite starts it anew; give one of them")
    if not resume:
        refuse_existing(out, overwrite=overwrite)


def finished_before(out: Path, settings: RunSettings, data: str, *, accept_changes: bool, team: Team) -> bool:
    """Whether a run with these settings has come to its end in `out`, as the first process finds it.

    Raises:
        TrainingError: The run in `out` was started with other settings, and these are not accepted.
    """

    def look() -> bool:
        changes = check_same_settings(out, identity(settings, data, team), accept=accept_changes)
        return is_finished(out) and not changes

    return team.of_first(look)


def is_finished(out: Path) -> bool:
    """Whether a run in this folder has come to its end."""
    return (out / MANIFEST).is_file() and (out / LAST / SETTINGS).is_file()


def finished_run(out: Path, stage: str) -> dict[str, Any]:
    """What a run that had come to its end before says of itself, as it said then."""
    last = load_artifact(out, "checkpoint").provenance[-1]
    names = ("steps", "seconds", "images_per_second", "loss", "data_wait", "untrained")
    result = {name: last["result"].get(name) for name in names}
    return {"checkpoint": str(out), "stage": stage, "finished_before": True, **result, **last["scores"]}


def record(stage: str, settings: RunSettings, images: TrainingSet, fitted: Fitted, **facts: Any) -> dict[str, Any]:
    """The provenance of a run: what was asked, what it ran on, what came out."""
    return stage_record(
        stage,
        settings=resolved(settings),
        data={"spec": settings.data, "images": len(images), "fingerprint": images.fingerprint},
        result=resolved(fitted),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        **facts,
    )


def teacher_record(teacher: Teacher | None) -> dict[str, Any] | None:
    """A teacher, the licence of its weights and the size of the images it saw, for the provenance."""
    return None if teacher is None else {**resolved(teacher.origin), "image_size": list(teacher.adapter.size)}


def _refuse_other(out: Path) -> None:
    """Refuse to resume in a folder that holds something else than a run that was started."""
    started = (out / LAST / SETTINGS).is_file()
    if not started and out.exists() and (not out.is_dir() or any(p.name != LAST for p in out.iterdir())):
        raise OutputError(f"{out} holds no run to resume; choose another --out")


def _clear(out: Path) -> None:
    """Empty the folder; what tells whose it is goes last, so that a kill in between leaves no riddle."""
    for path in sorted(out.iterdir(), key=lambda p: (p.name == LAST, p.name == MANIFEST)):
        if path.name == LAST:
            for state in states(path):
                state.unlink()
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
