"""Find the torch module at which an export starts to differ, for the message about a failed parity check."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch

from edgemim.export.parity import Floats, run_all_outputs
from edgemim.export.passes.module_names import MODULE_KEY


def first_difference(model: torch.nn.Module, graph: ir.Model, images: Floats, *, tolerance: float) -> str:
    """One clause that names the first module whose output differs from torch.

    Compared are the modules that run once and whose output is also a value of the graph (of the same shape):
    most layers, but not those that a pass has merged with a neighbour.

    Args:
        model: The torch model, in eval mode.
        graph: Its export, with module names.
        images: One batch as the graph takes it, float32 [B, 3, H, W].
        tolerance: Largest accepted difference, relative to a module's largest output where that exceeds 1.
    """
    expected = _module_outputs(model, torch.from_numpy(images))
    values = _graph_values(graph, expected)
    names = list(dict.fromkeys(values.values()))
    if not names:
        return "no module of it can be compared alone"
    found = dict(zip(names, run_all_outputs(_with_outputs(graph, names), images), strict=True))
    for module, name in values.items():
        difference = float(np.abs(found[name] - expected[module]).max())
        if not difference <= tolerance * max(1.0, float(np.abs(expected[module]).max())):
            return f"the first module whose output differs is {module!r}, by {difference:.3g}"
    return f"none of the {len(values)} modules compared differs: look at the model's own forward()"


def _module_outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Floats]:
    """Outputs of all submodules that run once and return one tensor."""
    outputs: dict[str, list[object]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.setdefault(name, []).append(output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    single = {name: found[0] for name, found in outputs.items() if len(found) == 1}
    # A copy, since a later layer may work in place.
    return {name: out.clone().numpy() for name, out in single.items() if isinstance(out, torch.Tensor)}


def _graph_values(graph: ir.Model, expected: dict[str, Floats]) -> dict[str, str]:
    """The value that is a module's output, by module, in the graph's order; leaves before their parents."""
    last: dict[str, tuple[int, ir.Value]] = {}
    for position, node in enumerate(graph.graph):
        module = node.metadata_props.get(MODULE_KEY, "")
        while module:
            last[module] = (position, node.outputs[0])
            module = module.rpartition(".")[0]
    ordered = sorted(last.items(), key=lambda item: (item[1][0], -len(item[0])))
    return {
        module: str(value.name)
        for module, (_, value) in ordered
        if module in expected and value.shape == list(expected[module].shape)
    }


def _with_outputs(graph: ir.Model, names: list[str]) -> bytes:
    """The model with other outputs."""
    proto = ir.to_proto(graph)
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.add(name=name)
    return bytes(proto.SerializeToString())
