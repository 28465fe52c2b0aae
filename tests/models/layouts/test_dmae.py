"""Files of DMAE: those of MAE with a projector for each pair of blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.config import build
from edgemim.errors import CheckpointError
from edgemim.masking.random import RandomMasking
from edgemim.methods import METHODS
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import Checkpoint
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import IMAGENET_MEAN, IMAGENET_STD

State = dict[str, Tensor]
Bring = Callable[..., Checkpoint]
TINY = {"name": "vit_tiny_patch16_224", "num_heads": 2}
# The authors' mode, our kind, and our module of each of theirs.
KINDS = [
    ("fc-1layer", "linear", {"": ""}),
    ("mlp-1layer", "mlp", {"fc1.": "0.", "fc2.": "2."}),
    ("mlp-2layer", "mlp2", {"0.fc1.": "0.", "0.fc2.": "2.", "1.fc1.": "3.", "1.fc2.": "5."}),
]


@pytest.mark.parametrize(("mode", "kind", "modules"), KINDS)
def test_each_kind_of_projector_gets_our_names(
    make_dmae: Callable[[str], State], bring: Bring, mode: str, kind: str, modules: dict[str, str]
) -> None:
    state = make_dmae(mode)
    checkpoint = bring(state, "dmae", backbone=TINY)
    found = {k: v for k, v in checkpoint.predictor().items() if k.startswith("projectors.")}
    renamed = {
        f"projectors.{pair}.{ours}{what}": f"aligned_feature_projection_heads.{pair}.{theirs}{what}"
        for pair in (0, 1)
        for theirs, ours in modules.items()
        for what in ("weight", "bias")
    }
    assert set(found) == set(renamed)
    assert all(torch.equal(found[ours], state[theirs]) for ours, theirs in renamed.items())
    assert checkpoint.artifact.provenance[-1]["method"]["projector"] == kind


@pytest.mark.parametrize(("mode", "kind"), [(mode, kind) for mode, kind, _ in KINDS])
def test_the_method_takes_up_decoder_and_projectors(
    make_dmae: Callable[[str], State], bring: Bring, mode: str, kind: str
) -> None:
    checkpoint = bring(make_dmae(mode), "dmae", backbone=TINY)
    settings = {
        **checkpoint.artifact.provenance[-1]["method"],
        "student_blocks": [0, 1],
        "teacher_blocks": [0, 1],
    }
    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    origin = TeacherOrigin(source="test", architecture="vit", licence="MIT", sha256=None)
    teacher = Teacher(
        adapt(build_backbone("vit_tiny_patch16_224", shape)),
        origin,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        student=checkpoint.preprocess,
    )
    cls = METHODS.get("dmae")
    method = cls(adapt(checkpoint.model), RandomMasking(), build(cls.Settings, settings, "method"), teacher)
    assert method.load_predictor(checkpoint.predictor()) == sorted(method.predictor_state())


@pytest.mark.parametrize("mode", [mode for mode, _, _ in KINDS])
def test_there_and_back_gives_the_same_file(
    make_dmae: Callable[[str], State], bring: Bring, take_back: Any, assert_same: Any, mode: str
) -> None:
    state = make_dmae(mode)
    assert_same(take_back(bring(state, "dmae", backbone=TINY), "dmae"), state)


def test_a_file_without_projectors_is_one_of_mae(mae: State, bring: Bring, take_back: Any, assert_same: Any) -> None:
    checkpoint = bring(mae, "dmae", backbone=TINY)
    assert_same(take_back(checkpoint, "dmae"), mae)
    assert_same(take_back(checkpoint, "mae"), mae)


def test_mae_has_no_place_for_projectors(
    make_dmae: Callable[[str], State], mae: State, bring: Bring, take_back: Any, assert_same: Any
) -> None:
    assert_same(take_back(bring(make_dmae("fc-1layer"), "dmae", backbone=TINY), "mae"), mae)


HEAD = "aligned_feature_projection_heads"


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ({f"{HEAD}.1.fc3.weight": torch.ones(1)}, "projectors that are none of linear, mlp, mlp2: aligned_feature"),
        ({f"{HEAD}.3.weight": torch.ones(24, 16), f"{HEAD}.3.bias": torch.ones(24)}, "none of linear, mlp, mlp2"),
        (
            {f"{HEAD}.1.weight": torch.ones(24, 8)},
            r"heads\.1\.weight \[24, 8\] and its bias \[24\] do not fit .* 16 channels",
        ),
        ({f"{HEAD}.0.bias": torch.ones(7)}, r"do not fit"),
        ({f"{HEAD}.0.weight": torch.ones(3)}, r"do not fit"),
    ],
)
def test_projectors_that_are_none_are_refused(
    make_dmae: Callable[[str], State], bring: Bring, add: State, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        bring(make_dmae("fc-1layer") | add, "dmae", backbone=TINY)
    assert "\n" not in str(caught.value)
