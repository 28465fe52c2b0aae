"""Which arithmetic a run uses."""

from pathlib import Path

import pytest
import torch

from edgemim.training.loop.precision import lightning_precision, multiplies_bf16


def test_names_are_lightnings() -> None:
    assert lightning_precision("fp32") == "32-true"
    assert lightning_precision("bf16") == "bf16-mixed"
    assert lightning_precision("fastest") == ("bf16-mixed" if multiplies_bf16() else "32-true")


@pytest.mark.parametrize(("flags", "fast"), [("sse2 avx512_bf16", True), ("amx_bf16", True), ("sse2 avx512f", False)])
def test_a_processor_is_asked_for_bf16_instructions(monkeypatch: pytest.MonkeyPatch, flags: str, fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags : {flags}")
    assert multiplies_bf16() is fast


def test_a_machine_that_does_not_say_uses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert lightning_precision("fastest") == "32-true"
