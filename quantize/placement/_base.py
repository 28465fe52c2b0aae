"""The contract of a placement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import onnx_ir as ir

from edgemim.quantize.sites import Unit
from edgemim.runtime.targets._base import Target


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a placement found in one graph.

    Attributes:
        units: What becomes INT8, in the graph's order; their names are unique.
        remarks: What a user should know, one sentence each: what was left in float that the placement is about.
    """

    units: tuple[Unit, ...]
    remarks: tuple[str, ...] = ()


class Placement(ABC):
    """Chooses the tensors that become INT8, from the graph and the target alone.

    A site that two placements share has the same key in both, so that one calibration serves them all.
    """

    @abstractmethod
    def place(self, graph: ir.Graph, target: Target) -> Placed:
        """Find the units of a float flavour.

        Args:
            graph: Any float flavour, with module names and fixed shapes; nothing in it is changed.
            target: Whose limits hold.
        """
