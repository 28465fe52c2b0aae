"""A process that has imported everything, and runs `edgemim` in a fork of itself, again and again; forks can be killed.

Not a test: `test_kill.py` starts it. Each line of stdin is a job in JSON:

    arguments   of `edgemim`
    folder      of the run, whose files are watched
    die_at      the fork kills itself with SIGKILL at its so-many-th event; null: never
    after_s     the fork is killed from outside after so many seconds; null: never
    log         file that gets the name of every event; null: none
    errors      file that gets its stderr

and is answered by a line: `code` (minus the signal where one ended it) and `seconds`.

An event is a moment at which a run can be cut in two: before and after each step, before and after each flush to disk,
in the middle of each file that is written, and before each opening for writing, renaming, linking and removing.
"""

from __future__ import annotations

import builtins
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.utils.tensorboard  # noqa: F401  (loaded once, not in every fork)

from edgemim import artifact
from edgemim.cli import build_app, main
from edgemim.data.sources import SOURCES
from edgemim.masking import MASKINGS
from edgemim.methods import METHODS
from edgemim.training import finetune, pretrain  # noqa: F401
from edgemim.training.loop.module import TrainingModule
from edgemim.training.saving.save import SaveState

WATCHED = ("open", "os.rename", "os.remove", "os.link", "os.mkdir")
WRITING = os.O_WRONLY | os.O_RDWR


class Events:
    """Counts events of the main thread, and kills the process at one of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.folder = job["folder"]
        self.die_at = job["die_at"]
        self.log = None if job["log"] is None else os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.count = 0

    def happen(self, name: str, path: str = "") -> None:
        """An event, unless it is about a file that is none of the run's."""
        if path and not path.startswith(self.folder):
            return
        if threading.current_thread() is not threading.main_thread():
            return
        self.count += 1
        if self.log is not None:
            os.write(self.log, f"{name}\n".encode())
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WATCHED or not isinstance(arguments[0], str | Path):
            return
        path = str(arguments[0])
        if event != "open" or (isinstance(arguments[2], int) and arguments[2] & WRITING):
            self.happen(f"{event} {path[len(self.folder) :]}", path)


class HalfWritten:
    """A file opened for writing; between the two halves of what is written something may happen."""

    def __init__(self, stream: Any, between: Callable[[], None]) -> None:
        self.stream = stream
        self.between = between

    def write(self, data: bytes) -> None:
        middle = len(data) // 2
        self.stream.write(data[:middle])
        self.stream.flush()
        self.between()
        self.stream.write(data[middle:])

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def watch(events: Events) -> None:
    """Let events happen in this process, from here on."""
    sync, step, save = os.fsync, TrainingModule.training_step, SaveState.on_train_batch_end

    def fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.happen("before fsync", path)
        sync(descriptor)
        events.happen("after fsync", path)

    def training_step(self: Any, raw: Any, batch_idx: int) -> Any:
        events.happen(f"before step {self.global_step}")
        loss = step(self, raw, batch_idx)
        events.happen(f"between forward and backward of step {self.global_step}")
        return loss

    def on_train_batch_end(self: Any, trainer: Any, *rest: Any) -> None:
        events.happen(f"after the update of step {trainer.global_step - 1}")
        save(self, trainer, *rest)
        events.happen(f"after step {trainer.global_step - 1}")

    def open_halves(path: Any, mode: str = "r", *rest: Any) -> Any:
        stream = builtins.open(path, mode, *rest)  # noqa: SIM115  (closed by who asked for it)
        name = f"middle of {str(path)[len(events.folder) :]}"
        return HalfWritten(stream, lambda: events.happen(name, str(path))) if mode == "wb" else stream

    os.fsync = fsync
    artifact.open = open_halves  # type: ignore[attr-defined]
    TrainingModule.training_step = training_step  # type: ignore[method-assign]
    SaveState.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    sys.addaudithook(events.audit)


def run(job: dict[str, Any]) -> int:
    """The fork: one command, to its end."""
    errors = os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(errors, descriptor)
    watch(Events(job))
    sys.argv = ["edgemim", *job["arguments"]]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def wait(process: int, after_s: float | None) -> int:
    """Status of a fork, which is killed if it takes longer than `after_s`."""
    end = None if after_s is None else time.monotonic() + after_s
    while end is not None and time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    if end is not None:
        os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1]


def load_everything() -> None:
    """What a run would import on use."""
    build_app()
    for name in SOURCES.names():
        SOURCES.get(name)
    MASKINGS.get("random")
    METHODS.get("mae")


if __name__ == "__main__":
    load_everything()
    for line in sys.stdin:
        began = time.monotonic()
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 99
            try:
                code = run(job)
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = wait(process, job["after_s"])
        answer = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
