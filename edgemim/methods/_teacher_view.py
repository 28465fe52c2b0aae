"""One look of a frozen teacher at whole images, shared by everything in a step that needs it.

Methods say once what they ask (`Method.asked`) and call `look` in each step, which asks the teacher, or takes what it
said of the same images before, where the batch brings that along.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from edgemim.errors import ConfigError
from edgemim.masking._base import MaskingStrategy
from edgemim.methods._asked import Asked, TeacherView
from edgemim.methods._base import Batch
from edgemim.models.adapters.base import QKV, BackboneAdapter
from edgemim.models.mask_plan import MaskPlan, gather_tokens
from edgemim.models.teachers import Teacher


def look(teacher: Teacher | None, batch: Batch, asked: Asked | None, *, draws: bool = True) -> TeacherView:
    """What the teacher sees in the whole images of a batch.

    Args:
        teacher: Frozen; not run where the batch brings along what it saw.
        batch: Its `for_teacher` images are looked at.
        asked: What is wanted.
        draws: False where the plan is given, so that the masking follows nothing.
    """
    if batch.taught is not None:
        return batch.taught
    assert teacher is not None
    assert asked is not None
    return ask(teacher, batch.for_teacher, asked if draws else replace(asked, attention=False))


@torch.no_grad()
def ask(teacher: Teacher, images: Tensor, asked: Asked) -> TeacherView:
    """Run the teacher once, no further than the last thing that is asked for.

    Args:
        teacher: Frozen.
        images: [B, 3, H, W], normalised as the student's.
        asked: What is wanted.
    """
    if asked.logits:
        return TeacherView(logits=teacher.model(teacher.prepare(images)))
    adapter = teacher.adapter
    last = adapter.depth - 1
    attended = {*asked.qkv, last} if asked.attention else {*asked.qkv}
    features = teacher(images, taps=asked.blocks, qkv=attended, stop_early=not asked.summary)
    attention = None
    if asked.attention:
        attention = prefix_attention(features.qkv[last], adapter.num_prefix, class_token=_has_class_token(adapter))
    return TeacherView(
        taps=features.taps,
        qkv={block: features.qkv[block] for block in asked.qkv},
        attention=attention,
        summary=summary(adapter, features.final) if asked.summary else None,
    )


def summary(adapter: BackboneAdapter, tokens: Tensor) -> Tensor:
    """[B, D]: the class token of tokens [B, P + N, D], or the mean of the patches where there is none."""
    return tokens[:, 0] if _has_class_token(adapter) else tokens[:, adapter.num_prefix :].mean(dim=1)


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
    return adapter.num_prefix > 0 and getattr(adapter.backbone, "cls_token", None) is not None
