"""One look of a frozen teacher at whole images, shared by everything in a step that needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods._base import Batch
from edgemim.models.adapters.base import QKV, BackboneAdapter, Features
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher


@dataclass(frozen=True)
class TeacherView:
    """What the teacher saw: its features, and the signals that the masking asked for."""

    features: Features
    signals: Mapping[str, Tensor]


@torch.no_grad()
def look(
    teacher: Teacher | None,
    batch: Batch,
    masking: MaskingStrategy,
    *,
    blocks: Collection[int] = (),
    qkv: Collection[int] = (),
    draws: bool = True,
) -> TeacherView:
    """Run the teacher once over the whole images, no further than the last block that is asked for.

    Args:
        teacher: Frozen.
        batch: Its `for_teacher` images are looked at.
        masking: What its `needs` name is computed in the same pass.
        blocks: Blocks whose tokens are wanted.
        qkv: Blocks whose queries, keys and values are wanted.
        draws: False where the plan is given, so that the masking needs nothing.
    """
    assert teacher is not None
    adapter = teacher.adapter
    guided = draws and "teacher_attention" in masking.needs
    if guided and "qkv" not in adapter.abilities:
        raise ConfigError(f"attention masking needs a plain ViT as teacher; {type(adapter.backbone).__name__} is none")
    last = adapter.depth - 1
    features = teacher(batch.for_teacher, taps=blocks, qkv={*qkv, *([last] if guided else ())}, stop_early=True)
    signals = {"teacher_attention": prefix_attention(features.qkv[last], adapter.num_prefix)} if guided else {}
    return TeacherView(features, signals)


def prefix_attention(qkv: QKV, num_prefix: int) -> Tensor:
    """float32 [B, L]: attention of the class token to each patch, mean over heads; of all patches without one."""
    queries = qkv.queries[:, :, :1] if num_prefix else qkv.queries
    weights = QKV(queries, qkv.keys, qkv.values).logits().softmax(dim=-1)
    return weights.mean(dim=(1, 2))[:, num_prefix:]


def shared_prefix(student: BackboneAdapter, teacher: BackboneAdapter) -> int:
    """Prefix tokens that can be compared one to one: all where both have equally many, else none."""
    return student.num_prefix if student.num_prefix == teacher.num_prefix else 0


def without_prefix(tokens: Tensor, num_prefix: int, kept: int) -> Tensor:
    """Tokens [B, P + N, D] without those of their P prefix tokens that are not among the `kept` shared ones."""
    return tokens if kept == num_prefix else tokens[:, num_prefix:]


def at_visible(tokens: Tensor, num_prefix: int, plan: MaskPlan) -> Tensor:
    """The prefix and the plan's visible patches, [B, P + K, D], of the tokens [B, P + L, D] of a whole image."""
    return torch.cat([tokens[:, :num_prefix], gather_tokens(tokens[:, num_prefix:], plan.keep_ids)], dim=1)
