"""A folder beside a result for what takes long to make, so that the same call goes on where an earlier one ended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from edgemim.artifact import writing
from edgemim.errors import OutputError

# What a calibration knows so far, in such a folder.
CALIBRATION_STATE = "calibration.npz"


@contextmanager
def scratch(out: Path, *, anew: Sequence[str]) -> Iterator[Path]:
    """The folder `.NAME.work` beside `out`; removed at the end, but if something fails all that took long stays.

    Args:
        out: Where the result will be.
        anew: Names in the folder of what every call makes anew; removed before and after.

    Raises:
        OutputError: Another run is writing `out`, or the folder cannot be made.
    """
    place = Path(os.path.abspath(out))  # `.` has a name
    folder = place.parent / f".{place.name}.work"
    with _alone(place):
        with writing(folder):
            folder.mkdir(exist_ok=True)
        try:
            _remove(folder, anew)
            yield folder
        except BaseException:
            _remove(folder, anew)
            with suppress(OSError):
                folder.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, the same that a training run and a sweep hold."""
    lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as error:
        raise OutputError(f"another run is writing {out}; wait for it or choose another --out") from error
    try:
        yield
    finally:
        # Only the holder removes the file, and while it holds it: filelock takes no lock whose file has gone.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
