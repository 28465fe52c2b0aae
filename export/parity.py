"""Does the ONNX model compute what torch computes?

Both run in float32 on the golden images; what differs is the order of additions, so outputs of unit scale
agree to about 1e-6 and 1e-4 leaves room for deep networks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
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


def run_onnx(model: Path | bytes, images: Floats) -> Floats:
    """The model's only output, from ONNX Runtime on the CPU.

    Args:
        model: A file, or its bytes.
        images: float32 [G, 3, H, W]; G need not be a multiple of the model's fixed batch.

    Returns:
        float32 [G, K].

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    session = _session(model)
    source = session.get_inputs()[0]
    batch = source.shape[0]
    outputs = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # A last batch that is too small is filled with its own last image.
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        outputs.append(session.run(None, {source.name: padded})[0][: len(part)])
    return np.concatenate(outputs)


def run_all_outputs(model: Path | bytes, images: Floats) -> list[Floats]:
    """Every output of the model for exactly one batch, float32 [B, 3, H, W]."""
    session = _session(model)
    outputs: list[Floats] = session.run(None, {session.get_inputs()[0].name: images})
    return outputs


def check_parity(
    model: Path | bytes,
    images: Floats,
    expected: Floats,
    *,
    tolerance: float = TOLERANCE,
    explain: Callable[[], str] | None = None,
) -> Parity:
    """Compare ONNX Runtime with the outputs of torch.

    Args:
        model: A file, or its bytes.
        images: float32 [G, 3, H, W].
        expected: Outputs of torch for these images, float32 [G, K].
        tolerance: Largest accepted absolute difference of outputs within [-1, 1]; it grows with the
            largest output.
        explain: Called when the check fails; returns a clause for the message: where to look.

    Raises:
        EdgemimError: The difference is larger, or the shapes differ, or an output is not finite.
    """
    found = run_onnx(model, images)
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
    image, output = np.unravel_index(worst, difference.shape)
    over = int((~(difference <= limit)).sum())
    return (
        "the ONNX model does not compute what torch computes: "
        f"largest difference {difference[image, output]:.3g}, limit {limit:.3g}, "
        f"{over} of {difference.size} outputs over it; at golden image {image}, output {output}: "
        f"ONNX Runtime {found[image, output]:.6g}, torch {expected[image, output]:.6g}"
    )


def _session(model: Path | bytes) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the parity check", "onnxruntime", "export") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
