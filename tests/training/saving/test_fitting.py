"""A saved state of another network, or another optimiser, is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemim.config import build
from edgemim.errors import TrainingError
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings

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
    ],
)
def test_what_cannot_go_on_says_why(half: Path, run_settings: MakeSettings, over: dict[str, Any], message: str) -> None:
    training = {"steps": 6, **over.get("training", {})}
    settings = run_settings(**{**over, "training": training})
    with pytest.raises(TrainingError, match=message) as caught:
        pretrain(settings, half, stage="pretrain", resume=True, accept_changes=True)
    assert "start anew with --overwrite" in str(caught.value)


@pytest.mark.parametrize("steps", [3, 6])
def test_a_network_that_grew_is_refused_also_when_every_step_is_done(
    tmp_path: Path, run_values: Callable[..., dict[str, Any]], steps: int
) -> None:
    pretrain(build(RunSettings, run_values(training={"steps": 3})), tmp_path / "run", stage="pretrain")
    wider = build(RunSettings, run_values(training={"steps": steps}, method={"decoder_depth": 2}))
    with pytest.raises(TrainingError, match="does not fit"):
        pretrain(wider, tmp_path / "run", stage="pretrain", resume=True, accept_changes=True)
