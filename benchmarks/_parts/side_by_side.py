"""Runs side by side, each in a process of its own, until all are done or the time is up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POLL_S = 0.5
_STOP_S = 120.0


@dataclass
class Task:
    """One process to run.

    Attributes:
        label: For people.
        command, environment: Of the process.
        log: Where what it prints goes.
        size: How long it takes beside the others, in any unit.
        after: Labels of tasks that must be done before.
    """

    label: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    size: float
    after: tuple[str, ...] = ()
    started: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Outcome:
    """Labels of the tasks that came to their end, that failed, and that were not begun or not finished."""

    done: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...]


def run_side_by_side(
    tasks: Sequence[Task],
    *,
    jobs: int,
    seconds: float | None,
    on_done: Callable[[Task, float], str],
    say: Callable[[str], None],
) -> Outcome:
    """Run tasks in their order, `jobs` at a time.

    Args:
        tasks: A task waits for those named in its `after`, as far as they are among these.
        jobs: Processes at a time.
        seconds: After which those that run are asked to stop (SIGTERM), and no more are begun; None: no limit.
        on_done: Given a task that succeeded and its seconds, what to say of it.
        say: Called with a line for people.
    """
    queue = _Queue(list(tasks), on_done, say, started=time.monotonic())
    try:
        while queue.waiting or queue.running:
            if seconds is not None and time.monotonic() - queue.started > seconds:
                say("the time is up; what is not finished is left for the next call")
                break
            queue.begin(jobs)
            time.sleep(_POLL_S)
            queue.collect()
    except KeyboardInterrupt:
        say("stopping; the next call goes on from here")
    finally:
        queue.stop()
    return queue.outcome()


class _Queue:
    """Tasks by what has become of them."""

    def __init__(self, tasks: list[Task], on_done: Callable[[Task, float], str], say: Any, *, started: float) -> None:
        self.waiting = tasks
        self.running: list[Task] = []
        self.done: list[Task] = []
        self.failed: list[Task] = []
        self.on_done = on_done
        self.say = say
        self.started = started
        self.total = len(tasks)

    def begin(self, jobs: int) -> None:
        """Start what may start; what waits for a failed task will never be able to."""
        failed = {task.label for task in self.failed}
        for task in [t for t in self.waiting if failed & set(t.after)]:
            self.say(f"{task.label}: not run, since {', '.join(failed & set(task.after))} failed")
            self.waiting.remove(task)
            self.failed.append(task)
        unfinished = {task.label for task in (*self.waiting, *self.running)}
        for task in [t for t in self.waiting if not unfinished & set(t.after)]:
            if len(self.running) >= jobs:
                return
            self.waiting.remove(task)
            self._start(task)

    def _start(self, task: Task) -> None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.started = time.monotonic()
        with task.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches this process, which then asks each of them once.
            task.process = subprocess.Popen(
                task.command, env=task.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(task)

    def collect(self) -> None:
        """Sort out what has ended."""
        for task in [t for t in self.running if t.process is not None and t.process.poll() is not None]:
            self.running.remove(task)
            assert task.process is not None
            if task.process.returncode:
                self.failed.append(task)
                self.say(f"{task.label}: failed; the end of {task.log}:\n{_tail(task.log)}")
            else:
                self.done.append(task)
                line = self.on_done(task, time.monotonic() - task.started)
                self.say(f"[{len(self.done)}/{self.total}] {line}; {self._left()}")

    def _left(self) -> str:
        """How long the rest will take, from how long what is done took."""
        now = time.monotonic()
        finished = sum(t.size for t in self.done)
        if not (self.waiting or self.running):
            return f"all done in {(now - self.started) / 60:.1f} min"
        remaining = sum(t.size for t in (*self.waiting, *self.running))
        # What runs is half done on average, and what it has done took time as well.
        half = sum(t.size for t in self.running) / 2
        rate = (finished + half) / max(now - self.started, 1e-9)
        return f"about {(remaining - half) / rate / 60:.0f} min left"

    def stop(self) -> None:
        """Ask what runs to save its state and stop, and wait for it."""
        for task in self.running:
            assert task.process is not None
            task.process.terminate()
        for task in list(self.running):
            assert task.process is not None
            try:
                task.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                task.process.kill()
                task.process.wait()
            if task.process.returncode == 0:
                self.running.remove(task)
                self.done.append(task)
                self.say(self.on_done(task, time.monotonic() - task.started))

    def outcome(self) -> Outcome:
        left = tuple(t.label for t in (*self.running, *self.waiting))
        return Outcome(tuple(t.label for t in self.done), tuple(t.label for t in self.failed), left)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


def say_on_stderr(line: str) -> None:
    """For people, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
