"""`python3 -m edgemim.runtime check BUNDLE`: the check with numpy, Pillow, filelock and platformdirs alone.

`edgemim check` is the same with a progress bar. Exit codes are those of `edgemim` (ARCHITECTURE.md).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from edgemim.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USER, EdgemimError
from edgemim.runtime.check import check_bundle
from edgemim.runtime.gates import parse_gates
from edgemim.runtime.latency.protocol import MODES
from edgemim.runtime.outcome import exit_code

_GRACE_S = 3.0
_TELL_EVERY_S = 0.5
_REFUSALS = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, check, tell; returns the exit code.

    Raises:
        SystemExit: The check could not be made; its code is the error's.
    """
    options = _parser().parse_args(arguments)
    if options.end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    with _lines() if options.json_lines else contextlib.nullcontext() as lines:
        try:
            report = _check(options, lines)
        except (Exception, KeyboardInterrupt) as error:
            raise SystemExit(_tell_failure(error, lines)) from error
        if lines is None:
            shown = json.dumps(report, indent=2) if options.json else (options.out / "report.md").read_text("utf-8")
            _show(sys.stdout, shown.rstrip())
            _show(sys.stderr, report["verdict"])
        return exit_code(report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m edgemim.runtime", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check", help="measure a bundle here and hold it to its gates", allow_abbrev=False
    ).add_argument
    check("bundle", type=Path, help="a bundle folder")
    check("--out", type=Path, metavar="DIR", help="folder of the report; by default BUNDLE-report")
    check("--gate", action="append", default=[], metavar="G=V", help="a budget, such as p99_ms=8; can be repeated")
    check("--allow-unmeasured", action="append", default=[], metavar="G", help="a gate that may stay unmeasured")
    check("--no-gates", action="store_true", help="only measure: hold nothing to a gate, choose nothing")
    check("--no-probe", action="store_true", help="leave out cold start and memory, each a process of its own")
    check("--backend", action="append", metavar="NAME", help="only this backend; can be repeated")
    check("--candidate", action="append", metavar="NAME", help="only this candidate; can be repeated")
    check("--threads", type=int, metavar="N", help="threads of a backend")
    check("--mode", default="quick", metavar="MODE", help=f"how long: {', '.join(MODES)}")
    check("--seconds", type=float, metavar="S", help="least time measured per candidate, in place of the mode's")
    check("--runs", type=int, metavar="N", help="least number of timed runs per candidate, in place of the mode's")
    check("--cache", type=Path, metavar="DIR", help="folder of compiled engines; by default the user's")
    check("--rebuild", action="store_true", help="build every engine again")
    check("--overwrite", action="store_true", help="replace a report that is there")
    check("--json", action="store_true", help="print the report as JSON")
    check("--json-lines", action="store_true", help="print progress, and an error, as one JSON object a line")
    check("--end-with-stdin", action="store_true", help="end as soon as standard input closes")
    return parser


def _check(options: argparse.Namespace, lines: IO[str] | None) -> dict[str, Any]:
    place = Path(os.path.abspath(options.bundle))
    bundle = options.bundle if options.bundle.name not in ("", "..") else place  # `.` by its name
    options.out = Path(os.path.abspath(options.out or place.parent / f"{place.name}-report"))
    told = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if lines is not None and (now - told > _TELL_EVERY_S or done == total):
            _print(lines, {"progress": [done, total]})
            told = now

    return check_bundle(
        bundle,
        options.out,
        gates=parse_gates(options.gate),
        allow_unmeasured=options.allow_unmeasured,
        judge=not options.no_gates,
        backends=options.backend,
        candidates=options.candidate,
        threads=options.threads,
        mode=options.mode,
        seconds=options.seconds,
        runs=options.runs,
        rebuild=options.rebuild,
        probe=not options.no_probe,
        cache=options.cache,
        overwrite=options.overwrite,
        progress=progress,
    )


def _tell_failure(error: BaseException, lines: IO[str] | None) -> int:
    """Tell what ended the check, as `edgemim.cli` does; returns the exit code."""
    code, message, trace = EXIT_BUG, f"{type(error).__name__}: {error}", None
    if isinstance(error, KeyboardInterrupt):
        code, message = EXIT_INTERRUPTED, "interrupted"
    elif isinstance(error, EdgemimError):
        code, message = error.exit_code, " ".join(str(error).split())
    elif isinstance(error, OSError) and error.errno in _REFUSALS:
        code, message = EXIT_USER, f"{error.filename or 'a write'}: {error.strerror}"
    else:
        trace = "".join(traceback.format_exception(error))
    if lines is not None:
        _print(lines, {"error": message, "exit_code": code, "traceback": trace})
    else:
        sys.stderr.write(f"{trace or ''}edgemim: {message}\n")
    return code


@contextlib.contextmanager
def _lines() -> Iterator[IO[str]]:
    """Standard output for our lines alone: vendor libraries write into it too, and get standard error instead."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)


def _show(stream: IO[str], text: str) -> None:
    """A line, flushed; a reader that has gone changes neither the exit code nor what Python says when it ends."""
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _print(lines: IO[str], message: dict[str, Any]) -> None:
    lines.write(json.dumps(message) + "\n")
    lines.flush()


def _end_with_stdin() -> None:
    """Wait until standard input closes, then interrupt the check; and end at once if it is still there after that."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what the check has started
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
