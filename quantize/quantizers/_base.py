"""The contract of a quantizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from edgemim.artifact import Artifact
from edgemim.quantize.calibration import Calibration


class Quantizer(ABC):
    """Turns the fp32 flavour of an `onnx` artifact into an INT8 flavour beside it."""

    @abstractmethod
    def quantize(
        self, artifact: Artifact, batches: Calibration, out: Path | str, *, overwrite: bool = False
    ) -> Artifact:
        """Quantize and write a new artifact; the one that is read stays as it is.

        Args:
            artifact: Of kind `onnx`, with the flavour `fp32` and a batch of 1.
            batches: The calibration images, float32 [1, 3, H, W] each; may be gone through several times.
            out: Folder of the new artifact.
            overwrite: Replace an artifact that lies at `out`.

        Returns:
            Everything of `artifact`, plus the flavour `int8-<name of the quantizer>`: the same graph with
            standard QuantizeLinear and DequantizeLinear nodes, whose zero points are 0.

        Raises:
            EdgemimError: It cannot be quantized, or the result breaks a rule of `edgemim.quantize.qdq`.
            OutputError: `out` exists, or cannot be written.
        """
