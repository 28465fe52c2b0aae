"""Relations between tokens once more: one image, one head and one pair of tokens at a time, in float64.

Written from the specification; plain arithmetic on tensors of one number, so that autograd gives the gradients.
Nothing is shared with edgemim or timm; the blocks in front are those of the masked autoencoder's file. A side is
a dict of the letters q, k, v to [N, D]: all heads side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

Side = dict[str, Tensor]


def projected(
    encoder: ModuleType,
    image: Tensor,
    keep: Sequence[int],
    state: Mapping[str, Tensor],
    *,
    block: int,
    heads: int,
    prefix: Sequence[str],
) -> Tensor:
    """[P + N, 3 D]: the joint projection of `block` (at least 1, counted from 0).

    `encoder` is the module of the masked autoencoder, whose functions these are.
    """
    after = encoder.encode(image, keep, state, patch=8, heads=heads, blocks=block, prefix=prefix)
    normed = encoder.layer_norm(after[block - 1], state, f"blocks.{block}.norm1")
    joint: Tensor = encoder.linear(normed, state, f"blocks.{block}.attn.qkv")
    return joint


def side(joint: Tensor, skip: int) -> Side:
    """Queries, keys and values of a joint projection [P + N, 3 D], without the first `skip` tokens."""
    width = joint.shape[1] // 3
    return {letter: joint[skip:, i * width : (i + 1) * width] for i, letter in enumerate("qkv")}


def logits(of: Side, pair: str, heads: int) -> list[list[list[Tensor]]]:
    """`pair` is two letters: numbers by head, row (of the first) and column (of the second)."""
    rows, columns = of[pair[0]], of[pair[1]]
    size = rows.shape[1] // heads
    found = []
    for head in range(heads):
        channels = slice(head * size, (head + 1) * size)
        found.append(
            [[(row[channels] * column[channels]).sum() / math.sqrt(size) for column in columns] for row in rows]
        )
    return found


def probabilities(row: Sequence[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(number) for number in row]
    total = sum(exponentials)
    return [e / total for e in exponentials]  # type: ignore[misc]


def divergence(
    students: Sequence[Side], teachers: Sequence[Side], pair: str, student_heads: int, teacher_heads: int
) -> Tensor:
    """KL(teacher || student) of each row's distribution, mean over images, heads and rows."""
    total, rows = torch.zeros((), dtype=torch.float64), 0
    for student, teacher in zip(students, teachers, strict=True):
        own, wanted = logits(student, pair, student_heads), logits(teacher, pair, teacher_heads)
        for own_head, wanted_head in zip(own, wanted, strict=True):
            for own_row, wanted_row in zip(own_head, wanted_head, strict=True):
                for p, q in zip(probabilities(wanted_row), probabilities(own_row), strict=True):
                    p = p.detach()
                    total = total + p * (torch.log(p) - torch.log(q))
                rows += 1
    return total / rows


def logit_error(
    students: Sequence[Side], teachers: Sequence[Side], weight: Tensor, student_heads: int, teacher_heads: int
) -> Tensor:
    """Squared error of the attention logits, the student's heads mixed by `weight` [teacher's, student's heads]."""
    errors = []
    for student, teacher in zip(students, teachers, strict=True):
        own, wanted = logits(student, "qk", student_heads), logits(teacher, "qk", teacher_heads)
        for head in range(teacher_heads):
            for i in range(len(wanted[head])):
                for j in range(len(wanted[head][i])):
                    mixed = sum(weight[head, other] * own[other][i][j] for other in range(student_heads))
                    errors.append((mixed - wanted[head][i][j].detach()) ** 2)
    return torch.stack(errors).sum() / len(errors)


def token_error(students: Sequence[Tensor], teachers: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Squared error of tokens [N, D], the student's mapped by `weight` [teacher's width, student's]."""
    errors = []
    for student, teacher in zip(students, teachers, strict=True):
        for own, wanted in zip(student, teacher, strict=True):
            errors.extend((weight @ own - wanted.detach()) ** 2)
    return torch.stack(errors).sum() / len(errors)
