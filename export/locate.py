"""Find the torch module at which an export starts to differ, for the message about a failed parity check."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import torch

from edgemim.export.ladder.climb import compare
from edgemim.export.ladder.limits import LIMITS
from edgemim.export.ladder.runs import Golden, OnnxRung, TorchRung
from edgemim.export.ladder.taps import read_layout
from edgemim.export.parity import Floats


def first_difference(
    model: torch.nn.Module, graph: ir.Model, images: Floats, *, tolerance: float, precision: str = "fp32"
) -> str:
    """One clause that names the module where a graph departs from torch: the first step of the ladder.

    Args:
        model: The torch model, in eval mode.
        graph: Its export, with module names.
        images: As the graph takes them, float32 [G, 3, H, W].
        tolerance: Largest accepted difference, relative to a module's largest output where that exceeds 1.
        precision: Of the graph.
    """
    golden = Golden(images=images)
    limit = replace(LIMITS[precision], tolerance=tolerance)
    exported = OnnxRung("the export", precision, ir.to_proto(graph), golden)
    torch_rung = TorchRung(model, golden, exported.batch())
    step = compare(torch_rung, exported, read_layout(exported.graph()), golden, limit=limit)
    if not step.blocks:
        return "no module of it can be compared alone"
    if step.first is None:
        return f"none of the {len(step.blocks)} blocks compared differs: look at the model's own forward()"
    culprit = step.culprit or step.first
    where = next(iter(step.suspect), culprit)
    found = {**step.blocks, **step.modules}[where]
    by = "and it is not finite" if found.max_abs is None else f"by {found.max_abs:.3g}"
    rest = f", and {culprit!r} does not undo that" if step.suspect else ""
    return f"the first module whose output differs is {where!r}, {by}{rest}"
