"""The folder of a sweep: what was asked for, and what is done, so that a call after any kill goes on there.

last/settings.json           what decides the result; another call must ask for the same
work/MODEL-SIZE/bundle       until it is clear that no finalist is in it
work/MODEL-SIZE/report       of its measurement
work/MODEL-SIZE/seconds      that the calls for it have taken so far
work/MODEL-SIZE/result.json  its entries; written last: a combination that has it is never measured again
work/engines                 compiled engines, until the end
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgemim import __version__
from edgemim.artifact import MANIFEST, refuse_existing, write_text, writing
from edgemim.config import differences
from edgemim.errors import ConfigError, OutputError, TrainingError, first_of
from edgemim.pipeline.sweep.combination import BUNDLE
from edgemim.pipeline.sweep.combinations import RANDOM, Combination
from edgemim.pipeline.sweep.entries import Result
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.device import Device, cpu_identity
from edgemim.runtime.targets import TARGETS

# As in the folder of a training run, so that whoever reads it says that it is not finished.
LAST, SETTINGS = "last", "settings.json"
WORK, ENGINES = "work", "engines"
# Of a device, what its speed depends on beside the processor.
_DEVICE = ("board", "chip", "gpu", "power_mode", "l4t", "isa_cap")
_RESULT, _ATTEMPTS = "result.json", "attempts"
# Of a combination that ends the process each time it is tried: the memory is too small, or a library crashes.
_MOST_ATTEMPTS = 3


def identity(settings: SweepSettings, combinations: Sequence[Combination], device: Device) -> dict[str, Any]:
    """What must be the same when a sweep goes on: all that its numbers and its finalists depend on, but the minutes.

    Args:
        device: What it measures on.
    """
    backends: list[Backend] = [BACKENDS.get(name)() for name in TARGETS.get(settings.target).backends]
    return _asked(settings, combinations) | {
        "machine": cpu_identity(),
        "device": {name: getattr(device, name) for name in _DEVICE},
        "backends": {backend.name: backend.version() for backend in backends if backend.installed()},
        "edgemim": __version__,
    }


def _asked(settings: SweepSettings, combinations: Sequence[Combination]) -> dict[str, Any]:
    return {
        "target": settings.target,
        "models": {c.model: c.fingerprint or c.source for c in combinations},
        "sizes": list(settings.sizes),
        "precisions": list(settings.precisions),
        "data": settings.data,
        "max_ms": settings.max_ms,
        "mode": settings.mode,
        "seconds": settings.seconds,
        "runs": settings.runs,
        "threads": settings.threads,
    }


def refuse_early(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder before time is spent on the models.

    Raises:
        ConfigError: Both `resume` and `overwrite`.
        OutputError: It exists and may not be replaced, or holds no sweep to go on with.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with a sweep, --overwrite starts it anew; give one of them")
    if not resume:
        refuse_existing(out, overwrite=overwrite)
    elif out.exists() and not (out / LAST / SETTINGS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} holds no sweep to resume; choose another --out")


def check_same(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a sweep was started with.

    Raises:
        TrainingError: Names the settings that differ.
    """
    file = out / LAST / SETTINGS
    if not file.is_file():
        return
    differ = differences(json.loads(file.read_text("utf-8")), asked)
    if differ:
        raise TrainingError(
            f"{out} was started with other settings or on another machine: "
            f"{first_of(differ, most=5, separator='; ')}; resume with the same (only --minutes may differ), "
            "or choose another --out"
        )


@contextmanager
def sweep_folder(out: Path, asked: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[SweepFolder]:
    """Prepare the folder and hold its lock.

    Args:
        asked: The sweep's `identity`.

    Raises:
        OutputError: Another sweep is writing it, or it cannot be written.
        TrainingError: `resume` with other settings than it was started with.
    """
    refuse_early(out, resume=resume, overwrite=overwrite)
    if resume:
        check_same(out, asked)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(f"another sweep is writing {out}; wait for it or choose another --out") from error
    try:
        with writing(out):
            if not resume:
                _clear(out)
            (out / MANIFEST).unlink(missing_ok=True)
            (out / LAST).mkdir(exist_ok=True)
            write_text(out / LAST / SETTINGS, json.dumps(asked, indent=2) + "\n")
            yield SweepFolder(out)
    finally:
        # Only the holder removes the file: without it a third call would not see the first one's lock.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


class SweepFolder:
    """What lies in the folder, by combination."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.engines = out / WORK / ENGINES

    def of(self, combination: Combination) -> Path:
        """The combination's own folder."""
        return self.out / WORK / combination.key

    def bundle(self, combination: Combination) -> Path:
        """Where its bundle is, as long as it is kept."""
        return self.of(combination) / BUNDLE

    def result(self, combination: Combination) -> Result | None:
        """What it came to in an earlier call; None if it did not come to its end."""
        file = self.of(combination) / _RESULT
        if not file.is_file():
            return None
        return Result(**json.loads(file.read_text("utf-8")))

    def keep(self, combination: Combination, result: Result) -> None:
        """Remember what it came to; from now on it is done."""
        write_text(self.of(combination) / _RESULT, json.dumps(vars(result), indent=1, allow_nan=False) + "\n")

    @contextmanager
    def attempt(self, combination: Combination) -> Iterator[bool]:
        """Count an attempt, and tell whether there may be another one.

        What ends in an exception, Ctrl-C among them, is taken off again: only a killed process leaves its count.
        """
        file = self.of(combination) / _ATTEMPTS
        before = int(file.read_text("utf-8")) if file.is_file() else 0
        file.parent.mkdir(parents=True, exist_ok=True)
        if before >= _MOST_ATTEMPTS:
            yield False
            return
        write_text(file, str(before + 1))
        try:
            yield True
        except BaseException:
            write_text(file, str(before))
            raise
        file.unlink()

    def drop_bundles(self, combinations: Sequence[Combination]) -> None:
        """Remove bundles that nobody will need; they are the largest part of a sweep by far."""
        for combination in combinations:
            shutil.rmtree(self.bundle(combination), ignore_errors=True)

    def tidy(self, combinations: Sequence[Combination]) -> None:
        """At the end: without engines, and without the bundles of weights that mean nothing."""
        shutil.rmtree(self.engines, ignore_errors=True)
        self.drop_bundles([c for c in combinations if c.source == RANDOM])


def is_finished(out: Path) -> bool:
    """Whether a sweep in this folder has come to its end."""
    return (out / MANIFEST).is_file() and (out / LAST / SETTINGS).is_file()


def _clear(out: Path) -> None:
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
