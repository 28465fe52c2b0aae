"""What a teacher says, as named tensors and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from edgemim.methods._asked import TeacherView
from edgemim.models.adapters.base import QKV


def tensor(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(sum(shape)))


VIEWS: dict[str, dict[str, Any]] = {
    "blocks": {"taps": {2: tensor(7, 24), 11: tensor(7, 8)}},
    "queries, keys and values": {"qkv": {11: QKV(tensor(2, 7, 1), tensor(2, 7, 2), tensor(2, 7, 3))}},
    "attention beside a block": {"taps": {0: tensor(7, 24)}, "attention": tensor(6)},
    "a summary": {"summary": tensor(24)},
    "logits": {"logits": tensor(5)},
    "nothing": {},
}


@pytest.mark.parametrize("parts", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_survives_being_named(parts: dict[str, Any]) -> None:
    view = TeacherView(**parts)
    named = view.tensors()
    assert all(len(t) == 3 for t in named.values())
    assert TeacherView.of(named) == view


def test_the_names_say_what_and_of_which_block() -> None:
    qkv = QKV(tensor(1), tensor(2), tensor(3))
    view = TeacherView(taps={7: tensor(4)}, qkv={11: qkv}, attention=tensor(6))
    assert {name: t.shape[1] for name, t in view.tensors().items()} == {
        "block_7": 4,
        "queries_11": 1,
        "keys_11": 2,
        "values_11": 3,
        "attention": 6,
    }
    assert list(view.signals) == ["teacher_attention"]
    assert TeacherView(taps={7: tensor(4)}).signals == {}
