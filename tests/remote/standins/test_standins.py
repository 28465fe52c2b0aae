"""The stand-ins do what the packages do, as far as the runtime uses them; these are at hand to compare with."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import filelock
import platformdirs
import pytest

from edgemim.remote.standins import filelock as lock_standin
from edgemim.remote.standins import platformdirs as folder_standin


@pytest.mark.parametrize(("first", "second"), [(lock_standin, filelock), (filelock, lock_standin), (lock_standin,) * 2])
def test_a_lock_that_either_holds_neither_gets(first: ModuleType, second: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with first.FileLock(file, timeout=0), pytest.raises(second.Timeout), second.FileLock(file, timeout=0.1):
        pass
    with second.FileLock(str(file), timeout=0):
        pass


def test_a_lock_that_was_not_taken_may_be_released(tmp_path: Path) -> None:
    lock_standin.FileLock(tmp_path / "lock").release()
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("folder", [None, "", " ", "/var/cache/mine"])
def test_the_cache_folder_is_the_same(folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
    assert folder_standin.user_cache_dir("edgemim") == platformdirs.user_cache_dir("edgemim")
