"""What a result says of the code that it was measured with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from _parts import machine


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit; the benchmarks lie where they do in ours."""
    for name in ("benchmarks/_parts/machine.py", "benchmarks/results/rows.json", "edgemim/code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n", encoding="utf-8")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(machine, "_HERE", tmp_path / "benchmarks" / "_parts")
    return tmp_path


@pytest.mark.parametrize("name", ["edgemim/code.py", "benchmarks/_parts/machine.py"])
def test_changed_code_is_said(checkout: Path, name: str) -> None:
    head = machine.commit()
    assert head is not None
    assert len(head) == 40
    (checkout / name).write_text("2\n", encoding="utf-8")
    assert machine.commit() == f"{head}+changes"


def test_rows_that_a_script_has_just_written_are_no_change_of_the_code(checkout: Path) -> None:
    head = machine.commit()
    (checkout / "benchmarks" / "results" / "rows.json").write_text("2\n", encoding="utf-8")
    assert machine.commit() == head


def test_outside_a_checkout_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_HERE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() is None
