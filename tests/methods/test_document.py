"""The program of docs/methods.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint
from edgemim.preprocess import Preprocess

DOCUMENT = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_method_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)
    # In place of the ViT-B that is converted, one of its grid that takes a second.
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    info = CheckpointInfo(architecture="vit_tiny_patch16_224", model_args=shape, preprocess=Preprocess(size=(224, 224)))
    save_checkpoint(tmp_path / "runs" / "base", build_backbone(info.architecture, shape), info)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(program, str(DOCUMENT), "exec"), scope)
    assert "loss/pixels" in capsys.readouterr().out
    gradients = [p.grad for p in scope["method"].adapter.backbone.blocks.parameters()]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
