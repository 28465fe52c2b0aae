"""Bad input of `pretrain` and `distill`: one line, before anything is written or lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.config import build, merge
from edgemim.errors import ArtifactError, ConfigError, DataError, EdgemimError, OutputError
from edgemim.models.checkpoint import load_checkpoint
from edgemim.training.pretrain import pretrain
from edgemim.training.settings.run import RunSettings

MakeSettings = Callable[..., RunSettings]
DMAE = {"name": "dmae", "sum_channels": True}

BAD: dict[str, tuple[dict[str, Any], type[EdgemimError], str]] = {
    "no backbone": ({"backbone": {"name": ""}}, ConfigError, "no backbone was named"),
    "unknown backbone": ({"backbone": {"name": "vit_tinny"}}, ConfigError, "unknown backbone 'vit_tinny'"),
    "a convnet": ({"backbone": None}, ConfigError, r"needs .* 'visible'; ResNet can do full, blocks, .*feature, logit"),
    "unknown method": ({"method": {"name": "maee"}}, ConfigError, "unknown method 'maee'; did you mean 'mae'"),
    "unknown setting": ({"method": {"norm_pixels": True}}, ConfigError, r"unknown setting 'method\.norm_pixels'"),
    "unknown masking": ({"masking": {"name": "blocky"}}, ConfigError, "unknown masking 'blocky'"),
    "nothing visible": ({"masking": {"mask_ratio": 0.99}}, ConfigError, "leaves 0 of 16 patches visible"),
    "odd size": ({"backbone": {"img_size": 18}}, ConfigError, "no whole number of 4x4 patches"),
    "no heads": ({"method": {"decoder_heads": 0}}, ConfigError, "heads 0 must be at least 1"),
    "a teacher for nothing": ({"teacher": {"source": "x"}}, ConfigError, "'mae' learns without a teacher; leave"),
    "two sizes": ({"preprocess": {"size": 32}}, ConfigError, r"preprocess\.size 32 is not the 16x16 of the backbone"),
    "unknown schedule": ({"training": {"schedule": "cosin"}}, ConfigError, r"training\.schedule"),
    "no teacher": ({"method": DMAE}, ConfigError, "learns from a teacher; give one with --teacher"),
    "missing data": ({"data": "no/such/folder"}, DataError, "no/such/folder"),
    "too few images": ({"training": {"batch_size": 5000}}, DataError, "set --batch-size to at most 1437"),
    "missing init": ({"init": "no/such/checkpoint"}, ArtifactError, "does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_touches_nothing(tmp_path: Path, run_values: Any, teacher: Path, case: str) -> None:
    over, error, message = BAD[case]
    values = merge(run_values(), over)
    if over.get("backbone", {}) is None:
        values["backbone"] = {"name": "resnet10t"}
    # An earlier result is in the way and may be replaced: not by a run that cannot start.
    out = tmp_path / "out"
    out.mkdir()
    for name in ("manifest.json", "model.safetensors", "config.json", "predictor.safetensors"):
        (out / name).write_bytes((teacher / name).read_bytes())
    with pytest.raises(error, match=message) as caught:
        pretrain(build(RunSettings, values), out, stage="pretrain", overwrite=True)
    assert "\n" not in str(caught.value)
    load_checkpoint(out)
    with pytest.raises(error, match=message):
        pretrain(build(RunSettings, values), tmp_path / "new", stage="pretrain")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_masking_for_a_method_that_hides_nothing_is_refused(tmp_path: Path, run_values: Any, teacher: Path) -> None:
    values = {**run_values(), "method": {"name": "feature"}, "masking": {"name": "random"}}
    settings = build(RunSettings, {**values, "teacher": {"source": str(teacher)}})
    with pytest.raises(ConfigError, match="method 'feature' hides nothing; leave the masking settings out"):
        pretrain(settings, tmp_path / "out", stage="distill")
    assert not (tmp_path / "out").exists()


def test_a_broken_test_image_is_found_before_the_run(
    tmp_path: Path, run_settings: MakeSettings, imagefolder: Callable[..., Path]
) -> None:
    data = imagefolder("data/train", classes=2, each=6)
    imagefolder("data/test", classes=2, each=12)
    (data.parent / "test" / "class1" / "11.png").write_bytes(b"not an image")
    settings = run_settings(data=str(data.parent), evaluation={"probe": "knn"})
    with pytest.raises(DataError, match=r"class1.11\.png"):
        pretrain(settings, tmp_path / "out", stage="pretrain")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused(tmp_path: Path, run_settings: MakeSettings, teacher: Path) -> None:
    with pytest.raises(OutputError, match="--overwrite"):
        pretrain(run_settings(), teacher, stage="pretrain")
    load_checkpoint(teacher)


def test_images_of_mixed_modes_and_sizes_are_fine(tmp_path: Path, run_settings: MakeSettings) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (mode, size) in enumerate([("L", (9, 40)), ("RGBA", (50, 7)), ("P", (16, 16)), ("CMYK", (33, 20))] * 4):
        pixels = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
        pixels.save(folder / f"{i}.{'tif' if mode == 'CMYK' else 'png'}")
    result = pretrain(run_settings(data=str(folder)), tmp_path / "out", stage="pretrain")
    assert result["steps"] == 6
