"""Copies of a network that follow it slowly: the moving teacher of HPM, SiT and their kind.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780, section 2.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgemim.models.adapters import adapt
from edgemim.models.adapters.base import BackboneAdapter


class Momentum(nn.Module):
    """A backbone's copy, copies of modules beside it, and how they follow. In eval mode, and without gradients.

    A method keeps it as `momentum`: by that name it is saved with a run's state, and with nothing else.

    Args:
        adapter: Of the backbone that is copied.
        heads: Modules that are copied too, by name.

    Attributes:
        adapter: Of the copy.
        heads: The copies, by name.
    """

    def __init__(self, adapter: BackboneAdapter, heads: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(adapter.backbone)
        self.heads = nn.ModuleDict({name: copy.deepcopy(head) for name, head in (heads or {}).items()})
        self.adapter = adapt(self.backbone, adapter.size)
        # Pairs in a list are no submodules: the originals belong to the method.
        self._pairs = [(self.backbone, adapter.backbone), *((self.heads[n], head) for n, head in (heads or {}).items())]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Momentum:
        """The copies stay in eval mode whatever their parent does."""
        return super().train(False)

    def follow(self, decay: float) -> None:
        """Go towards the originals; buffers are copied.

        Args:
            decay: Share of the copy that stays, in [0, 1].
        """
        with torch.no_grad():
            own, others = self._tensors(trained=True)
            torch._foreach_lerp_(own, others, 1 - decay)
            for own_buffer, other in zip(*self._tensors(trained=False), strict=True):
                own_buffer.copy_(other)

    def begin(self) -> None:
        """Be what the originals are."""
        with torch.no_grad():
            for trained in (True, False):
                for own, other in zip(*self._tensors(trained=trained), strict=True):
                    own.copy_(other)

    def _tensors(self, *, trained: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters, or buffers, of the copies and of the originals, in the same order."""
        sides: list[list[Tensor]] = [[], []]
        for pair in self._pairs:
            for side, module in zip(sides, pair, strict=True):
                side.extend(module.parameters() if trained else module.buffers())
        return sides[0], sides[1]
