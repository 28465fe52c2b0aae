"""SmoothQuant, folded offline: outliers of single channels move from activations into weights, with the same outputs.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    ICML 2023, arXiv:2211.10438, section 4: equation 4 for the factors, equation 3 for where they go.
Differs: Alpha is chosen for each layer (see `edgemim.quantize.smooth_search`). The factors of proj go into the values
    of the attention, those after a ReLU into the layer before it; a layer behind a GELU stays as it is. They are scaled
    so that the tensor keeps its maximum, which changes nothing in INT8 and keeps float16 inside its range.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.quantize.folds import find_folds
from edgemim.quantize.sites import Unit
from edgemim.quantize.weights import Vectors

Doubles = npt.NDArray[np.float64]

# Factors stay within this of their mean, and weights count as this share of the largest at least.
_WIDEST = 256.0
_SMALLEST = 1e-5


def smooth(model: ir.Model, units: Iterable[Unit], factors: Vectors) -> ir.Model:
    """Fold factors into a graph, in place: the same outputs, with other channels.

    Args:
        model: Any float flavour.
        units: Of its placement, those that stay in float as well; their sites hold for the result.
        factors: By unit, what each input channel is divided by; units that the placement does not have are passed over.

    Returns:
        The same model.

    Raises:
        EdgemimError: A unit has factors that this graph has no place for.
    """
    layers = [(unit.name, unit.layer[0]) for unit in units if unit.layer is not None]
    wanted = {node: unit for unit, node in layers if unit in factors}
    for fold in find_folds(model.graph) if wanted else ():
        found = np.ones(len(fold.free))
        for reader in fold.readers:
            unit = wanted.pop(str(reader.node.name), None)
            if unit is not None:
                if len(factors[unit]) != len(reader.channels):
                    raise EdgemimError(f"{unit!r} was smoothed with other channels; calibrate this model again")
                found[reader.channels] = factors[unit]
        if (found != 1).any():
            fold.divide(found)
    if wanted:
        unit = next(iter(wanted.values()))
        raise EdgemimError(f"the smoothing of {unit!r} has no place in this graph; quantize it without smoothing")
    return model


def equation_4(reach: Doubles, weights: Doubles, alpha: float) -> Doubles:
    """Factors per channel, `reach^alpha / weights^(1 - alpha)`, scaled so that the largest |x| stays.

    Args:
        reach: Largest |x| of each channel, [C]; one that is always 0 gets no factor of its own.
        weights: Largest |w| that meets each channel, [C].
        alpha: In [0, 1]: how much of the outliers moves into the weights.
    """
    known = reach > 0
    if not known.any() or weights.max() == 0:
        return np.ones_like(reach)
    floor = _SMALLEST * weights.max()
    logs = alpha * np.log(reach[known]) - (1 - alpha) * np.log(np.maximum(weights[known], floor))
    limit = np.log(_WIDEST)
    found = np.ones_like(reach)
    found[known] = np.exp(np.clip(logs - logs.mean(), -limit, limit))
    scaled: Doubles = found * ((reach / found).max() / reach.max())
    return scaled
