"""What a method does after each step: when it is called, and that a resumed run goes on with its work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from edgemim.config import build
from edgemim.errors import TrainingError
from edgemim.masking.difficulty import DifficultyMasking
from edgemim.masking.random import RandomMasking
from edgemim.methods._base import Method
from edgemim.methods.hpm import HPM, HPMSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.training.loop.fit import Fitted
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

STEPS = 8
Train = Callable[..., Fitted]
MakeSettings = Callable[..., RunSettings]
MakeHPM = Callable[..., HPM]


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    return run_settings(training={"steps": STEPS})


@pytest.fixture
def make_hpm(run_values: Callable[..., dict[str, Any]]) -> MakeHPM:
    """`make_hpm(seed=0, guided=True, **settings)`: tiny, with a copy that follows fast and decides all masks."""

    def make(seed: int = 0, guided: bool = True, **settings: Any) -> HPM:
        torch.manual_seed(seed)
        values = run_values()
        backbone, own = dict(values["backbone"]), dict(values["method"]) | {"ema_decay": 0.5, "ema_decay_end": 0.9}
        adapter = adapt(build_backbone(backbone.pop("name"), backbone))
        adapter.initialise()
        del own["name"]
        masking = DifficultyMasking(hardest=1.0) if guided else RandomMasking()
        method = HPM(adapter, masking, build(HPMSettings, own | {"ema_epochs": 2.0} | settings))
        method.begin()
        return method

    return make


def weights(method: Method) -> bytes:
    return save({k: v.contiguous() for k, v in method.state_dict().items()})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_called_once_for_each_step_with_the_epochs_that_are_done(
    train: Train, make_mae: Callable[..., Method], run_settings: MakeSettings, tmp_path: Path, accumulate: int
) -> None:
    method, epochs = make_mae(), []
    method.after_step = epochs.append  # type: ignore[method-assign]
    train(method, run_settings(training={"steps": 4, "accumulate": accumulate}), tmp_path)
    assert epochs == [8 / 24, 16 / 24, 1.0, 32 / 24]


def test_what_is_saved_holds_its_work(train: Train, make_hpm: MakeHPM, settings: RunSettings, tmp_path: Path) -> None:
    method = make_hpm()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(Interrupted):
        train(method, settings, tmp_path, stop_at=2)
    found = newest_state(tmp_path)
    assert found is not None
    saved = VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]
    now = method.state_dict()
    moved = 0
    for name, value in now.items():
        assert torch.equal(saved[f"method.{name}"], value), name
        moved += name.startswith("momentum.") and not torch.equal(value, before[name])
    assert moved > 10


@pytest.mark.parametrize("stops", [[1], [3, 5]])
def test_a_resumed_run_ends_with_the_same_bits(
    train: Train, make_hpm: MakeHPM, settings: RunSettings, tmp_path: Path, stops: list[int]
) -> None:
    whole = make_hpm()
    train(whole, settings, tmp_path / "whole")
    for done, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            train(make_hpm(seed=done), settings, tmp_path / "run", stop_at=stop, resume=done > 0)
    parts = make_hpm(seed=9)
    train(parts, settings, tmp_path / "run", resume=True)
    assert weights(parts) == weights(whole)


def test_the_copy_matters_to_these_tests(
    train: Train, make_hpm: MakeHPM, settings: RunSettings, tmp_path: Path
) -> None:
    quick, slow = make_hpm(), make_hpm(ema_decay=0.99, ema_decay_end=0.99)
    train(quick, settings, tmp_path / "quick")
    train(slow, settings, tmp_path / "slow")
    first, second = quick.backbone.state_dict(), slow.backbone.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_state_without_the_copy_is_refused_in_one_line(
    train: Train, make_hpm: MakeHPM, settings: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(make_hpm(guided=False), settings, tmp_path, stop_at=2)
    with pytest.raises(TrainingError, match=r"it holds no moving average of the network \(momentum\)") as caught:
        train(make_hpm(), settings, tmp_path, resume=True)
    assert "\n" not in str(caught.value)
