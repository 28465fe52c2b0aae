"""The folder beside a result: where it is, whose it is, and that two runs never have it at once."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgemim.errors import OutputError
from edgemim.pipeline.scratch import scratch

IN_USE = r"another run is writing .*bundle; wait for it or choose another --out"


@pytest.mark.parametrize("given", [".", "../bundle", "inner/.."])
def test_a_folder_without_its_name_is_the_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    with scratch(Path(given), anew=()) as folder:
        assert folder == tmp_path / ".bundle.work"
        assert not os.listdir(tmp_path / "bundle")
        with pytest.raises(OutputError, match=IN_USE), scratch(tmp_path / "bundle", anew=()):
            pass
    assert os.listdir(tmp_path) == ["bundle"]


def test_another_run_for_the_same_result_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    with scratch(tmp_path / "bundle", anew=("float",)) as folder:
        (folder / "float").mkdir()
        for _ in range(2):
            with pytest.raises(OutputError, match=IN_USE), scratch(tmp_path / "bundle", anew=("float",)):
                pass
            assert os.listdir(folder) == ["float"]
        with scratch(tmp_path / "other", anew=()):
            pass
    assert not os.listdir(tmp_path)


def test_what_took_long_stays_after_a_failure_and_the_next_run_may_begin(tmp_path: Path) -> None:
    with ExitStack() as run:
        run.enter_context(pytest.raises(KeyError))
        folder = run.enter_context(scratch(tmp_path / "bundle", anew=("float",)))
        (folder / "float").mkdir()
        (folder / "calibration.npz").write_text("an hour")
        raise KeyError
    assert os.listdir(tmp_path) == [".bundle.work"]
    with scratch(tmp_path / "bundle", anew=("float",)) as folder:
        assert os.listdir(folder) == ["calibration.npz"]
    assert not os.listdir(tmp_path)


def test_a_lock_whose_file_went_while_it_was_taken_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, third = ExitStack(), ExitStack()
    first.enter_context(scratch(tmp_path / "bundle", anew=()))
    real = os.open

    def slow(path: Any, *arguments: Any, **options: Any) -> int:
        """The second run has opened the file when the first ends and a third begins."""
        descriptor = real(path, *arguments, **options)
        if str(path).endswith(".lock"):
            monkeypatch.setattr(os, "open", real)
            first.close()
            third.enter_context(scratch(tmp_path / "bundle", anew=()))
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    with third:
        with pytest.raises(OutputError, match=IN_USE), scratch(tmp_path / "bundle", anew=()):
            pass
        assert (tmp_path / ".bundle.work").is_dir()
    assert not os.listdir(tmp_path)
