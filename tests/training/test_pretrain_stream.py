"""`pretrain` on a stream, end to end: a few steps on tiny shards."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemim.errors import DataError, TrainingError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training import pretrain as module
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.save import Interrupted
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(params=["parquet", "tar"])
def shards(request: pytest.FixtureRequest, tmp_path: Path, write_parquet: Any, write_tar: Any) -> Path:
    """Three training shards of 10 images and a test shard of 12."""
    write = write_parquet if request.param == "parquet" else write_tar
    for i in range(3):
        write(tmp_path / "shards" / f"train-{i}.{request.param}", count=10, seed=10 * i)
    write(tmp_path / "shards" / f"test.{request.param}", count=12, seed=100)
    return tmp_path / "shards"


def test_a_stream_is_trained_on_and_its_test_shards_are_probed(
    tmp_path: Path, shards: Path, run_settings: MakeSettings
) -> None:
    settings = run_settings(data=f"stream:{shards}", evaluation={"probe": "knn"})
    result = pretrain(settings, tmp_path / "out", stage="pretrain")
    assert result["steps"] == 6
    assert 0 <= result["knn_top1"] <= 1
    (record,) = load_checkpoint(tmp_path / "out").artifact.provenance
    assert record["data"]["spec"] == f"stream:{shards}"
    assert record["data"]["images"] == 30
    assert len(record["data"]["fingerprint"]) == 64
    assert record["settings"]["stream"] == {"window_mb": 512, "lanes": 4}
    assert list((tmp_path / "out" / "reconstructions").iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_in_an_epoch_ends_with_the_same_bytes(
    tmp_path: Path,
    shards: Path,
    run_settings: MakeSettings,
    signal_at: Any,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = run_settings(data=f"stream:{shards}", training={"workers": workers})
    pretrain(run_settings(data=f"stream:{shards}"), tmp_path / "whole", stage="pretrain")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pictures", lambda *_: [signal_at(2, signal.SIGINT)])
        with pytest.raises(Interrupted):
            pretrain(settings, tmp_path / "parts", stage="pretrain")
    assert pretrain(settings, tmp_path / "parts", stage="pretrain", resume=True)["steps"] == 6
    for name in ("model.safetensors", "predictor.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_shard_that_disappears_stops_the_run_which_goes_on_when_it_is_back(
    tmp_path: Path, shards: Path, run_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = run_settings(data=f"stream:{shards}", training={"steps": 12})
    shard = next(shards.glob("train-1.*"))
    pretrain(settings, tmp_path / "whole", stage="pretrain")

    real = module.fit
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", lambda *a, **k: (shutil.move(shard, tmp_path / "away"), real(*a, **k))[1])
        with pytest.raises(DataError, match=rf"{shard.name} cannot be read: it does not exist; restore it, and go on"):
            pretrain(settings, tmp_path / "out", stage="pretrain")
    shutil.move(tmp_path / "away", shard)
    pretrain(settings, tmp_path / "out", stage="pretrain", resume=True)
    model = "model.safetensors"
    assert (tmp_path / "whole" / model).read_bytes() == (tmp_path / "out" / model).read_bytes()


def test_a_stream_with_other_shards_is_not_resumed(
    tmp_path: Path, shards: Path, run_settings: MakeSettings, signal_at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = run_settings(data=f"stream:{shards}")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pictures", lambda *_: [signal_at(2, signal.SIGINT)])
        with pytest.raises(Interrupted):
            pretrain(settings, tmp_path / "out", stage="pretrain")
    next(shards.glob("train-2.*")).unlink()
    with pytest.raises(TrainingError, match="data_fingerprint was"):
        pretrain(settings, tmp_path / "out", stage="pretrain", resume=True)
    with pytest.raises(TrainingError, match=r"stream\.lanes was 4, is 2"):
        pretrain(run_settings(data=f"stream:{shards}", stream={"lanes": 2}), tmp_path / "out", stage="x", resume=True)


def test_a_batch_larger_than_the_stream_is_refused(tmp_path: Path, shards: Path, run_settings: MakeSettings) -> None:
    settings = run_settings(data=f"stream:{shards}", training={"batch_size": 64})
    with pytest.raises(DataError, match=r"has 30 images, one batch takes 64"):
        pretrain(settings, tmp_path / "out", stage="pretrain")
    assert not (tmp_path / "out").exists()
