"""Which packages a board's Python runs with: those that were copied, or its own where these do not work with it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgemim.remote.board.interpreter import python_path, require
from edgemim.remote.board.link import Refused
from edgemim.remote.wheel import build_wheels


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with the wheels in it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "wheels").mkdir()
    for wheel in build_wheels():
        (tmp_path / "wheels" / f"{wheel.package}.whl").write_bytes(wheel.data)
    return tmp_path


WHEELS = [f"wheels/{name}.whl" for name in ("edgemim", "filelock", "platformdirs", "edgemim_standins")]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


def too_new(run: Path) -> None:
    """Replace the copied filelock by one that this Python cannot read."""
    with zipfile.ZipFile(run / "wheels" / "filelock.whl", "w") as archive:
        archive.writestr("filelock/__init__.py", "this is no Python of today")


def test_a_python_without_any_uses_the_copied_ones_or_else_the_stand_ins(
    run: Path, bare_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemim.remote.board.interpreter.sys.executable", str(bare_python))
    assert python_path(run, WHEELS) == ":".join(f"../{wheel}" for wheel in WHEELS[:3])
    too_new(run)
    assert python_path(run, WHEELS) == "../wheels/edgemim.whl:../wheels/edgemim_standins.whl"
    (run / "wheels" / "edgemim_standins.whl").unlink()
    with pytest.raises(Refused, match=r"Python 3\.\d+ does not work as it should there: .*No module named 'filelock'"):
        python_path(run, WHEELS)


def test_its_own_are_used_where_the_copied_ones_do_not_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    too_new(run)
    assert python_path(run, WHEELS) == "../wheels/edgemim.whl:/mine"


def test_a_numpy_that_is_new_enough_passes_whatever_follows_its_number() -> None:
    require({"numpy": "1.9", "PIL": "0"})
    with pytest.raises(Refused, match=r"numpy [\d.]+ of .* is too old there, 99\.1 is needed"):
        require({"numpy": "99.1", "PIL": "0"})
