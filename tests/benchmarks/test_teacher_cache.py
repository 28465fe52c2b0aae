"""The benchmark of cached teachers at tiny size: both steps have the same loss, and the table shows what it found."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import teacher_cache
import teacher_cache_tables
import torch
from teacher_cache import Case, measure

SHAPE = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY: dict[str, Any] = {
    "teacher": "vit_tiny_patch16_224",
    "teacher_shape": SHAPE,
    "student_shape": SHAPE,
    "size": 16,
    "batch_size": 4,
}


@pytest.mark.parametrize("method", sorted({case.method for case in teacher_cache.CASES.values()}))
def test_a_case_is_measured_and_shown(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(teacher_cache, "BF16", False)
    extra = {"student_shape": SHAPE | {"num_heads": 1}} if method == "tinymim" else {}
    row = measure(Case(method=method, **{**TINY, **extra}), Namespace(batch_size=0, rounds=2, images=6, workers=0))
    assert row["loss_differs_by"] < 1e-5
    assert row["speed_up"] > 0
    assert (
        row["bytes_per_image"]
        == {
            "feature": 4 * 5 * 16,  # float32, a class token and four patches
            "maskdistill": 4 * 5 * 16,
            "tinymim": 4 * 3 * 5 * 16,
            "logit": 4 * 1000,
        }[method]
    )
    kept = {
        "rows": {"tiny": row},
        "threads": 1,
        "rounds": 2,
        "precision": "fp32",
        "command": "python benchmarks/teacher_cache.py",
        "device": {"cpu": "a CPU"},
        "commit": "0" * 40,
    }
    shown = teacher_cache_tables.teacher_cache(kept)
    assert f"| `{method}` | ViT 16 x 2 to ViT 16 x 2 | 16 |" in shown
    assert "A step of 4 images, threads: 1, fp32" in shown
    assert shown.endswith("on a CPU at commit `000000000000`.")
