"""A saved state of another network, or another optimiser, is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgemim.config import build
from edgemim.errors import TrainingError
from edgemim.methods._memory import PatchMemory
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.fitting import refuse_misfit
from edgemim.training.settings.run import RunSettings
from edgemim.training.settings.training import TrainingSettings

MakeSettings = Callable[..., RunSettings]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, run_settings: MakeSettings) -> Path:
    """A run that ended after three of its steps."""
    out = tmp_path_factory.mktemp("half") / "run"
    pretrain(run_settings(training={"steps": 3}), out, stage="pretrain")
    return out


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"method": {"decoder_width": 8}}, r"step 3 does not fit: pixels\.decoder\.\S+ is \S+ there and \S+ here"),
        ({"backbone": {"depth": 3}}, r"does not fit: adapter\.\S+ is absent there and \S+ here|model\.blocks\.2"),
        ({"training": {"layer_decay": 0.5}}, r"its optimiser has groups of \[\d+, \d+\] tensors"),
        ({"training": {"weight_decay": 0.0}}, r"its optimiser has groups of \[\d+, \d+\] tensors"),
        ({"training": {"ema": 0.9}}, r"step 3 holds no averaged weights, training\.ema is 0\.9; resume with .*ema=0"),
        ({"method": {"name": "hpm"}, "masking": {"name": "difficulty"}}, r"holds no moving average of the network"),
    ],
)
def test_what_cannot_go_on_says_why(half: Path, run_settings: MakeSettings, over: dict[str, Any], message: str) -> None:
    training = {"steps": 6, **over.get("training", {})}
    settings = run_settings(**{**over, "training": training})
    before = {file: file.read_bytes() for file in half.rglob("*") if file.is_file()}
    with pytest.raises(TrainingError, match=message) as caught:
        pretrain(settings, half, stage="pretrain", resume=True, accept_changes=True)
    assert "start anew with --overwrite" in str(caught.value)
    assert {file: file.read_bytes() for file in half.rglob("*") if file.is_file()} == before
    load_checkpoint(half)  # the run that was over still is


@pytest.mark.parametrize("steps", [3, 6])
def test_a_network_that_grew_is_refused_also_when_every_step_is_done(
    tmp_path: Path, run_values: Callable[..., dict[str, Any]], steps: int
) -> None:
    pretrain(build(RunSettings, run_values(training={"steps": 3})), tmp_path / "run", stage="pretrain")
    wider = build(RunSettings, run_values(training={"steps": steps}, method={"decoder_depth": 2}))
    with pytest.raises(TrainingError, match="does not fit"):
        pretrain(wider, tmp_path / "run", stage="pretrain", resume=True, accept_changes=True)


def test_what_is_remembered_of_a_larger_set_is_named_by_its_fingerprint_not_by_its_size() -> None:
    def remembers(images: int, fingerprint: str) -> nn.Module:
        method = nn.Module()
        method.memory = PatchMemory(4)
        method.memory.reserve(images, fingerprint)
        return method

    saved = {f"method.{name}": tensor for name, tensor in remembers(9, "b2" * 32).state_dict().items()}
    state = {"global_step": 3, "state_dict": saved, "optimizer_states": [{"param_groups": []}]}
    settings = TrainingSettings(steps=6)
    with pytest.raises(TrainingError, match=r"fingerprint b2b2b2b2b2b2, these have a1a1a1a1a1a1"):
        refuse_misfit(state, remembers(5, "a1" * 32), settings)
    nothing = nn.Module()
    nothing.memory = PatchMemory(4)  # its masking asks for nothing, so there is nothing to remember
    with pytest.raises(TrainingError, match=r"step 3 does not fit: memory\.rows is 9x4 there and 0x4 here; resume"):
        refuse_misfit(state, nothing, settings)
