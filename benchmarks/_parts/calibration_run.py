"""One calibration in a process of its own, which then says what it took: `python -m _parts.calibration_run`.

Without workers it opens the images and runs the model alone, once: the memory that a calibration comes on top of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from edgemim.data.open import open_images
from edgemim.preprocess import Preprocess
from edgemim.quantize.calibration import Calibration, choose_calibration
from edgemim.quantize.qdq import module_of
from edgemim.quantize.statistics.collect import collect
from edgemim.quantize.statistics.tensor import Tensor

from .memory import peak_memory_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    model, contract = arguments.model.read_bytes(), Preprocess(size=(arguments.size, arguments.size))
    calibration = choose_calibration(open_images(arguments.images), contract, count=arguments.count)
    facts = calibrate(model, calibration, arguments.workers) if arguments.workers else run_alone(model, calibration)
    sys.stdout.write(json.dumps({**facts, "peak_mib": round(peak_memory_mib(), 1)}))


def run_alone(model: bytes, calibration: Calibration) -> dict[str, Any]:
    """One image through the model, nothing observed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: next(iter(calibration))})
    return {}


def calibrate(model: bytes, calibration: Calibration, workers: int) -> dict[str, Any]:
    """All images, as a quantizer goes through them, with a state on disk."""
    tensors = list(activations(onnx.load_from_string(model).graph))
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "statistics.npz"
        start, cpu = time.perf_counter(), time.process_time()
        statistics = collect(model, calibration, tensors, workers=workers, state=state)
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        digest = hashlib.sha256(state.read_bytes()).hexdigest()
    count = len(calibration)
    return {
        "tensors": len(tensors),
        "values_per_image": sum(observed.elements for observed in statistics.values()) // count,
        "ms_per_image": round(wall_s / count * 1e3, 2),
        "cpu_ms_per_image": round(cpu_s / count * 1e3, 2),
        "statistics_sha256": digest,
    }


def activations(graph: onnx.GraphProto) -> Iterator[Tensor]:
    """What INT8 of a whole ViT has to know: the inputs of the linears, qkv, and the softmax."""
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        module = module_of(node) or "model"
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            yield Tensor(key=f"{module}:input", value=node.input[0], channel_axis=-1)
        elif node.op_type == "Add" and module.endswith("attn.qkv"):
            yield Tensor(key=f"{module}:output", value=node.output[0])
        elif node.op_type == "Softmax":
            yield Tensor(key=f"{module}:softmax", value=node.output[0])


if __name__ == "__main__":
    main()
