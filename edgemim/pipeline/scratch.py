"""A folder beside a result for what takes long to make, so that the same call goes on where an earlier one ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from edgemim.artifact import writing

# What a calibration knows so far, in such a folder.
CALIBRATION_STATE = "calibration.npz"


@contextmanager
def scratch(out: Path, *, anew: Sequence[str]) -> Iterator[Path]:
    """The folder `.NAME.work` beside `out`; removed at the end, but if something fails all that took long stays.

    Args:
        out: Where the result will be.
        anew: Names in the folder of what every call makes anew; removed before and after.

    Raises:
        OutputError: The folder cannot be made.
    """
    folder = out.parent / f".{out.name}.work"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        _remove(folder, anew)
        yield folder
    except BaseException:
        _remove(folder, anew)
        with suppress(OSError):
            folder.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
