"""Quantizers: `quantize(artifact, batches, out) -> Artifact`, always standard Q/DQ ONNX."""

from __future__ import annotations

from edgemim.registry import Registry

QUANTIZERS = Registry("quantizer", __name__)
