"""Runs that were stopped, and runs that are over: what `--resume` does with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import MANIFEST, load_artifact
from edgemim.training.callbacks import DrawReconstructions

# Sends itself a signal after the third step: a real one, to a real process, at a known moment.
INTERRUPTED = """
import os, signal
from edgemim.cli import main
from edgemim.training.callbacks import DrawReconstructions

def interrupt(self, trainer, *_):
    if trainer.global_step == 3:
        os.kill(os.getpid(), signal.SIGINT)

DrawReconstructions.on_train_batch_end = interrupt
main()
"""


@pytest.fixture
def command(data: Path, options: SimpleNamespace) -> list[str]:
    """A run of 6 steps, without `--out`."""
    arguments = ["--data", str(data / "photos"), *options.pretrain, "--steps", "6", "--deterministic"]
    return ["pretrain", *map(str, arguments)]


def weights(folder: Path) -> str:
    return load_artifact(folder, "checkpoint").files["model.safetensors"].sha256


def test_after_ctrl_c_a_run_says_how_to_resume_and_ends_the_same(cli: Any, tmp_path: Path, command: list[str]) -> None:
    arguments = [*command, "--out", str(tmp_path / "run")]
    script = [sys.executable, "-c", INTERRUPTED, *arguments]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    state = tmp_path / "run" / "last"
    assert done.stderr.splitlines()[-1] == (
        f"edgemim: stopped at step 3 of 6; its state is in {state}; run the same command with --resume to go on"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / MANIFEST).exists()
    inspected = cli("inspect", tmp_path / "run")
    assert inspected.code == 2
    assert "run it again with --resume" in inspected.err

    resumed = cli(*arguments, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["steps"] == 6
    assert load_artifact(tmp_path / "run").provenance[-1]["result"]["resumed_from"] == 3
    assert cli(*command, "--out", tmp_path / "whole").code == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_preempted_run_exits_with_75_and_goes_on(
    cli: Any, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def preempt(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = [*command, "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(DrawReconstructions, "on_train_batch_end", preempt)
        stopped = cli(*arguments)
    assert stopped.code == 75
    assert stopped.err.splitlines()[-1].startswith("edgemim: stopped at step 2 of 6")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert cli(*arguments, "--resume").code == 0


def test_a_finished_run_is_left_as_it_is(cli: Any, tmp_path: Path, command: list[str]) -> None:
    arguments = [*command, "--out", tmp_path / "run"]
    assert cli(*arguments).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    again = cli(*arguments, "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json == {"checkpoint": str(tmp_path / "run"), "stage": "pretrain", "finished_before": True}
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
