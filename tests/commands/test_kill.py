"""A run that SIGKILL hits at any moment, more than once even, ends with the bytes of a run that it never hit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import load_artifact
from edgemim.training.saving.state import BEST, KEPT, LAST, states, step_of

STEPS, PER_EPOCH = 8, 2
WEIGHTS = ("model.safetensors", "predictor.safetensors", "config.json")
# Every kind of state: moments, schedule, average, smoothed loss, best so far; and every source of chance.
SETTINGS = {
    "backbone.drop_path_rate": 0.2,
    "training.clip_grad": 1.0,
    "training.ema": 0.9,
    "training.save_every": 3,
    "evaluation.every": 1,
}
Job = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """`fork(arguments, folder, die_at=..., after_s=..., log=...)` runs the command in a process that can be killed."""
    errors = tmp_path_factory.mktemp("errors") / "stderr.txt"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked_runs.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Threads do not survive a fork, and several of them would make the sums of each run differ.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )

    def run(
        arguments: list[str],
        folder: Path,
        die_at: int | None = None,
        after_s: float | None = None,
        log: Path | None = None,
    ) -> SimpleNamespace:
        assert process.stdin is not None
        assert process.stdout is not None
        job = {
            "arguments": [*arguments, "--out", str(folder)],
            "folder": str(folder),
            "die_at": die_at,
            "after_s": after_s,
            "log": None if log is None else str(log),
            "errors": str(errors),
        }
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        said, _ = errors.read_text(), errors.write_text("")
        return SimpleNamespace(**answer, said=said)

    with process:  # closes its pipes, at which it ends
        yield run


@pytest.fixture(scope="module")
def command(data: Path, options: SimpleNamespace) -> list[str]:
    """A run of four epochs of two batches, without `--out`; `--resume` is always right."""
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    length = ["--steps", STEPS, "--batch-size", 7, "--deterministic", "--resume"]
    return ["pretrain", *map(str, ["--data", data / "classes", *options.pretrain, *sets, *length])]


@pytest.fixture(scope="module")
def whole(fork: Job, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that nothing hits: its weights, its events in order, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    done = fork(command, folder / "run", log=folder / "events.txt")
    assert done.code == 0, done.said
    run = load_artifact(folder / "run", "checkpoint")
    assert run.provenance[-1]["data"]["images"] == 7 * PER_EPOCH  # so that step 1 is the last batch of an epoch
    return SimpleNamespace(
        weights={name: (folder / "run" / name).read_bytes() for name in WEIGHTS},
        events=(folder / "events.txt").read_text().splitlines(),
        seconds=done.seconds,
    )


def nth(whole: SimpleNamespace, begins: str, contains: str = "", which: int = 0) -> int:
    """Number, from 1, of the event that so begins."""
    found = [i for i, e in enumerate(whole.events, start=1) if e.startswith(begins) and contains in e]
    return found[which]


def survive(fork: Job, command: list[str], whole: SimpleNamespace, run: Path, kills: list[dict[str, Any]]) -> int:
    """Run until the last kill, then to the end, and compare; returns how many of the kills came in time."""
    hit = 0
    for kill in kills:
        done = fork(command, run, **kill)
        assert done.code in (0, -signal.SIGKILL), done.said
        hit += done.code != 0
    done = fork(command, run)
    assert done.code == 0, done.said
    assert {name: (run / name).read_bytes() for name in WEIGHTS} == whole.weights
    load_artifact(run, "checkpoint")
    assert not [p.name for p in run.rglob("*") if p.name.endswith(".partial") or p.name.startswith("draft")]
    assert [step_of(state) for state in states(run / LAST)] == [STEPS, 6]
    assert [step_of(state) for state in states(run / KEPT)] == [6, 3]
    assert len(states(run / BEST)) == 1
    return hit


@pytest.mark.parametrize("moment", ["step", "write", "remove"])
def test_a_killed_run_ends_with_the_same_bytes(
    fork: Job, command: list[str], whole: SimpleNamespace, tmp_path: Path, moment: str
) -> None:
    at = {
        "step": nth(whole, "between forward and backward of step 3"),  # the last batch of an epoch
        "write": nth(whole, "middle of", "draft.ckpt", which=1),  # the second state
        "remove": nth(whole, "os.remove", "step-", which=0),  # the new state is there, the old one too
    }[moment]
    assert survive(fork, command, whole, tmp_path / "run", [{"die_at": at}]) == 1


def chosen(whole: SimpleNamespace, case: int) -> list[dict[str, Any]]:
    """The kills of one of twenty cases: named moments, random events, random times; some are followed by another."""
    named = [
        nth(whole, "before step 0"),
        nth(whole, "after the update of step 0"),
        nth(whole, "between forward and backward of step 1"),  # the last batch of the first epoch
        nth(whole, "after step 1"),
        nth(whole, "before step 2"),  # the first batch of the second
        nth(whole, "middle of", "draft.ckpt"),
        nth(whole, "os.rename", "draft.ckpt"),
        nth(whole, "os.rename", "draft.ckpt", which=1) + 1,
        nth(whole, "os.link", "last"),
        nth(whole, "os.remove", "step-"),
        nth(whole, "os.remove", "step-") + 1,
        nth(whole, "middle of", "model.safetensors"),
        nth(whole, "middle of", "manifest.json"),
    ]
    rng = random.Random(case)
    kills: list[dict[str, Any]] = []
    if case < len(named):
        kills.append({"die_at": named[case]})
    elif case < 17:
        kills.append({"die_at": rng.randint(1, len(whole.events))})
    else:
        kills.append({"after_s": rng.uniform(0.3, 1.0) * whole.seconds})
    if case % 2:
        kills.append({"die_at": rng.randint(1, len(whole.events))})
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("case", range(20))
def test_twenty_of_twenty(fork: Job, command: list[str], whole: SimpleNamespace, tmp_path: Path, case: int) -> None:
    hit = survive(fork, command, whole, tmp_path / "run", chosen(whole, case))
    assert hit > 0 or case >= 17  # a kill from outside may come too late
