"""The folder of a run, from a clean start or a resume to a finished checkpoint."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgemim.artifact import MANIFEST, load_artifact, refuse_existing, stage_record, writing
from edgemim.config import resolved
from edgemim.data.open import Splits
from edgemim.errors import ConfigError, OutputError
from edgemim.models.teachers import Teacher
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.state import LAST, SETTINGS, check_same_settings, save_settings
from edgemim.training.settings.run import RunSettings

# Settings that change how a run is done, not what comes out.
_FREE = ("workers", "save_minutes", "picture_steps")
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "datasets", "numpy", "pillow")


@contextmanager
def run_folder(out: Path, settings: RunSettings, *, data: str = "", resume: bool, overwrite: bool) -> Iterator[Path]:
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

    Raises:
        OutputError: It exists, is not ours or not a run, is in use, or cannot be written.
        TrainingError: `resume` with other settings or images than the run was started with.
    """
    if resume:
        _refuse_other(out)
        check_same_settings(out, identity(settings, data))
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
            (out / MANIFEST).unlink(missing_ok=True)
            save_settings(out, identity(settings, data))
            yield out
    finally:
        # Only the holder removes the file: without it a third run would not see the first one's lock.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def identity(settings: RunSettings, data: str) -> dict[str, Any]:
    """What must be the same when a run is resumed: all that decides its result.

    Args:
        settings: Of the run.
        data: Fingerprint of the training images.
    """
    values: dict[str, Any] = resolved(settings)
    for name in _FREE:
        values["training"].pop(name)
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


def is_finished(out: Path) -> bool:
    """Whether a run in this folder has come to its end."""
    return (out / MANIFEST).is_file() and (out / LAST / SETTINGS).is_file()


def finished_run(out: Path, stage: str) -> dict[str, Any]:
    """What a run that had come to its end before says of itself, as it said then."""
    last = load_artifact(out, "checkpoint").provenance[-1]
    result = {name: last["result"][name] for name in ("steps", "seconds", "images_per_second", "loss", "untrained")}
    return {"checkpoint": str(out), "stage": stage, "finished_before": True, **result, **last["scores"]}


def record(stage: str, settings: RunSettings, splits: Splits, fitted: Fitted, **facts: Any) -> dict[str, Any]:
    """The provenance of a run: what was asked, what it ran on, what came out."""
    return stage_record(
        stage,
        settings=resolved(settings),
        data={"spec": settings.data, "images": len(splits.train), "fingerprint": splits.train.fingerprint},
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
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
