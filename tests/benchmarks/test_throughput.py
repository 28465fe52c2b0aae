"""The parts of the throughput benchmark: the released step beside ours, and what is made of the times."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from _parts import kernel_shares as shares
from _parts.loss_curve import COMPILED, EAGER, OTHER_MASKS, difference, loss_curves
from _parts.official import Official, load_checkout, take_weights
from _parts.trainee import PARTS, Trainee, flops_of_a_step, parts_ms, seconds_in_turn
from _parts.training_cases import CASES, Edgemim, make_images, make_method
from torch import Tensor, nn

from edgemim.models.mask_plan import MaskPlan
from edgemim.training.settings.training import TrainingSettings

CPU = torch.device("cpu")
SMOKE = CASES["smoke-mae"]


@pytest.fixture(scope="module")
def fake_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = Path(__file__).with_name("fake_mae_checkout.py")
    spec = importlib.util.spec_from_file_location("fake_mae_checkout", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_fake_checkout(tmp_path_factory.mktemp("checkouts") / "mae")
    return folder


def released(checkout: Path, fused: bool = False) -> Official:
    torch.manual_seed(3)
    return Official(checkout, SMOKE, device=CPU, precision="fp32", fused=fused, lr=1e-3)


def ours(compiles: bool = False) -> Edgemim:
    method = make_method(SMOKE)
    return Edgemim(method, TrainingSettings(steps=5), device=CPU, precision="fp32", compiles=compiles)


class FakeTrainee(Trainee):
    """One product of 4 x 8 by 8 x 2, and a list of what was called."""

    device = CPU

    def __init__(self, called: list[str], name: str) -> None:
        self.layer = nn.Linear(8, 2, bias=False)
        self.called, self.name = called, name

    def forward(self, images: Tensor) -> Tensor:
        self.called.append(self.name)
        return self.layer(images).sum()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> None:
        self.layer.zero_grad()

    def forget(self) -> None:
        self.layer.zero_grad()


def test_a_checkout_is_mended_and_leaves_nothing_behind(fake_checkout: Path) -> None:
    before, path = set(sys.modules), list(sys.path)
    module = load_checkout(fake_checkout, "models_mae")
    assert sys.path == path
    assert not {"util", "util.pos_embed", "models_mae"} & (set(sys.modules) - before)
    table = module.get_2d_sincos_pos_embed(8, 2, cls_token=True)
    assert table.shape == (5, 8)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no models_mae\.py; give --reference"):
        load_checkout(tmp_path, "models_mae")


def test_attention_is_fused_only_where_that_is_asked_for(fake_checkout: Path) -> None:
    for fused in (False, True):
        model = released(fake_checkout, fused).model
        assert {m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")} == {fused}


def test_with_the_same_weights_and_masks_the_loss_is_the_same(fake_checkout: Path) -> None:
    other, own = released(fake_checkout), ours()
    take_weights(own.method, other)
    images = make_images(4, SMOKE, CPU)
    torch.manual_seed(1)
    expected = other.forward(images)
    torch.manual_seed(1)
    noise = torch.rand(4, 16)
    own.plan = MaskPlan.from_keep_ids(noise.argsort(dim=1)[:, :4], (4, 4))
    # float32, some thousand roundings of 6e-8 each.
    torch.testing.assert_close(own.forward(images), expected, rtol=1e-5, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_curves_of_the_same_training_lie_on_each_other(fake_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemim.training.loop import compilation

    monkeypatch.setattr(compilation, "_FORM", {"dynamic": False, "backend": "eager"})
    monkeypatch.setattr(compilation, "compiler_refusal", lambda device: None)
    torch._dynamo.reset()
    found = loss_curves(SMOKE, fake_checkout, device=CPU, precision="fp32", batch_size=8, steps=12, data=None)
    apart = found["relative_difference"]
    assert found["images"] == "generated"
    assert len(found["curves"][EAGER]) == 12
    # Twelve updates carry rounding on; two seeds differ by what a batch's masks do to its loss.
    assert apart[EAGER]["most"] < 1e-3
    assert apart[COMPILED]["most"] < 1e-3
    assert apart[OTHER_MASKS]["mean"] > 10 * apart[EAGER]["mean"]


def test_the_difference_of_two_curves_by_hand() -> None:
    # |1.1 - 1| / 1, |1.8 - 2| / 2, |4 - 4| / 4; the last tenth is one step.
    assert difference([1.1, 1.8, 4.0], [1.0, 2.0, 4.0]) == pytest.approx({"mean": 0.2 / 3, "most": 0.1, "end": 0.0})


def test_trainees_take_turns_of_some_steps() -> None:
    called: list[str] = []
    images = torch.randn(4, 8)
    taken = seconds_in_turn(
        {name: FakeTrainee(called, name) for name in "ab"}, {"a": images, "b": images}, rounds=2, steps=3
    )
    assert "".join(called) == "aaaabbbb" * 2  # one more than the three that are timed
    assert [len(seconds) for seconds in taken.values()] == [2, 2]


def test_the_parts_of_a_step_are_timed_apart() -> None:
    assert list(parts_ms(FakeTrainee([], "a"), torch.randn(4, 8), steps=2)) == list(PARTS)


def test_operations_are_counted_in_both_directions() -> None:
    images = torch.randn(4, 8)
    # 2 * 4 * 8 * 2 forward, and as many for the gradient of the weights; the images need none.
    assert flops_of_a_step(FakeTrainee([], "a"), images) == 2 * 2 * 4 * 8 * 2


def test_our_step_leaves_out_what_the_released_one_computes(fake_checkout: Path) -> None:
    images = make_images(8, SMOKE, CPU)
    own, other = (flops_of_a_step(t, images) for t in (ours(), released(fake_checkout, fused=True)))
    assert 0.6 * other < own < 0.95 * other


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("nvjet_hsh_128x256_64x4", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention, backward"),
        ("void pytorch_flash::flash_fwd_kernel", "attention, forward"),
        ("aten::_softmax", "attention, forward"),
        ("aten::gelu_backward", "GELU"),
        ("aten::native_layer_norm_backward", "LayerNorm"),
        ("aten::_fused_adamw_", "optimiser"),
        ("aten::add_", "copies, sums and products by element"),
        ("triton_poi_fused_add_gelu", "fused by the compiler"),
        ("aten::randperm", shares.OTHERS),
    ],
)
def test_an_operation_is_known_by_its_name(operation: str, kind: str) -> None:
    assert shares.kind_of(operation) == kind


def test_the_shares_of_a_step_add_up() -> None:
    found = shares.kernel_shares(ours(), make_images(4, SMOKE, CPU))
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    assert {"matrix products", "attention, forward", "attention, backward", "optimiser"} <= set(found)


def test_a_table_shows_medians_targets_and_what_is_missing() -> None:
    from training_tables import speedups, throughput

    contender: dict[str, Any] = {
        "batch_size": 32,
        "images_per_s": 6.25,
        "images_per_s_range": [6.0, 6.5],
        "utilisation": 0.61,
        "parts_ms": {"forward": 1800.4, "backward": 3200.0, "update": 20.0},
        "peak_mib": 4000.0,
    }
    ratios = {"edgemim": [1.15, 1.1, 1.2]}
    kept: dict[str, Any] = {
        "rows": [
            {
                "case": "MAE",
                "precision": "fp32",
                "matrix_tflops": 0.12,
                "command": "python x",
                "commit": "0123456789abcdef",
                "rounds": 5,
                "steps_per_round": 2,
                "contenders": {"edgemim": contender},
                "speedups": {"released": {"ratios": ratios, "target": 1.12, "met": True}},
            }
        ],
        "threads": 2,
        "device": {"cpu": "a CPU", "gpu": None},
    }
    assert "| MAE | fp32 | edgemim | 32 | 6.25 (6 to 6.5) | 1,800 + 3,200 + 20 | 61 % of 0.12 | 4,000 |" in throughput(
        kept
    )
    assert "| MAE | fp32 | released | 1.15x (1.10 to 1.20) | - | 1.12x: met |" in speedups(kept)
