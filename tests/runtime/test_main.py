"""`python3 -m edgemim.runtime check`: what it prints, its exit codes, and that it ends when it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime import __main__ as command
from edgemim.runtime.report.read import read_report

QUICK = ("--runs", "10", "--seconds", "0.01")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, quick: None, no_vendor: None) -> Callable[..., int]:
    """Run the command in this process on the fake backend; returns its exit code."""
    real = command.check_bundle

    def on_the_fake(*arguments: Any, **options: Any) -> dict[str, Any]:
        return real(*arguments, **{**options, "backends": [world.Fake()]})

    def run(*arguments: object) -> int:
        monkeypatch.setattr(command, "check_bundle", on_the_fake)
        try:
            return command.main([str(a) for a in arguments])
        except SystemExit as end:
            return int(end.code or 0)

    return run


def test_the_report_is_written_beside_the_bundle_and_printed(
    call: Callable[..., int], world: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("check", world.bundle(), *QUICK) == 0
    shown = capfd.readouterr()
    assert shown.out == (world.tmp / "bundle-report" / "report.md").read_text("utf-8")
    assert shown.err == read_report(world.tmp / "bundle-report")["verdict"] + "\n"


def test_a_missed_gate_is_exit_code_1_and_the_options_reach_the_check(
    call: Callable[..., int], world: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    out = world.tmp / "out"
    assert call("check", world.bundle(), *QUICK, "--gate", "p50_ms=1e-6", "--out", out, "--json", "--threads", 1) == 1
    report = json.loads(capfd.readouterr().out)
    assert report == read_report(out)
    assert (report["protocol"]["threads"], report["gates"]["p50_ms"]["limit"]) == (1, 1e-6)
    assert call("check", world.bundle(name="other"), *QUICK, "--out", out) == 2
    assert capfd.readouterr().err.startswith(f"edgemim: {out} exists; ")
    assert call("check", world.tmp / "other", *QUICK, "--out", out, "--overwrite", "--candidate", "fp32") == 0


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DeviceError("the driver is gone"), 3, "edgemim: the driver is gone"),
        (KeyboardInterrupt(), 130, "edgemim: interrupted"),
        (OSError(28, "No space left on device", "engine"), 2, "edgemim: engine: No space left on device"),
        (KeyError(7), 4, "edgemim: KeyError: 7"),
    ],
)
def test_every_error_has_its_exit_code_and_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(command, "check_bundle", fail)
    with pytest.raises(SystemExit) as end:
        command.main(["check", "x"])
    told = capfd.readouterr().err.splitlines()
    assert (end.value.code, told[-1]) == (code, line)
    assert (told[0].startswith("Traceback")) == (code == 4)

    with pytest.raises(SystemExit) as end:
        command.main(["check", "x", "--json-lines"])
    message = json.loads(capfd.readouterr().out)
    assert (end.value.code, message["exit_code"], f"edgemim: {message['error']}") == (code, code, line)
    assert (message["traceback"] is not None) == (code == 4)


def test_a_dot_is_the_folder_by_its_name(
    call: Callable[..., int], world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = world.bundle()
    monkeypatch.chdir(bundle)
    assert call("check", ".", *QUICK) == 0, capfd.readouterr().err
    assert read_report(world.tmp / "bundle-report")["bundle"]["path"] == str(bundle)
    (world.tmp / "empty").mkdir()
    monkeypatch.chdir(world.tmp / "empty")
    assert call("check", bundle, *QUICK, "--out", ".") == 0, capfd.readouterr().err
    assert read_report(world.tmp / "empty")["passed"]


MISSED = """
import sys
from edgemim.runtime import __main__ as command

command.check_bundle = lambda *_, **__: {{"verdict": "it is over", "passed": {passed}, "reasons": ["slow"] * {lines}}}
sys.exit(command.main(["check", "x", "--json"]))
"""


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("passed", [False, True])
def test_the_exit_code_is_that_of_the_report_without_a_reader(lines: int, passed: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    code = MISSED.format(passed=passed, lines=lines)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0 if passed else 1, "it is over\n")


NOISY = """
import subprocess, sys
from edgemim.runtime import __main__ as command

def check(*_, progress, **__):
    subprocess.run(["echo", "a library says hello"], check=True)
    print("so does Python")
    progress(1, 3)
    progress(2, 3)  # too soon after the first to be told
    progress(3, 3)
    return {"passed": True}

command.check_bundle = check
code = command.main(["check", "x", "--json-lines"])
print("standard output is back", flush=True)
sys.exit(code)
"""


def test_lines_of_progress_are_alone_on_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "standard output is back")
    assert [json.loads(line) for line in lines] == [{"progress": [1, 3]}, {"progress": [3, 3]}]
    assert sorted(done.stderr.splitlines()) == ["a library says hello", "so does Python"]


SLEEPER = """
import sys, time
from edgemim.runtime import __main__ as command

def sleep(*_, **__):
    print("started", file=sys.stderr, flush=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if not {stubborn}:
                raise

command.check_bundle = sleep
command.main(["check", "x", "--end-with-stdin"])
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_it_ends_when_standard_input_closes_even_if_it_does_not_want_to(stubborn: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(stubborn=stubborn)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stderr is not None
    assert child.stderr.readline() == b"started\n"
    child.stdin.write(b"still here\n")
    child.stdin.flush()
    time.sleep(0.2)
    assert child.poll() is None
    child.stdin.close()
    started = time.monotonic()
    assert child.wait(30) == (-9 if stubborn else 130)
    assert time.monotonic() - started < 20
    child.stderr.close()
