"""A frozen model whose blocks are spread over the processes of a run, each holding a share of every weight.

Source: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023, arXiv:2304.11277.
Differs: nothing is trained, so nothing but weights is gathered, and only blocks are spread: embeddings, norms and heads
    are a few percent of a transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from edgemim.errors import ConfigError


def shard(model: nn.Module, device: torch.device) -> None:
    """Spread the blocks of a frozen model over all processes, for good; each moves its share to `device`.

    A block is whole while it runs, and its outputs are those of before. All processes have to run the model equally
    often: one that runs it alone waits for ever.

    Args:
        model: Whole, the same in every process.
        device: Of this process. torch.distributed is initialised, with a backend for its type.

    Raises:
        ConfigError: It has no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blocks = _blocks(model)
    if not blocks:
        raise ConfigError("this teacher has no blocks to spread over processes; leave training.shard_teacher out")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # The whole is the root, whose call lets the next block be gathered while one computes; it holds no weight itself.
    spread = {p for block in blocks for p in block.parameters()}
    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()) - spread)


@contextmanager
def gathered(block: nn.Module) -> Iterator[None]:
    """The weights of a block inside, for who uses its layers without calling the block, wherever they are."""
    if not hasattr(block, "unshard"):
        yield
        return
    spread = cast(Any, block)
    spread.unshard()
    try:
        yield
    finally:
        spread.reshard()


def _blocks(model: nn.Module) -> list[nn.Module]:
    """What a model repeats, `blocks.3` or `stages.1.blocks.3` by timm's names, outermost first."""
    modules = dict(model.named_modules())
    names = [name for name in modules if name.split(".")[-2:-1] == ["blocks"]]
    return [modules[name] for name in names if not any(name.startswith(f"{other}.") for other in names)]
