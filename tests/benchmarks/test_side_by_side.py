"""Processes side by side: order, failure, the limit of time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from _parts import side_by_side
from _parts.side_by_side import Outcome, Task, run_side_by_side


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "_POLL_S", 0.02)


def task(tmp_path: Path, label: str, code: str, *after: str) -> Task:
    return Task(
        label=label,
        command=[sys.executable, "-S", "-c", code],
        environment=dict(os.environ),
        log=tmp_path / f"{label}.log",
        size=1.0,
        after=after,
    )


def run(tasks: list[Task], *, jobs: int = 2, seconds: float | None = None) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    outcome = run_side_by_side(
        tasks, jobs=jobs, seconds=seconds, on_done=lambda done, taken: f"{done.label} done", say=said.append
    )
    return outcome, said


def test_a_task_waits_for_what_it_needs(tmp_path: Path) -> None:
    place = tmp_path / "made"
    tasks = [
        task(tmp_path, "student", f"open({str(place)!r})", "teacher"),
        task(tmp_path, "teacher", f"import time; time.sleep(0.2); open({str(place)!r}, 'w')"),
    ]
    outcome, said = run(tasks)
    assert outcome == Outcome(("teacher", "student"), (), ())
    assert said[-1].startswith("[2/2] student done; all done in")


def test_what_needs_a_failed_task_is_not_run_and_the_rest_is(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "teacher", "raise SystemExit('no images')"),
        task(tmp_path, "student", f"open({str(tmp_path / 'ran')!r}, 'w')", "teacher"),
        task(tmp_path, "scratch", "pass"),
    ]
    outcome, said = run(tasks)
    assert outcome == Outcome(("scratch",), ("teacher", "student"), ())
    assert any("no images" in line for line in said)
    assert not (tmp_path / "ran").exists()


def test_when_the_time_is_up_what_runs_is_asked_to_stop_and_the_rest_is_left(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    waits = (
        "import signal, sys, time\n"
        f"def stop(*_): open({str(asked)!r}, 'w'); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "time.sleep(60)"
    )
    outcome, _ = run([task(tmp_path, "long", waits), task(tmp_path, "next", "pass")], jobs=1, seconds=0.5)
    assert outcome == Outcome((), (), ("long", "next"))
    assert asked.exists()


def test_no_more_than_the_jobs_run_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    alone = f"import os, time; os.mkdir({str(lock)!r}); time.sleep(0.1); os.rmdir({str(lock)!r})"
    outcome, _ = run([task(tmp_path, name, alone) for name in ("a", "b", "c")], jobs=1)
    assert outcome.failed == ()
