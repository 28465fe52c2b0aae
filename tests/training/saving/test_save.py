"""Stopping on a signal, and saving as a run goes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from edgemim.errors import Preempted
from edgemim.methods._base import Method
from edgemim.training.loop.fit import Fitted, fit
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import LAST, VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

STEPS = 6
Train = Callable[..., Fitted]
MakeMAE = Callable[..., Method]
MakeSettings = Callable[..., RunSettings]


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    return run_settings(training={"steps": STEPS})


@pytest.fixture
def signals_seen() -> Iterator[list[Any]]:
    """Handlers of SIGINT and SIGTERM, which have to be the same afterwards."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    yield before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigint_saves_stops_and_says_how_to_go_on(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path, signals_seen: list[Any]
) -> None:
    with pytest.raises(Interrupted) as caught:
        train(make_mae(), settings, tmp_path, stop_at=2)
    assert str(caught.value) == (
        f"stopped at step 2 of {STEPS}; its state is in {tmp_path / LAST}; run the same command with --resume to go on"
    )
    assert isinstance(caught.value, KeyboardInterrupt)
    assert not isinstance(caught.value, Exception)


def test_sigterm_is_a_preemption(
    train: Train, make_mae: MakeMAE, settings: RunSettings, tmp_path: Path, signals_seen: list[Any]
) -> None:
    with pytest.raises(Preempted, match="run the same command with --resume") as caught:
        train(make_mae(), settings, tmp_path, stop_at=2, number=signal.SIGTERM)
    assert caught.value.exit_code == 75
    found = newest_state(tmp_path)
    assert found is not None
    assert found[1] == 2


def test_a_second_sigint_stops_at_once(
    augmented: Callable[..., Any],
    make_mae: MakeMAE,
    settings: RunSettings,
    tmp_path: Path,
    signal_at: Any,
    contract: Any,
    signals_seen: list[Any],
) -> None:
    twice: list[L.Callback] = [signal_at(2, signal.SIGINT), signal_at(2, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(make_mae(), augmented(24), settings, contract, run=tmp_path, title="test", callbacks=twice)
    assert not isinstance(caught.value, Interrupted)
    assert newest_state(tmp_path) is None


def test_states_are_saved_as_time_goes_and_at_the_end(
    train: Train, make_mae: MakeMAE, run_settings: MakeSettings, tmp_path: Path
) -> None:
    def steps(minutes: float, run: str) -> list[int]:
        train(make_mae(), run_settings(training={"steps": 4, "save_minutes": minutes}), tmp_path / run)
        return sorted(int(p.name[5:14]) for p in (tmp_path / run / LAST).glob("*.ckpt"))

    assert steps(60.0, "seldom") == [4]
    assert steps(0.0, "often") == [3, 4]


SCRIPT = """
import signal, sys
import torch
torch.set_num_threads(1)
from edgemim.config import build
from edgemim.training.saving.save import Interrupted
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings
from pathlib import Path
values = eval(sys.argv[1])
try:
    pretrain(build(RunSettings, values), Path(sys.argv[2]), stage="pretrain")
except Interrupted as error:
    print(error)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_in_a_real_process(run_values: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    values = run_values(training={"steps": 1_000_000, "picture_steps": 5})
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, repr(values), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list((out / "reconstructions").glob("*.png")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    said, handler_is_back = stdout.splitlines()
    assert said.endswith("run the same command with --resume to go on")
    assert handler_is_back == "True"
    assert "Traceback" not in stderr
    found = newest_state(out)
    assert found is not None
    assert f"stopped at step {found[1]} of 1000000" in said
    assert VerifiedCheckpointIO().load_checkpoint(found[0])["global_step"] == found[1]
    assert not (out / "manifest.json").exists()
    assert not list(tmp_path.glob(".*.lock"))
