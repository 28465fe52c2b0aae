"""The contract of a quantizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from edgemim.artifact import Artifact
from edgemim.quantize.calibration import Calibration
from edgemim.runtime.targets._base import Target

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


def silent(_: str) -> None:
    """Tell nobody."""


class Quantizer(ABC):
    """Turns float flavours of an `onnx` artifact into INT8 flavours beside them."""

    @abstractmethod
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
        """Quantize and write a new artifact; the one that is read stays as it is.

        Args:
            artifact: Of kind `onnx`, with the flavour `fp32` and a batch of 1.
            batches: The calibration images, float32 [1, 3, H, W] each; may be gone through several times.
            out: Folder of the new artifact.
            target: Whose integer types and limits hold.
            overwrite: Replace an artifact that lies at `out`.
            state: File for what is known after some of the images, so that an interrupted calibration goes on; a
                quantizer that cannot begin in the middle leaves it alone.
            say: Called with a sentence that the user should read, such as a warning about the ranges.
            progress: Called with (images done, images in all).

        Returns:
            Everything of `artifact`, plus flavours `int8-...`: a float flavour's graph with standard
            QuantizeLinear and DequantizeLinear nodes, whose zero points are 0.

        Raises:
            EdgemimError: It cannot be quantized, or the result breaks a rule of `edgemim.quantize.qdq`.
            OutputError: `out` exists, or cannot be written.
        """
