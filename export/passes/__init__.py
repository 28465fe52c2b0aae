"""What is done to every exported graph, in this order.

A pass takes an `onnx_ir.Model` and returns it, changed in place, with the same function of its inputs. It
looks at weights and structure only, never at data.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgemim.export.passes.expand_gelu import expand_gelu
from edgemim.export.passes.fold_constants import fold_constants
from edgemim.export.passes.lower_opset import lower_opset
from edgemim.export.passes.module_names import module_names
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.strip_metadata import strip_metadata

# Names come first, since the later passes copy them to the nodes they add; metadata goes last.
PASSES: tuple[Callable[[ir.Model], ir.Model], ...] = (
    module_names,
    fold_constants,
    expand_gelu,
    lower_opset,
    remove_unused,
    strip_metadata,
)


def apply_passes(model: ir.Model) -> ir.Model:
    """Run `PASSES` in order.

    Raises:
        EdgemimError: The graph holds something that cannot be lowered; the message names op and module.
    """
    for graph_pass in PASSES:
        model = graph_pass(model)
    return model
