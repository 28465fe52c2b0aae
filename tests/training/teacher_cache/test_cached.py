"""Runs with a cached teacher: the same loss as with a live one, which is not run any more; and what is refused."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build, merge
from edgemim.errors import ConfigError, OutputError
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from edgemim.models.teachers import Teacher
from edgemim.preprocess import Preprocess
from edgemim.training import pretrain as module
from edgemim.training.loop.processes import ALONE
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.save import Interrupted
from edgemim.training.settings.run import RunSettings
from edgemim.training.teacher_cache import cached, filling

MakeSettings = Callable[..., RunSettings]
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
FEATURE: dict[str, Any] = {"method": {"name": "feature"}, "augmentation": {"views": 2}}
GUIDED: dict[str, Any] = {
    "method": {"name": "mrmae", **DECODER},
    "masking": {"name": "attention", "mask_ratio": 0.5},
    "augmentation": {"views": 2},
}
CASES: dict[str, dict[str, Any]] = {
    "tokens, in two views, without the student's jitter": merge(
        FEATURE, {"augmentation": {"colour_jitter": 0.4, "jitter_teacher": False}}
    ),
    "the attention that a masking follows": GUIDED,
    "queries, keys and values, without chance": {
        "method": {"name": "tinymim"},
        "augmentation": {"min_scale": 1.0, "max_aspect": 1.0, "flip": False},
    },
    "a summary": {
        "method": {"name": "selfdistill", **DECODER},
        "backbone": {"depth": 4},
        "augmentation": {"views": 1},
    },
}


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own; the folder of what teachers saw."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgemim" / "teachers"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with fresh weights, deeper than the students; its statistics are not theirs."""
    shape = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3}
    torch.manual_seed(0)
    model = build_backbone("vit_tiny_patch16_224", shape)
    contract = Preprocess(size=(16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    info = CheckpointInfo(architecture="vit_tiny_patch16_224", model_args=shape, preprocess=contract)
    out = tmp_path_factory.mktemp("teachers") / "fresh"
    save_checkpoint(out, model, info)
    return out


@pytest.fixture
def settings(
    run_values: Callable[..., dict[str, Any]], teacher: Path, imagefolder: Callable[..., Path]
) -> MakeSettings:
    """`settings(method={...}, ...)`: of a run of three epochs over 24 images, a few of which are held out."""
    folder = imagefolder(classes=0, each=24)

    def make(*, method: dict[str, Any], **over: Any) -> RunSettings:
        given = {
            "data": str(folder),
            "teacher": {"source": str(teacher)},
            "backbone": {"embed_dim": 24, "num_heads": 3},
        }
        return build(RunSettings, {**merge(merge(run_values(), given), over), "method": method})

    return make


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images a teacher was shown, by call."""
    counts: list[int] = []
    forward = Teacher.forward

    def counting(self: Teacher, images: Tensor, *rest: Any, **asked: Any) -> Any:
        counts.append(len(images))
        return forward(self, images, *rest, **asked)

    monkeypatch.setattr(Teacher, "forward", counting)
    return counts


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_loss_is_that_of_a_live_teacher_which_looks_before_training_alone(
    tmp_path: Path, settings: MakeSettings, looks: list[int], case: dict[str, Any]
) -> None:
    live = pretrain(settings(**case), tmp_path / "live", stage="distill")
    looks.clear()
    stored = pretrain(settings(**case, cache_teacher=True), tmp_path / "cached", stage="distill")
    # The teacher saw other images beside these: a sum of a few hundred products is rounded in another order.
    assert stored["loss"] == pytest.approx(live["loss"], rel=1e-4)
    record = load_checkpoint(tmp_path / "cached").artifact.provenance[-1]
    images, views = record["data"]["images"], record["teacher_cache"]["views"]
    drawn = 24 - images if "masking" in case else 0  # pictures show where the teacher's attention lies
    assert sum(looks) == 1 + images * views + drawn  # one to see the shapes


def test_pictures_of_a_guided_mask_are_those_of_a_live_teacher(tmp_path: Path, settings: MakeSettings) -> None:
    still = {**GUIDED, "training": {"base_lr": 0.0}}
    pretrain(settings(**still), tmp_path / "live", stage="distill")
    pretrain(settings(**still, cache_teacher=True), tmp_path / "cached", stage="distill")
    pictures = [p.relative_to(tmp_path / "live") for p in (tmp_path / "live").glob("*/step-*.png")]
    assert pictures
    for picture in pictures:
        assert (tmp_path / "cached" / picture).read_bytes() == (tmp_path / "live" / picture).read_bytes()


def test_a_run_in_bf16_stores_tokens_in_bf16(tmp_path: Path, settings: MakeSettings, stores: Path) -> None:
    short = {**FEATURE, "training": {"precision": "bf16", "workers": 1}}
    live = pretrain(settings(**short), tmp_path / "live", stage="distill")
    stored = pretrain(settings(**short, cache_teacher=True), tmp_path / "cached", stage="distill")
    # bf16 has 8 bits: targets of size 1 are off by up to 0.2 %, either way.
    assert stored["loss"] == pytest.approx(live["loss"], rel=5e-3)
    (index,) = stores.glob("*/index.json")
    assert '"dtype": "bfloat16"' in index.read_text()


def test_a_stopped_run_goes_on_with_what_was_stored(
    tmp_path: Path, settings: MakeSettings, stores: Path, signal_at: Any, looks: list[int], monkeypatch: Any
) -> None:
    run = settings(**FEATURE, cache_teacher=True)
    pretrain(run, tmp_path / "whole", stage="distill")
    looks.clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_pictures", lambda *_: [signal_at(4, signal.SIGINT)])
        with pytest.raises(Interrupted):
            pretrain(run, tmp_path / "parts", stage="distill")
    pretrain(run, tmp_path / "parts", stage="distill", resume=True)
    assert looks == []
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    record = load_checkpoint(tmp_path / "parts").artifact.provenance[-1]
    (folder,) = (p for p in stores.iterdir() if p.is_dir())
    assert record["teacher_cache"]["key"] == folder.name
    assert record["teacher"]["image_size"] == [16, 16]
    assert record["settings"]["cache_teacher"] is True


def test_a_short_run_stores_the_views_that_it_comes_to(
    tmp_path: Path, settings: MakeSettings, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemim.training.teacher_cache import store

    monkeypatch.setattr(store, "_SHARD_BYTES", 1)  # a row in each
    many = {**FEATURE, "augmentation": {"views": 100}}
    short = settings(**many, cache_teacher=True, training={"steps": 2})
    pretrain(short, tmp_path / "short", stage="distill")
    first = sum(looks)
    assert 20 < first <= 25
    looks.clear()
    # A longer run finds the first view, and adds what it needs.
    pretrain(settings(**many, cache_teacher=True, training={"steps": 5}), tmp_path / "long", stage="distill")
    assert sum(looks) <= first


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"method": {"name": "dmae", **DECODER}, "augmentation": {"views": 2}},
            r"^method 'dmae' cannot have a cached teacher: its teacher sees what the mask leaves of an image, which is "
            r"something else in each step; methods that can: .*feature, .*tinymim$",
        ),
        (
            {"method": {"name": "maelite"}, "augmentation": {"views": 2}},
            r"^method 'maelite' cannot have a cached teacher",
        ),
        (
            {"method": {"name": "feature"}},
            r"^a cached teacher needs crops that come again, .* --set augmentation\.views=8, or leave ",
        ),
        (
            {**FEATURE, "training": {"shard_teacher": True}},
            r"^training\.shard_teacher spreads a teacher that runs in every step",
        ),
    ],
    ids=["dmae", "maelite", "new crops", "a spread teacher"],
)
def test_a_teacher_that_would_not_say_the_same_again_is_refused(
    tmp_path: Path, settings: MakeSettings, over: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(settings(**over, cache_teacher=True), tmp_path / "out", stage="distill")
    assert not (tmp_path / "out").exists()


def test_a_method_without_a_teacher_is_refused(tmp_path: Path, run_settings: MakeSettings) -> None:
    with pytest.raises(ConfigError, match=r"^method 'mae' learns without a teacher; leave --cache-teacher out$"):
        pretrain(run_settings(cache_teacher=True), tmp_path / "out", stage="pretrain")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_refused_before_the_run_has_a_folder(
    tmp_path: Path, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRoom:
        free = 0

    monkeypatch.setattr(filling.shutil, "disk_usage", lambda _: NoRoom)
    with pytest.raises(OutputError, match=r"where 0\.0 KiB are free; set XDG_CACHE_HOME to a folder with room, lower"):
        pretrain(settings(**FEATURE, cache_teacher=True), tmp_path / "out", stage="distill")
    assert not (tmp_path / "out").exists()


def test_a_second_run_waits_for_the_one_that_fills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "teachers" / "key"
    with cached.alone(folder, ALONE):
        waiting = threading.Thread(target=lambda: cached.alone(folder, ALONE).__enter__())
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    assert f"another run fills {folder}; waiting for it" in capsys.readouterr().err
