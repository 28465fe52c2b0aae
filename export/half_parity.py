"""Does the fp16 flavour compute what torch computes in float32, but for rounding?

float16 keeps 11 bits, so each operation is off by up to 2^-11 of its result, and errors of independent roundings add up
like their root. How much of that reaches the outputs depends on the network: most stay within ten such steps, one whose
outputs are small differences between large sums multiplies even the rounding of its input. So the limits are those
beyond which a device's engine is refused too: a cosine of 0.999, which is an error of 4.5 % of the outputs' norm, and
about the same for any single output. An overflow, or a divisor that became 0, does not stay within them.

The file itself is run, and then the graph with every value rounded (`edgemim.export.rounding`), since ONNX Runtime's
CPU kernels keep float32 where a device does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.parity import Floats, run_onnx
from edgemim.export.rounding import round_every_value
from edgemim.runtime.accuracy.cosine import cosines
from edgemim.runtime.accuracy.golden import LEAST_COSINE

# Of an image's largest output: 128 steps of float16.
TOLERANCE = 2.0**-4


@dataclass(frozen=True, kw_only=True)
class HalfParity:
    """What was found, over all images, and what would have been accepted.

    Attributes:
        cosine_worst: Smallest cosine of an image's outputs.
        max_relative: Largest difference, relative to the image's largest output.
        least_cosine, tolerance: Their limits.
    """

    cosine_worst: float
    max_relative: float
    least_cosine: float
    tolerance: float


def check_half(
    model: ir.Model, serialized: bytes, images: Floats, expected: Mapping[str, Floats], *, explain: Callable[[], str]
) -> dict[str, HalfParity]:
    """Compare every output with torch.

    Args:
        model: The fp16 graph.
        serialized: The same as it will be written.
        images: float32 [G, 3, H, W].
        expected: Outputs of torch for these images by name, float32 [G, ...].
        explain: Called when the check fails; returns a clause for the message: where to look.

    Returns:
        The worse of the two runs, by output.

    Raises:
        EdgemimError: An output is further off than rounding explains.
    """
    rounded = ir.to_proto(round_every_value(model)).SerializeToString()
    results = {}
    for name, values in expected.items():
        runs = [_compare(run_onnx(file, images, output=name), values) for file in (serialized, rounded)]
        cosine, relative = min(run[0] for run in runs), max(run[1] for run in runs)
        # Written so that a NaN fails.
        if not all(run[0] >= LEAST_COSINE["fp16"] and run[1] <= TOLERANCE for run in runs):
            raise EdgemimError(
                f"the fp16 model is further from torch than rounding explains: {name} of one golden image has the "
                f"cosine {cosine:.4g} (at least {LEAST_COSINE['fp16']}) and an error of {relative:.2g} of its "
                f"largest value (at most {TOLERANCE:.2g}); {explain()}; leave the fp16 flavour out"
            )
        results[name] = HalfParity(
            cosine_worst=cosine, max_relative=relative, least_cosine=LEAST_COSINE["fp16"], tolerance=TOLERANCE
        )
    return results


def _compare(found: Floats, expected: Floats) -> tuple[float, float]:
    """Smallest cosine and largest relative difference over the images; a value that is not finite spoils both."""
    ours, theirs = (array.reshape(len(array), -1) for array in (found, expected))
    if not np.isfinite(ours).all():
        return -1.0, float("inf")
    differences = np.abs(ours.astype(np.float64) - theirs).max(axis=1)
    scales = np.maximum(np.abs(theirs).max(axis=1), np.finfo(np.float32).tiny)
    return float(cosines(ours, theirs).min()), float((differences / scales).max())
