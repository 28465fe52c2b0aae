"""Does the ONNX model compute what torch computes?

Both run in float32 on the golden images; what differs is the order of additions, so outputs of unit scale
agree to about 1e-6 and 1e-4 leaves room for deep networks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.errors import EdgemimError, MissingDependencyError

Floats = npt.NDArray[np.float32]

# Relative to the largest output where that exceeds 1.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The largest difference found, and the largest that would have been accepted, both absolute."""

    max_abs: float
    tolerance: float


def run_onnx(model: Path | bytes, images: npt.NDArray[Any], *, output: str | None = None) -> Floats:
    """One output of the model, from ONNX Runtime on the CPU.

    Args:
        model: A file, or its bytes.
        images: float32 [G, 3, H, W], or uint8 [G, H, W, 3], as the model takes them; G need not be a multiple
            of the model's fixed batch.
        output: Name of the output; by default the first.

    Returns:
        float32 [G, K], or [G, N, D] for tokens.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    session = open_session(model)
    source = session.get_inputs()[0]
    names = None if output is None else [output]
    batch = source.shape[0]
    outputs = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # A last batch that is too small is filled with its own last image.
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        outputs.append(session.run(names, {source.name: padded})[0][: len(part)])
    return np.concatenate(outputs)


def check_parity(
    model: Path | bytes,
    images: npt.NDArray[Any],
    expected: Floats,
    *,
    output: str | None = None,
    tolerance: float = TOLERANCE,
    explain: Callable[[], str] | None = None,
) -> Parity:
    """Compare ONNX Runtime with the outputs of torch.

    Args:
        model: A file, or its bytes.
        images: As `run_onnx` takes them.
        expected: What torch computes for these images, float32 [G, K], or [G, N, D] for tokens.
        output: Name of the output; by default the first.
        tolerance: Largest accepted absolute difference of outputs within [-1, 1]; it grows with the
            largest output.
        explain: Called when the check fails; returns a clause for the message: where to look.

    Raises:
        EdgemimError: The difference is larger, or the shapes differ, or an output is not finite.
    """
    found = run_onnx(model, images, output=output)
    if found.shape != expected.shape:
        raise EdgemimError(
            f"the ONNX model returns shape {found.shape}, torch {expected.shape}; do not use this export"
        )
    limit = tolerance * max(1.0, float(np.abs(expected).max(initial=0.0)))
    difference = np.abs(found.astype(np.float64) - expected)
    # Written so that a NaN fails.
    if not bool((difference <= limit).all()):
        details = _describe(difference, found, expected, limit)
        raise EdgemimError(details if explain is None else f"{details}; {explain()}")
    return Parity(max_abs=float(difference.max(initial=0.0)), tolerance=limit)


def _describe(difference: npt.NDArray[np.float64], found: Floats, expected: Floats, limit: float) -> str:
    worst = np.nanargmax(difference) if not np.isnan(difference).all() else 0
    if np.isnan(difference).any():
        worst = int(np.isnan(difference).argmax())
    image, *place = (int(i) for i in np.unravel_index(worst, difference.shape))
    at = (image, *place)
    over = int((~(difference <= limit)).sum())
    return (
        "the ONNX model does not compute what torch computes: "
        f"largest difference {difference[at]:.3g}, limit {limit:.3g}, "
        f"{over} of {difference.size} outputs over it; at golden image {image}, output {', '.join(map(str, place))}: "
        f"ONNX Runtime {found[at]:.6g}, torch {expected[at]:.6g}"
    )


def open_session(model: Path | bytes, *, optimised: bool = True, entries: Mapping[str, str] | None = None) -> Any:
    """A model in ONNX Runtime on the CPU.

    Args:
        model: A file, or its bytes.
        optimised: Whether ONNX Runtime may fuse and replace nodes; without, it computes node by node what the graph
            says, a quantized layer in float32 between DequantizeLinear and QuantizeLinear.
        entries: Further entries of the session's configuration.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the parity check", "onnxruntime", "export") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
