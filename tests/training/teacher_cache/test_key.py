"""A stored view is found again for the same run, and never for another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from edgemim.methods._asked import Asked
from edgemim.models.adapters import adapt
from edgemim.models.build import build_backbone
from edgemim.models.teachers import Teacher, TeacherOrigin
from edgemim.preprocess import Preprocess
from edgemim.training.settings.run import RunSettings
from edgemim.training.teacher_cache.key import facts_of, fingerprint, key_of

ASKED = Asked(blocks=(1,))
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


def teacher(source: str = "runs/teacher", seed: int = 0, **over: Any) -> Teacher:
    torch.manual_seed(seed)
    adapter = adapt(build_backbone("vit_tiny_patch16_224", {**TINY, **over}))
    origin = TeacherOrigin(source=source, architecture="vit", licence="MIT", sha256=None)
    return Teacher(adapter, origin, mean=(0.5,) * 3, std=(0.5,) * 3, student=Preprocess(size=(16, 16)))


@pytest.fixture
def key(run_settings: Callable[..., RunSettings], contract: Preprocess) -> Callable[..., str]:
    """`key(seed=1)`: of a run, some things of which are others."""

    def make(
        taught: Teacher | None = None,
        asked: Asked = ASKED,
        contract: Preprocess = contract,
        data: str = "d",
        images: int = 9,
        precision: str = "32-true",
        **over: Any,
    ) -> str:
        settings = run_settings(**over)
        facts = facts_of(taught or teacher(), asked, settings, contract, data=data, images=images, precision=precision)
        return key_of(facts)

    return make


def test_the_same_run_has_the_same_key_wherever_its_teacher_lies_and_however_long_it_is(
    key: Callable[..., str],
) -> None:
    assert key() == key()
    assert key(teacher("elsewhere")) == key()
    assert key(training={"steps": 99}, backbone={"depth": 1}) == key()


@pytest.mark.parametrize(
    "other",
    [
        {"taught": teacher(seed=1)},
        {"taught": teacher(patch_size=8)},
        {"asked": Asked(blocks=(0,))},
        {"asked": Asked(blocks=(1,), attention=True)},
        {"contract": Preprocess(size=(16, 16), mean=(0.4, 0.4, 0.4))},
        {"data": "e"},
        {"images": 10},
        {"precision": "bf16-mixed"},
        {"seed": 1},
        {"augmentation": {"views": 2}},
        {"augmentation": {"min_scale": 0.5}},
    ],
    ids=lambda other: " ".join(other),
)
def test_whatever_changes_what_a_teacher_says_changes_the_key(key: Callable[..., str], other: dict[str, Any]) -> None:
    assert key(**other) != key()


def test_a_fingerprint_sees_every_tensor_the_structure_and_the_statistics() -> None:
    same, other = teacher(), teacher()
    assert fingerprint(same) == fingerprint(other)
    with torch.no_grad():
        next(reversed(list(other.model.parameters())))[0] += 1e-6
    assert fingerprint(other) != fingerprint(same)
    assert fingerprint(teacher(qkv_bias=True, global_pool="avg")) != fingerprint(teacher(qkv_bias=True))
    moved = teacher()
    moved.shift += 0.1
    assert fingerprint(moved) != fingerprint(same)
