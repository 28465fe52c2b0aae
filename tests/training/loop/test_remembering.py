"""Looking at all images on the way of a run: what is shown, what is remembered, when, and what of it is saved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from edgemim.config import build
from edgemim.errors import DataError, TrainingError
from edgemim.masking.throwing import ThrowingMasking
from edgemim.methods._base import Method
from edgemim.methods.amt import AMT, AMTSettings
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.preprocess import Pixels, Preprocess
from edgemim.training.feed.images import AugmentedImages
from edgemim.training.feed.unreadable import Readable, Unreadable, UnreadableImageError
from edgemim.training.loop.fit import Fitted
from edgemim.training.loop.launch import Launch
from edgemim.training.loop.module import TrainingModule
from edgemim.training.loop.processes import ALONE, Team
from edgemim.training.loop.remembering import RefreshMemory, WholeImages, remembering
from edgemim.training.pretrain import pretrain
from edgemim.training.saving.save import Interrupted
from edgemim.training.saving.state import VerifiedCheckpointIO, newest_state
from edgemim.training.settings.run import RunSettings

STEPS = 10  # of 8 of 24 images: an epoch is 3 steps
OURS, OTHERS = "a1" * 32, "b2" * 32
Train = Callable[..., Fitted]
MakeSettings = Callable[..., RunSettings]
MakeAMT = Callable[..., AMT]
Augmented = Callable[..., AugmentedImages]


@pytest.fixture
def settings(run_settings: MakeSettings) -> RunSettings:
    return run_settings(training={"steps": STEPS})


@pytest.fixture
def make_amt(run_values: Callable[..., dict[str, Any]]) -> MakeAMT:
    """`make_amt(seed=0, fingerprint=..., **settings)`: tiny, looks at all 24 images after each epoch."""

    def make(seed: int = 0, fingerprint: str = OURS, **settings: Any) -> AMT:
        torch.manual_seed(seed)
        values = run_values()
        backbone, own = dict(values["backbone"]), dict(values["method"]) | {"first_epoch": 1.0, "refresh_epochs": 1.0}
        adapter = adapt(build_backbone(backbone.pop("name"), backbone))
        adapter.initialise()
        del own["name"]
        method = AMT(adapter, ThrowingMasking(), build(AMTSettings, own | settings))
        method.reserve(24, fingerprint)
        return method

    return make


def weights(method: Method) -> bytes:
    return save({k: v.contiguous() for k, v in method.state_dict().items()})


def module_of(method: AMT, settings: RunSettings, contract: Preprocess, team: Team = ALONE) -> TrainingModule:
    return TrainingModule(method, settings.training, contract, steps=STEPS, seed=0, images=24, team=team)


def refreshed(method: AMT, images: AugmentedImages, settings: RunSettings, contract: Preprocess, **over: Any) -> Tensor:
    RefreshMemory(images).refresh(module_of(method, settings, contract, **over), nullcontext())
    return method.memory.rows.float()


def test_images_are_shown_whole(augmented: Augmented) -> None:
    images = augmented(6)
    raw = WholeImages(images).__getitems__([(0, 3), (0, 0)])
    assert raw["index"].tolist() == [3, 0]
    assert raw["images"].shape == (2, 3, 16, 16)
    assert raw["images"].dtype == torch.uint8
    # The images with an even number have the model's size, the others 20 x 24 pixels.
    pixels = images.decoded.get(0)
    assert torch.equal(raw["images"][1], torch.from_numpy(pixels).permute(2, 0, 1))
    resized = np.asarray(Image.fromarray(images.decoded.get(3)).resize((16, 16), Image.Resampling.BICUBIC))
    # Pillow's filter, rounded once more between its two passes.
    difference = raw["images"][0].permute(1, 2, 0).int() - torch.from_numpy(resized.copy()).int()
    assert difference.abs().max() <= 1


def test_what_cannot_be_read_leaves_the_others_in_their_rows(
    make_amt: MakeAMT, augmented: Augmented, settings: RunSettings, contract: Preprocess
) -> None:
    whole = augmented(24)

    class Partly:
        def __len__(self) -> int:
            return 24

        def get(self, i: int) -> Pixels:
            if i in (5, 23):
                raise UnreadableImageError(str(i), f"{i} is broken")
            return whole.decoded.get(i)

    def images(share: float) -> AugmentedImages:
        unreadable = Unreadable(name="partly", images=24, share=share)
        return AugmentedImages(Readable(Partly(), unreadable), None, whole.augmentation)

    expected = refreshed(make_amt(), whole, settings, contract)
    found = refreshed(make_amt(), images(0.1), settings, contract)
    readable = [i for i in range(24) if i not in (5, 23)]
    assert torch.equal(found[readable], expected[readable])
    with pytest.raises(DataError, match="2 of the 24 images of partly cannot be read"):
        refreshed(make_amt(), images(0.05), settings, contract)


def test_a_row_is_what_the_model_sees_in_the_whole_image(
    make_amt: MakeAMT, augmented: Augmented, settings: RunSettings, contract: Preprocess
) -> None:
    method = make_amt()
    rows = refreshed(method, augmented(24), settings, contract)
    assert method.training
    assert method.backbone.training
    assert all(p.grad is None for p in method.parameters())
    module = module_of(method, settings, contract)
    raw = WholeImages(augmented(24)).__getitems__([(0, index) for index in range(24)])
    seen = method.eval().look(module.batch(raw).images)
    # Kept to 11 bits.
    torch.testing.assert_close(rows, seen, rtol=1e-3, atol=1e-4)
    assert len({tuple(row) for row in rows.tolist()}) == 24


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_read_the_same_images(
    make_amt: MakeAMT, augmented: Augmented, run_settings: MakeSettings, contract: Preprocess
) -> None:
    alone, helped = (run_settings(training={"workers": workers}) for workers in (0, 2))
    expected = refreshed(make_amt(), augmented(24), alone, contract)
    assert torch.equal(refreshed(make_amt(), augmented(24), helped, contract), expected)


def test_each_process_looks_at_its_share_and_all_know_the_sum(
    make_amt: MakeAMT,
    augmented: Augmented,
    settings: RunSettings,
    contract: Preprocess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = refreshed(make_amt(), augmented(24), settings, contract)
    shared: list[Tensor] = []
    monkeypatch.setattr(dist, "all_reduce", lambda rows: shared.append(rows))
    for rank in range(3):
        method, team = make_amt(), Team(launch=Launch(rank=rank, count=3))
        mine = refreshed(method, augmented(24), settings, contract, team=team)
        assert shared[-1] is method.memory.rows
        assert (mine != 0).any(dim=1).nonzero().flatten().tolist() == list(range(rank, 24, 3))
    assert len(shared) == 3
    # Other images beside one in a batch: other roundings, and then those of half precision.
    torch.testing.assert_close(torch.stack(shared).float().sum(dim=0), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "own", "wanted"),
    [
        (24, {}, [3, 6, 9]),
        (24, {"refresh_epochs": 2.0}, [6]),  # 2 epochs of 3 steps; the next look would come after the run
        (24, {"first_epoch": 2.0}, [6, 9]),
        (20, {}, [3, 5, 8]),  # 20 images are two and a half steps; step 10 ends the fourth epoch, and the run
        (24, {"first_epoch": 9.0}, []),
    ],
)
def test_it_looks_when_an_epoch_is_over_and_not_when_the_run_is(
    train: Train,
    make_amt: MakeAMT,
    settings: RunSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    images: int,
    own: dict[str, float],
    wanted: list[int],
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(RefreshMemory, "refresh", lambda self, module, _: steps.append(module.global_step))
    train(make_amt(**own), settings, tmp_path, images=images)
    assert steps == wanted
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("looking at all")]
    assert len(said) == len(wanted)
    if (images, own) == (24, {}):
        assert said[0] == "looking at all 24 images (epoch 1)"


def test_a_step_of_several_passes_is_one_step(
    train: Train, make_amt: MakeAMT, run_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(RefreshMemory, "refresh", lambda self, module, _: steps.append(module.global_step))
    train(make_amt(), run_settings(training={"steps": 7, "accumulate": 4}), tmp_path)
    assert steps == [3, 6]


def test_what_is_saved_after_a_look_holds_it(
    train: Train, make_amt: MakeAMT, settings: RunSettings, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(make_amt(), settings, tmp_path, stop_at=3)
    found = newest_state(tmp_path)
    assert found is not None
    rows = VerifiedCheckpointIO().load_checkpoint(found[0])["state_dict"]["method.memory.rows"]
    assert rows.dtype == torch.float16
    assert rows.shape == (24, 16)
    assert (rows != 1).any(dim=1).all()


def test_a_run_that_is_made_longer_makes_up_for_the_look_that_its_last_step_left_out(
    train: Train, make_amt: MakeAMT, run_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(RefreshMemory, "refresh", lambda self, module, _: steps.append(module.global_step))
    train(make_amt(), run_settings(training={"steps": 6}), tmp_path)
    assert steps == [3]
    train(make_amt(), run_settings(training={"steps": 10}), tmp_path, resume=True)
    assert steps == [3, 6, 9]


# Step 3 is the last of an epoch, after which all images are looked at; 9 too.
@pytest.mark.parametrize(
    ("images", "stops"), [(24, [2]), (24, [3]), (24, [4]), (24, [3, 5, 9]), (20, [3]), (20, [4, 8])]
)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    train: Train, make_amt: MakeAMT, settings: RunSettings, tmp_path: Path, images: int, stops: list[int]
) -> None:
    whole = make_amt()
    train(whole, settings, tmp_path / "whole", images=images)
    for done, stop in enumerate(stops):
        torch.rand(done + 1)
        with pytest.raises(Interrupted):
            train(make_amt(seed=done), settings, tmp_path / "run", images=images, stop_at=stop, resume=done > 0)
    parts = make_amt(seed=99)
    train(parts, settings, tmp_path / "run", images=images, resume=True)
    assert weights(parts) == weights(whole)


def test_what_is_remembered_matters_to_these_tests(
    train: Train, make_amt: MakeAMT, settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, blind = make_amt(), make_amt()
    train(looks, settings, tmp_path / "looks")
    monkeypatch.setattr(RefreshMemory, "refresh", lambda *_: None)
    train(blind, settings, tmp_path / "blind")
    first, second = looks.backbone.state_dict(), blind.backbone.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop", [3, STEPS])
def test_the_memory_of_other_images_is_refused_also_when_every_step_is_done(
    train: Train, make_amt: MakeAMT, settings: RunSettings, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Interrupted):
        train(make_amt(), settings, tmp_path, stop_at=stop)
    with pytest.raises(TrainingError, match=r"^what is remembered belongs to other images or another transform"):
        train(make_amt(fingerprint=OTHERS), settings, tmp_path, resume=True)


def test_another_transform_is_refused_whatever_is_accepted(tmp_path: Path, run_settings: MakeSettings) -> None:
    own = {"method": {"name": "amt", "first_epoch": 0.01}, "masking": {"name": "throwing"}}
    pretrain(run_settings(**own, training={"steps": 2}), tmp_path / "run", stage="pretrain")
    changed = run_settings(**own, training={"steps": 4}, preprocess={"crop_ratio": 1.0})
    with pytest.raises(TrainingError, match=r"^what is remembered belongs to other images or another transform"):
        pretrain(changed, tmp_path / "run", stage="pretrain", resume=True, accept_changes=True)


def test_a_method_that_remembers_nothing_has_no_such_callback(
    make_mae: Callable[..., Method], make_amt: MakeAMT, augmented: Augmented
) -> None:
    assert remembering(make_mae(), augmented(4)) == []
    assert remembering(torch.nn.Linear(1, 1), augmented(4)) == []
    assert len(remembering(make_amt(), augmented(4))) == 1
