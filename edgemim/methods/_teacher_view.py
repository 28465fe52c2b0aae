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

    Raises:
        ConfigError: The masking asks for an attention that the teacher cannot show.
    """
    assert teacher is not None
    adapter = teacher.adapter
    guided = draws and "teacher_attention" in masking.needs
    if guided:
        check_guide(teacher, masking)
    last = adapter.depth - 1
    features = teacher(batch.for_teacher, taps=blocks, qkv={*qkv, *([last] if guided else ())}, stop_early=True)
    if not guided:
        return TeacherView(features, {})
    attention = prefix_attention(features.qkv[last], adapter.num_prefix, class_token=_has_class_token(adapter))
    return TeacherView(features, {"teacher_attention": attention})


def check_guide(teacher: Teacher, masking: MaskingStrategy) -> None:
    """Refuse a teacher that cannot give what the masking asks for; before a run has a folder.

    Raises:
        ConfigError: Its attention cannot be read.
    """
    if "teacher_attention" in masking.needs and "qkv" not in teacher.adapter.abilities:
        name = type(teacher.adapter.backbone).__name__
        raise ConfigError(
            f"this masking follows the attention of a plain ViT, and the teacher is a {name}; "
            "choose another teacher, or masking.name=random"
        )


@torch.no_grad()
def check_levels(teacher: Teacher, blocks: Collection[int]) -> None:
    """Refuse blocks whose tokens do not lie on the grid of the final ones (early stages); runs one black image.

    Raises:
        ConfigError: Names the blocks.
    """
    adapter = teacher.adapter
    parameter = next(adapter.backbone.parameters())
    image = torch.zeros(1, 3, *adapter.size, device=parameter.device, dtype=parameter.dtype)
    found = adapter.forward(image, taps=blocks, stop_early=True).taps
    wanted = adapter.num_prefix + adapter.output_grid[0] * adapter.output_grid[1]
    wrong = [block for block in sorted(blocks) if found[block].shape[1] != wanted]
    if wrong:
        raise ConfigError(
            f"blocks {', '.join(map(str, wrong))} of the teacher ({type(adapter.backbone).__name__}) have another "
            f"grid than its last, {adapter.depth - 1}, on which it meets the student; choose blocks of its last stage"
        )


def prefix_attention(qkv: QKV, num_prefix: int, *, class_token: bool = True) -> Tensor:
    """How much a layer looks at each patch.

    Args:
        qkv: Of the layer.
        num_prefix: P, its class and register tokens.
        class_token: Whether the first of them is a class token.

    Returns:
        float32 [B, L]: attention of the class token to each patch, mean over heads; where there is no class
        token, the mean over all patches of their attention to it. What goes to the prefix is left out, so a
        row's sum is below 1.
    """
    looking = qkv.queries[:, :, :1] if num_prefix and class_token else qkv.queries[:, :, num_prefix:]
    weights = QKV(looking, qkv.keys, qkv.values).logits().softmax(dim=-1)
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


def _has_class_token(adapter: BackboneAdapter) -> bool:
    """Registers alone, as some ViTs have them, say nothing about the image as a whole."""
    return getattr(adapter.backbone, "cls_token", None) is not None
