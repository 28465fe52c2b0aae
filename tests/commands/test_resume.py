"""Runs that were stopped, and runs that are over: what `--resume` does with them."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import MANIFEST, load_artifact

# Two runs, each of which gets a real signal after its third step; a process of its own, since a library that was
# loaded for another test may have left the signals of this one in any state.
STOPPED = """
import os, signal, sys
from edgemim.cli import main
from edgemim.training.shown.drawing import DrawReconstructions

number = signal.SIGTERM

def stop(self, trainer, *_):
    if trainer.global_step == 3:
        os.kill(os.getpid(), number)

DrawReconstructions.on_train_batch_end = stop
preempted, interrupted = sys.argv.pop(), sys.argv.pop()
sys.argv += ["--out", preempted]
try:
    main()
except SystemExit as end:
    print(end.code)
number = signal.SIGINT
sys.argv[-1] = interrupted
main()
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> SimpleNamespace:
    """Folders of a run after SIGTERM and of one after SIGINT, and what they said."""
    folder = tmp_path_factory.mktemp("stopped")
    preempted, interrupted = folder / "preempted", folder / "interrupted"
    script = [sys.executable, "-c", STOPPED, *command, str(interrupted), str(preempted)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("edgemim: ")]
    assert "Traceback" not in done.stderr
    return SimpleNamespace(
        preempted=preempted,
        interrupted=interrupted,
        said=said,
        lines=done.stderr.splitlines(),
        code=done.returncode,
        out=done.stdout,
    )


@pytest.fixture(scope="module")
def command(data: Path, options: SimpleNamespace) -> list[str]:
    """A run of 6 steps, without `--out`."""
    arguments = ["--data", str(data / "photos"), *options.pretrain, "--steps", "6", "--deterministic"]
    return ["pretrain", *map(str, arguments)]


