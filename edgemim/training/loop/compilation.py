"""Regional compilation: every transformer block of a run becomes a compiled function, in the steps of that run.

Blocks of one shape share one compiled function, so a deep network costs no more time to compile than a shallow one.
Whatever is not a step (pictures, probes, saved weights) sees the blocks as they were written, and no other shape than
the step's is ever compiled: else a picture in the middle of a run could change how the steps after it are computed,
and a resumed run would differ from one that was not interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from edgemim.errors import ConfigError
from edgemim.training.shown.say import say

# Per shape of block: what a run must have before it, so that compiling is a small part of it.
_STEPS_ON_GPU = 1_000
_FLOPS_ON_CPU = 5e13
# Functions that one kind of block may need: of a decoder's blocks the last is called for fewer tokens, for instance.
_FORMS = 8

# Drop path and dropout draw the numbers that they draw without a compiler.
_FORM: dict[str, Any] = {"dynamic": False, "options": {"fallback_random": True}}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What this process does in a run, from its first step to its last, whoever takes it.

    Attributes:
        device: Where.
        precision: Lightning's name of the arithmetic.
        size: Height and width of an image.
        steps: Of the run.
        images: That this process sees.
    """

    device: torch.device
    precision: str
    size: tuple[int, int]
    steps: int
    images: int


def transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """Everything inside that attends and has an MLP, outermost first: blocks of timm's transformers and of decoders."""
    return [m for m in module.modules() if isinstance(getattr(m, "attn", None), nn.Module) and hasattr(m, "mlp")]


def training_flops(method: nn.Module, size: tuple[int, int], images: int) -> float:
    """Multiplications and additions of a run over `images` of height and width `size`, roughly.

    Six per trained parameter and token, two per frozen one, as if no patch were hidden; the tokens are those of the
    backbone's last stage.
    """
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in method.parameters()) - trained
    # Any: timm's attributes carry no types.
    model: Any = getattr(method, "model", None)
    stages = getattr(model, "feature_info", None) or [{"reduction": 16}]
    side = int(stages[-1]["reduction"])
    tokens = max(1, size[0] // side) * max(1, size[1] // side)
    return float(6 * trained + 2 * frozen) * tokens * images


def worth_compiling(method: nn.Module, work: Work) -> bool:
    """Whether a run is long enough, and its arithmetic one that a compiler makes faster.

    It depends on nothing that differs between a run and its resumption. bf16 on a CPU is slower compiled.
    """
    shapes = _shapes(transformer_blocks(method))
    if not shapes:
        return False
    if work.device.type == "cuda":
        return work.steps >= shapes * _STEPS_ON_GPU
    if work.device.type == "cpu" and work.precision == "32-true":
        return training_flops(method, work.size, work.images) >= shapes * _FLOPS_ON_CPU
    return False


@contextmanager
def compiled(
    method: nn.Module, wanted: Literal["auto", "on", "off"], work: Work, *, aloud: bool = True
) -> Iterator[bool]:
    """Compile the blocks of `method` for its calls inside the context, where that is wanted and possible.

    One line on stderr says that the first step takes long, or that there is no compiler where `auto` wants one.

    Args:
        method: Called with a batch; everything else of it stays as it is, the names of its tensors too.
        wanted: The setting `training.compile`; `auto` asks `worth_compiling`.
        work: Of this process in the whole run.
        aloud: Whether this process is the one that speaks.

    Returns:
        Whether they are compiled.

    Raises:
        ConfigError: `on`, and the compiler does not work.
    """
    blocks = [block for block in transformer_blocks(method) if not isinstance(block, FSDPModule)]
    if not blocks or wanted == "off" or (wanted == "auto" and not worth_compiling(method, work)):
        yield False
        return
    refusal = compiler_refusal(work.device)
    if refusal and wanted == "on":
        raise ConfigError(
            f"training.compile 'on' needs a compiler that torch can use, and it says: {refusal}; install g++ and "
            "the headers of Python, or set training.compile=off"
        )
    shapes = _shapes(blocks)
    if aloud:
        say(
            f"not compiled, since torch finds no compiler that works: {refusal}"
            if refusal
            else f"compiling: the first step may take {60 * shapes} s longer (not with training.compile=off)"
        )
    if refusal:
        yield False
        return
    # All blocks share one cache; `auto` would rather run a block as it was written than end a run.
    limits: dict[str, Any] = {"recompile_limit": _FORMS * (1 + shapes), "suppress_errors": wanted == "auto"}
    with torch._dynamo.config.patch(**limits), _in_steps(method, blocks):
        yield True


def compiler_refusal(device: torch.device) -> str | None:
    """What torch says when it compiles a function of one line for `device`; None where that works."""

    def increased(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    try:
        torch.compile(increased, dynamic=False, options={"force_disable_caches": True})(torch.zeros(8, device=device))
    except (RuntimeError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0] if lines else type(error).__name__
    return None


@contextmanager
def _in_steps(method: nn.Module, blocks: list[nn.Module]) -> Iterator[None]:
    """Compiled blocks while `method` itself is called, plain ones at any other time."""
    for block in blocks:
        block.compile(**_FORM)
    forms = [block._compiled_call_impl for block in blocks]

    def switch(on: bool) -> None:
        for block, form in zip(blocks, forms, strict=True):
            block._compiled_call_impl = form if on else None

    switch(False)
    handles = [
        method.register_forward_pre_hook(lambda *_: switch(True)),
        method.register_forward_hook(lambda *_: switch(False), always_call=True),
    ]
    try:
        yield
    finally:
        switch(False)
        for handle in handles:
            handle.remove()


def _shapes(blocks: list[nn.Module]) -> int:
    """How many kinds of blocks there are: each is compiled on its own."""
    return len({repr(block) for block in blocks})
