"""One run of `python3 -m edgemim.runtime check` on the board, its folder, and what it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edgemim.remote.board.interpreter import environment
from edgemim.remote.board.link import SILENCE_S, STEP, Gone, Link, locked, try_lock

_END_S = 10.0


@contextlib.contextmanager
def new_run(run: Path, link: Link) -> Iterator[Path]:
    """The folder of a run, empty; an earlier agent of the same session that was cut off may still be ending."""
    run.parent.mkdir(parents=True, exist_ok=True)
    lock = run.with_suffix(".lock")
    with locked(lock, link, "an earlier connection of this check is still open"):
        try:
            _sweep(run.parent)
            shutil.rmtree(run, ignore_errors=True)
            (run / "work").mkdir(parents=True)
            yield run
        finally:
            shutil.rmtree(run, ignore_errors=True)
            lock.unlink(missing_ok=True)


def check(link: Link, run: Path, path: str, arguments: list[str], cache: Path) -> int:
    """Run the check and pass its lines on; it ends at the latest when the other side is gone."""
    command = [sys.executable, "-m", "edgemim.runtime", "check", *arguments]
    command += ["--out", "../report", "--cache", str(cache), "--json-lines", "--end-with-stdin"]
    child = subprocess.Popen(
        command,
        cwd=run / "work",
        env=environment(path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        _relay(link, child)
        return child.wait()
    finally:
        child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # also what the check itself has started
        child.wait()
        child.stdout.close()


def send_report(link: Link, folder: Path, exit_code: int) -> None:
    """How the check ended, and every file of its report."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    names = [[path.relative_to(folder).as_posix(), path.stat().st_size] for path in files]
    link.send({"exit_code": exit_code, "report": names})
    for path in files:
        link.send({}, data=path.read_bytes())


def _relay(link: Link, child: subprocess.Popen[bytes]) -> None:
    """Pass the child's lines on until it ends."""
    assert child.stdout is not None
    output, heard, held = child.stdout.fileno(), time.monotonic(), b""
    while True:
        ready, _, _ = select.select([link.source, output], [], [], 1.0)
        if link.source in ready:
            link.drain()
            heard = time.monotonic()
        if time.monotonic() - heard > SILENCE_S:
            raise Gone
        if output in ready:
            data = os.read(output, STEP)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that is none of the check's
                    link.send({"event": json.loads(line)})
        elif not ready and child.poll() is not None:
            return  # something that the child started still holds its output


def _sweep(runs: Path) -> None:
    """Remove the folders of runs whose agent is no more, such as after a power cut."""
    for folder in [path for path in runs.iterdir() if path.is_dir()]:
        path = folder.with_suffix(".lock")
        with open(path, "a") as lock:
            if try_lock(lock.fileno()):
                shutil.rmtree(folder, ignore_errors=True)
                path.unlink()