@pytest.fixture(scope="module")
def whole(cli: Any, tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> str:
    """sha256 of the weights after the 6 steps in one go."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli(*command, "--out", out).code == 0
    return weights(out)


def weights(folder: Path) -> str:
    return load_artifact(folder, "checkpoint").files["model.safetensors"].sha256


def test_a_stopped_run_says_how_to_resume_and_exits_with_75_or_130(stopped: SimpleNamespace) -> None:
    assert stopped.out == "75\n"  # of the first run; nothing else is on stdout
    assert stopped.code == 130
    assert stopped.said == [
        f"edgemim: stopped at step 3 of 6; its state is in {run / 'last'}; run the same command with --resume to go on"
        for run in (stopped.preempted, stopped.interrupted)
    ]


@pytest.mark.parametrize("name", ["interrupted", "preempted"])
def test_a_stopped_run_is_no_checkpoint_yet(cli: Any, stopped: SimpleNamespace, name: str, tmp_path: Path) -> None:
    shutil.copytree(getattr(stopped, name), tmp_path / "run")
    assert not (tmp_path / "run" / MANIFEST).exists()
    done = cli("inspect", tmp_path / "run")
    assert done.code == 2
    assert "run it again with --resume" in done.err


@pytest.mark.parametrize("name", ["interrupted", "preempted"])
def test_a_resumed_run_ends_with_the_bytes_of_one_that_was_never_stopped(
    cli: Any, stopped: SimpleNamespace, command: list[str], whole: str, name: str, tmp_path: Path
) -> None:
    shutil.copytree(getattr(stopped, name), tmp_path / "run")
    done = cli(*command, "--out", tmp_path / "run", "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 6
    assert load_artifact(tmp_path / "run").provenance[-1]["result"]["resumed_from"] == 3
    assert weights(tmp_path / "run") == whole


def test_a_finished_run_is_left_as_it_is(cli: Any, tmp_path: Path, command: list[str]) -> None:
    arguments = [*command, "--out", tmp_path / "run"]
    assert cli(*arguments).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    again = cli(*arguments, "--resume", "--json")
    assert again.code == 0, again.err
    told = load_artifact(tmp_path / "run").provenance[-1]
    names = ("steps", "seconds", "images_per_second", "loss", "data_wait", "untrained")
    assert (
        again.json
        == {"checkpoint": str(tmp_path / "run"), "stage": "pretrain", "finished_before": True}
        | {name: told["result"][name] for name in names}
        | told["scores"]
    )
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_resume_of_a_run_that_never_began_starts_it(cli: Any, tmp_path: Path, command: list[str]) -> None:
    done = cli(*command, "--out", tmp_path / "run", "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 6


def test_other_settings_are_refused_by_name(cli: Any, tmp_path: Path, command: list[str]) -> None:
    assert cli(*command, "--out", tmp_path / "run").code == 0
    before = weights(tmp_path / "run")
    done = cli(*command, "--seed", "4", "--set", "masking.mask_ratio=0.5", "--out", tmp_path / "run", "--resume")
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert line.startswith("edgemim: ")
    assert "masking.mask_ratio was 0.75, is 0.5; seed was 0, is 4" in line
    assert "--overwrite" in line
    assert weights(tmp_path / "run") == before


def test_changes_that_are_accepted_are_said_and_recorded(cli: Any, tmp_path: Path, command: list[str]) -> None:
    run = tmp_path / "run"
    assert cli(*command, "--out", run).code == 0
    done = cli(*command, "--steps", "8", "--out", run, "--resume", "--accept-changes", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 8
    assert "going on from step 6 with other settings: training.steps was 6, is 8" in done.err
    (record,) = load_artifact(run).provenance
    assert record["changes"] == [{"step": 6, "changes": ["training.steps was 6, is 8"]}]
    shown = cli("inspect", run)
    assert "training.steps was 6, is 8" in shown.out


def test_a_run_cannot_end_before_the_step_that_it_has_come_to(cli: Any, tmp_path: Path, command: list[str]) -> None:
    run = tmp_path / "run"
    kept = ("--set", "training.save_every=4", "--out", run)
    assert cli(*command, *kept).code == 0
    before = weights(run)
    shorter = (*command, "--steps", "4", *kept, "--resume", "--accept-changes", "--json")
    done = cli(*shorter)
    assert (done.code, done.out) == (2, "")
    assert f"the newest state in {run} is of step 6, and the run would end at 4; give more --steps" in done.err
    assert weights(run) == before
    # As the message says.
    for state in [*run.rglob("step-000000006*")]:
        state.unlink()
    back = cli(*shorter)
    assert (back.code, back.json["steps"]) == (0, 4), back.err
    assert weights(run) != before


def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(
    cli: Any, stopped: SimpleNamespace, command: list[str], whole: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    each_step = ("--set", "training.save_every=1")
    assert cli(*command, *each_step, "--out", run).code == 0
    (run / MANIFEST).unlink()
    older, newest = sorted((run / "last").glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-1])  # one file with a second name in kept/
    done = cli(*command, "--out", run, "--resume")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("damaged: ")]
    assert line == f"damaged: {newest}, {run / 'kept' / newest.name}; going on from the state before, {older}"
    assert load_artifact(run).provenance[-1]["result"]["resumed_from"] == 5
    assert weights(run) == whole


def test_a_disk_that_fills_up_is_one_line_and_the_last_good_state_goes_on(
    cli: Any, command: list[str], whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sync, drafts = tmp_path / "run", os.fsync, []

    def fills_up(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        drafts.append(name) if "draft.ckpt" in name else None
        if len(drafts) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    full = cli(*command, "--set", "training.save_minutes=0", "--out", run)
    monkeypatch.undo()
    assert (full.code, full.out) == (2, "")
    (line,) = [line for line in full.err.splitlines() if line.startswith("edgemim: ")]
    newest = sorted((run / "last").glob("*.ckpt"))[-1]
    assert f"cannot write {run / 'last'}: the disk is full; free some space" in line
    assert f"{newest} is as it was: --resume goes on from there" in line
    done = cli(*command, "--out", run, "--resume", "--json")
    assert done.code == 0, done.err
    assert load_artifact(run).provenance[-1]["result"]["resumed_from"] == 3
    assert weights(run) == whole


def test_the_end_of_a_run_says_what_came_out_and_what_to_run_next(cli: Any, command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "a run"
    done = cli(*command, "--set", "training.save_every=4", "--out", run)
    assert done.code == 0, done.err
    numbers, kept, longer, following = done.err.splitlines()[-4:]
    assert numbers.startswith("6 steps; in this process 0:00:")
    assert "images/s, loss " in numbers
    assert "waited for images " in numbers
    assert f"newest {run / 'last'} (step 4, 6)" in kept
    assert f"kept for good {run / 'kept'} (step 4)" in kept
    words = shlex.split(longer.partition("--epochs: ")[2])
    assert words[:2] == ["edgemim", "pretrain"]
    assert words[-2:] == ["--resume", "--accept-changes"]
    assert cli(*words[1:], "--steps", "7", "--json").json["steps"] == 7
    assert following.startswith(f"next: edgemim distill --teacher {run} ")


def test_a_stopped_run_says_the_whole_command_that_resumes_it(
    cli: Any, stopped: SimpleNamespace, whole: str, tmp_path: Path
) -> None:
    told = [line.removeprefix("resume: ") for line in stopped.lines if line.startswith("resume: ")]
    for line, run in zip(told, (stopped.preempted, stopped.interrupted), strict=True):
        shutil.copytree(run, tmp_path / run.name)
        program, *words = [str(tmp_path / run.name) if word == str(run) else word for word in shlex.split(line)]
        assert program == "edgemim"
        assert cli(*words).code == 0
        assert weights(tmp_path / run.name) == whole


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_the_other_stages_resume_too(
    cli: Any, tmp_path: Path, story: SimpleNamespace, options: SimpleNamespace, stage: str
) -> None:
    arguments = {
        "distill": ["--data", "digits", *options.distill, "--teacher", story.teacher, "--out", story.student],
        "finetune": [story.student, "--data", "digits", *options.finetune, "--out", story.classifier],
    }[stage]
    done = cli(stage, *arguments, "--resume", "--json")
    assert done.code == 0, done.err
    assert (done.json["stage"], done.json["finished_before"]) == (stage, True)
