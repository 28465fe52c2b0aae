"""What a method asks its teacher about whole images, and what it is told.

Both have a flat form of named tensors, so that what a teacher says can be stored once and read again in later epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from edgemim.models.adapters.base import QKV


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of a frozen teacher, the same in every step.

    Attributes:
        blocks: Whose tokens.
        qkv: Whose queries, keys and values.
        attention: How much its last block looks at each patch, for a masking that follows it.
        summary: One vector for the whole image, from its final tokens.
        logits: Those of its classifier.
    """

    blocks: tuple[int, ...] = ()
    qkv: tuple[int, ...] = ()
    attention: bool = False
    summary: bool = False
    logits: bool = False


@dataclass(frozen=True, kw_only=True)
class TeacherView:
    """What a teacher saw in B whole images of N patches, as far as it was asked.

    Attributes:
        taps: Block index to [B, P + N, D], the tokens after that block, before any final norm.
        qkv: Block index to the queries, keys and values of its attention.
        attention: float32 [B, N]; see `prefix_attention`.
        summary: [B, D], the final class token, or the mean of the final patches where there is none.
        logits: [B, classes].
    """

    taps: Mapping[int, Tensor] = field(default_factory=dict)
    qkv: Mapping[int, QKV] = field(default_factory=dict)
    attention: Tensor | None = None
    summary: Tensor | None = None
    logits: Tensor | None = None

    @property
    def signals(self) -> dict[str, Tensor]:
        """What a masking may follow, by the names of its `needs`."""
        return {} if self.attention is None else {"teacher_attention": self.attention}

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, images first in every shape: `block_11`, `queries_11`, ..., `attention`."""
        named = {f"block_{block}": tokens for block, tokens in self.taps.items()}
        for block, qkv in self.qkv.items():
            named |= {f"queries_{block}": qkv.queries, f"keys_{block}": qkv.keys, f"values_{block}": qkv.values}
        whole = {"attention": self.attention, "summary": self.summary, "logits": self.logits}
        return named | {name: tensor for name, tensor in whole.items() if tensor is not None}

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> TeacherView:
        """The view whose `tensors` these are."""
        numbered = [name.split("_") for name in named if "_" in name]
        blocks = {int(number) for kind, number in numbered if kind == "block"}
        attended = {int(number) for kind, number in numbered if kind == "queries"}
        return cls(
            taps={b: named[f"block_{b}"] for b in blocks},
            qkv={b: QKV(named[f"queries_{b}"], named[f"keys_{b}"], named[f"values_{b}"]) for b in attended},
            attention=named.get("attention"),
            summary=named.get("summary"),
            logits=named.get("logits"),
        )
