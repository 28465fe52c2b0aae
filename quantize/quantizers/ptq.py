"""INT8 by edgemim's own placements: one calibration, one INT8 flavour per placement and float flavour.

Source: symmetric post-training quantization as in Nagel et al., "A White Paper on Neural Network Quantization",
arXiv:2106.08295, sections 2 and 3; the placements name their own sources.

Needs: onnxruntime; pip install 'edgemim[export]'

Differs: ranges come from a histogram whose bins do not depend on the data, so that they are the same whatever the
batches and the number of workers; they are stored by torch module and role, and serve every float flavour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgemim.artifact import Artifact, refuse_existing
from edgemim.errors import EdgemimError
from edgemim.quantize.bias import find_bias
from edgemim.quantize.calibration import Calibration
from edgemim.quantize.displaced import MOST_DISPLACED, displacement_notes, displacements
from edgemim.quantize.flavour import (
    NewFlavour,
    check_preprocess,
    float_flavours,
    read_flavour,
    read_fp32,
    write_flavours,
)
from edgemim.quantize.graph import is_transformer
from edgemim.quantize.measure import activations, record, tensors, thresholds
from edgemim.quantize.placement._base import Placed
from edgemim.quantize.qdq import check_qdq
from edgemim.quantize.quantizers import QUANTIZERS
from edgemim.quantize.quantizers._base import Progress, Quantizer, Say, silent
from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.quantize.smooth import smooth
from edgemim.quantize.smooth_search import Smoothed, find_smoothing
from edgemim.quantize.statistics.collect import collect
from edgemim.quantize.statistics.saturation import saturation_notes
from edgemim.runtime.targets._base import Target


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A calibrated model.

    Attributes:
        model: The fp32 flavour.
        placed: What each placement found.
        recipes: By placement, those that found something.
        measured: Maximum, threshold and saturation of every site, for the calibration record.
        notes: What a user should know of the ranges, one sentence each.
    """

    model: onnx.ModelProto
    placed: Mapping[str, Placed]
    recipes: Mapping[str, Recipe]
    measured: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PTQ(Quantizer):
    """Post-training quantization with Q/DQ where edgemim puts it.

    Attributes:
        placements: Names; each gives the flavour `int8-<placement>` for every float flavour. Empty: those that
            can be right for the model, see `fitting_placements`.
        ranges: Name of the range estimator for activations.
        smooth: Move outliers of single channels into the weights, where that helps a layer (SmoothQuant).
        bias_correction: Give the mean error of each output channel back to the biases.
        workers: Threads that calibrate; 0: one per core. The result does not depend on it.
    """

    placements: tuple[str, ...] = ()
    ranges: str = "mse"
    smooth: bool = True
    bias_correction: bool = False
    workers: int = 0

    def quantize(
        self,
        artifact: Artifact,
        batches: Calibration,
        out: Path | str,
        *,
        target: Target,
        overwrite: bool = False,
        state: Path | None = None,
        say: Say = silent,
        progress: Progress | None = None,
    ) -> Artifact:
        """See `Quantizer.quantize`."""
        refuse_existing(Path(out), overwrite=overwrite)
        prepared = self.prepare(artifact, batches, target, state=state, say=say, progress=progress)
        flavours = [
            flavour
            for recipe in prepared.recipes.values()
            for flavour in make_flavours(artifact, f"int8-{recipe.placement}", recipe, target)
        ]
        return self.write(artifact, out, flavours, batches, prepared, overwrite=overwrite)

    def prepare(
        self,
        artifact: Artifact,
        batches: Calibration,
        target: Target,
        *,
        state: Path | None = None,
        say: Say = silent,
        progress: Progress | None = None,
    ) -> Prepared:
        """Place and calibrate, without writing an artifact; see `Quantizer.quantize` for the arguments.

        Raises:
            EdgemimError: No placement finds anything in this model.
        """
        model = read_fp32(artifact)
        check_preprocess(artifact, batches)
        wanted = self.placements or fitting_placements(model)
        placed = {name: place(ir.from_proto(model), name, target) for name in wanted}
        if not any(found.units for found in placed.values()):
            reasons = "; ".join(dict.fromkeys(remark for found in placed.values() for remark in found.remarks))
            raise EdgemimError(f"nothing of this model becomes INT8: {reasons}; use --precision fp32")
        units = list({unit.name: unit for found in placed.values() for unit in found.units}.values())
        workers = self.workers or None
        smoothed = Smoothed()
        if self.smooth:
            smoothed = find_smoothing(model, units, batches, ranges=self.ranges, target=target, workers=workers)
        equal = ir.to_proto(smooth(ir.from_proto(model), units, smoothed.factors))
        sites = activations(unit for found in placed.values() for unit in found.units)
        serialized = equal.SerializeToString(deterministic=True)
        statistics = collect(
            serialized, batches, tensors(sites), workers=workers, state=state, progress=progress or batches.progress
        )
        limits = thresholds(sites, statistics, self.ranges, target)
        bias = find_bias(equal, units, limits, batches, target=target, workers=workers) if self.bias_correction else {}
        moved = displacements(units, statistics, limits, target)
        spoiled = {unit: share for unit, share in moved.items() if share > MOST_DISPLACED}
        notes = (*saturation_notes(statistics, limits), *displacement_notes(spoiled))
        for note in (*statistics.notes, *notes):
            say(note)
        recipes = {
            name: Recipe(
                placement=name,
                thresholds=limits,
                left_out=frozenset(unit.name for unit in found.units if unit.name in spoiled),
                smoothing=smoothed.factors,
                bias=bias,
            )
            for name, found in placed.items()
            if found.units
        }
        measured = record(limits, statistics, smoothed.alphas)
        return Prepared(model=model, placed=placed, recipes=_distinct(recipes, placed), measured=measured, notes=notes)

    def write(
        self,
        artifact: Artifact,
        out: Path | str,
        flavours: Sequence[NewFlavour],
        batches: Calibration,
        prepared: Prepared,
        *,
        overwrite: bool,
    ) -> Artifact:
        """Write flavours that were made from `prepared`."""
        return write_flavours(
            artifact,
            out,
            flavours,
            batches,
            quantizer="ptq",
            settings={"ranges": self.ranges, "smooth": self.smooth, "bias_correction": self.bias_correction},
            packages=("onnx", "onnx-ir", "onnxruntime", "numpy"),
            measured=prepared.measured,
            notes=prepared.notes,
            overwrite=overwrite,
        )


