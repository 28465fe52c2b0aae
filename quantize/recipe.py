"""From a float flavour to an INT8 one: everything that was measured and decided, independent of one graph.

    recipe = Recipe(placement="attention", thresholds=thresholds)
    model, units = quantize_model(fp32, recipe, target)

A recipe speaks of torch modules. The same one turns every float flavour of a checkpoint into its INT8 form, and a
recipe with more units left out is another mix of the same calibration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
import onnx_ir as ir

from edgemim.errors import ConfigError, EdgemimError
from edgemim.quantize.bias import correct_bias
from edgemim.quantize.insert import insert_qdq
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.placement._base import Placed
from edgemim.quantize.qdq import MODULE_KEY, QDQ_OPS
from edgemim.quantize.sites import Unit
from edgemim.quantize.smooth import smooth
from edgemim.quantize.weights import Vectors
from edgemim.runtime.targets._base import Target

# Ops whose tensors some placement quantizes.
_PLACED = ("MatMul", "Gemm", "Conv", "ConvTranspose", "Softmax", "Add")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to do to a float flavour.

    Attributes:
        placement: Name of the placement.
        thresholds: Largest represented magnitude of every activation, by site key.
        left_out: Names of units that stay in float.
        smoothing: What each input channel of a layer is divided by, by unit (see `edgemim.quantize.smooth`); the
            thresholds are those of the smoothed model.
        bias: What is added to each bias, by unit, where the unit is INT8 (see `edgemim.quantize.bias`).
    """

    placement: str
    thresholds: Mapping[str, float]
    left_out: frozenset[str] = field(default_factory=frozenset)
    smoothing: Vectors = field(default_factory=dict)
    bias: Vectors = field(default_factory=dict)

    def without(self, *units: str) -> Recipe:
        """The same recipe with these units in float as well."""
        return replace(self, left_out=self.left_out | set(units))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, equal for equal recipes."""
        return {
            "placement": self.placement,
            "thresholds": dict(sorted(self.thresholds.items())),
            "left_out": sorted(self.left_out),
            "smoothing": {unit: list(vector) for unit, vector in sorted(self.smoothing.items())},
            "bias": {unit: list(vector) for unit, vector in sorted(self.bias.items())},
        }


def place(model: ir.Model, placement: str, target: Target) -> Placed:
    """The units of a placement in a graph, which stays as it is.

    Raises:
        ConfigError: There is no such placement.
        EdgemimError: The graph is quantized already, or does not say which torch modules its nodes belong to, or of
            which shape its values are.
    """
    _check_float(model.graph)
    found: Placed = PLACEMENTS.get(placement)().place(model.graph, target)
    return found


def quantize_model(proto: onnx.ModelProto, recipe: Recipe, target: Target) -> tuple[onnx.ModelProto, tuple[Unit, ...]]:
    """The INT8 form of a float flavour, and the units that are INT8 in it.

    Args:
        proto: A float flavour; it stays as it is.
        recipe: Whose thresholds know every site that is not left out.
        target: Whose integer types and limits hold.

    Raises:
        ConfigError: A unit to leave out is not in the graph.
        EdgemimError: The graph cannot be quantized (see `place`), it has no place for the smoothing (see
            `edgemim.quantize.smooth.smooth`), or a site's range is missing or not to be used (see `insert_qdq`).
    """
    model = ir.from_proto(proto)
    found = place(model, recipe.placement, target).units
    unknown = sorted(recipe.left_out - {unit.name for unit in found})
    if unknown:
        raise ConfigError(f"placement {recipe.placement!r} has no unit {unknown[0]!r} in this model")
    units = tuple(unit for unit in found if unit.name not in recipe.left_out)
    # What is smoothed shares its source with others, so a unit that stays in float is smoothed as well.
    smooth(model, found, recipe.smoothing)
    correct_bias(model, units, recipe.bias)
    insert_qdq(model, units, recipe.thresholds, unsigned="uint8" in target.activation_dtypes)
    return ir.to_proto(model), units


def _check_float(graph: ir.Graph) -> None:
    names = Counter(str(node.name or "") for node in graph)
    for node in graph:
        what = f"{node.op_type} {node.name!r}"
        if node.op_type in QDQ_OPS:
            raise EdgemimError(f"this model is quantized already (it has the {what}); take its fp32 or fp16 flavour")
        if node.op_type in _PLACED and MODULE_KEY not in node.metadata_props:
            raise EdgemimError(f"the {what} does not say which torch module it is; run: edgemim export CHECKPOINT")
        if not node.name or names[node.name] > 1:
            raise EdgemimError(f"the {what} has no name of its own; run: edgemim export CHECKPOINT")
        if not all(value.shape is not None and value.shape.is_static() for value in node.outputs):
            raise EdgemimError(f"the {what} has no fixed shape; run: edgemim export CHECKPOINT")