def _distinct(recipes: Mapping[str, Recipe], placed: Mapping[str, Placed]) -> dict[str, Recipe]:
    """Without those that come to an earlier one once what is spoiled is left out."""
    kept: dict[str, Recipe] = {}
    for name, recipe in recipes.items():
        left = {unit.name for unit in placed[name].units} - recipe.left_out
        others = ({unit.name for unit in placed[other].units} - kept[other].left_out for other in kept)
        if not recipe.left_out or left not in others:
            kept[name] = recipe
    return kept


def fitting_placements(model: onnx.ModelProto) -> tuple[str, ...]:
    """`linear` and `attention` for a model with attention, `conv` for one with more convolutions than one patch
    embedding, all three for one with both; `linear` where there is neither.
    """
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    found = ("linear", "attention") if is_transformer(model) else ()
    if convolutions > 1:
        found = (*found, "conv")
    return found or ("linear",)


def make_flavours(artifact: Artifact, name: str, recipe: Recipe, target: Target) -> list[NewFlavour]:
    """The INT8 form of every float flavour by one recipe; `name` is that of the fp32 one's."""
    return [
        _flavour(name if base == "fp32" else f"{name}-{base}", base, read_flavour(artifact, base), recipe, target)
        for base in float_flavours(artifact)
    ]


def _flavour(name: str, base: str, model: onnx.ModelProto, recipe: Recipe, target: Target) -> NewFlavour:
    remarks = place(ir.from_proto(model), recipe.placement, target).remarks
    quantized, units = quantize_model(model, recipe, target)
    facts = {
        "placement": recipe.placement,
        "left_out": sorted(recipe.left_out),
        "units": len(units),
        "remarks": list(remarks),
        "nodes": check_qdq(quantized),
    }
    return NewFlavour(name=name, model=quantized, base=base, facts=facts)


QUANTIZERS.add("ptq", PTQ)
