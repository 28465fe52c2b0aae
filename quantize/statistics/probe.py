"""Run a model for the sake of its inner values."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgemim.errors import MissingDependencyError
from edgemim.preprocess import Pixels, Preprocess
from edgemim.quantize.qdq import module_of
from edgemim.quantize.statistics.tensor import Tensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A model whose outputs are the values that were asked for; several threads may call it at a time.

    Attributes:
        sha256: Of the model as it was given.
        modules: What gives each value, for messages: `module 'blocks.0.mlp.fc1'`.
        bytes_per_image: Size of all the values together.
    """

    sha256: str
    modules: Mapping[str, str]
    bytes_per_image: int
    _session: Any
    _input: str
    _takes_pixels: bool
    _outputs: tuple[str, ...]
    _preprocess: Preprocess

    def run(self, pixels: Pixels) -> dict[str, Floats]:
        """The values for one image, uint8 [H, W, 3], by name."""
        images = pixels[None] if self._takes_pixels else self._preprocess.normalise(pixels[None])
        # ONNX Runtime takes an empty list of outputs for all of them.
        found = self._session.run(list(self._outputs), {self._input: images}) if self._outputs else []
        return {self._input: images, **dict(zip(self._outputs, found, strict=True))}


def build_probe(model: bytes | ir.Model, tensors: Sequence[Tensor], preprocess: Preprocess) -> Probe:
    """Make every tensor's value an output, and what none of them needs falls away.

    Each run uses one thread: the order of additions, and with it the last bits, does not depend on the machine's load.

    Args:
        model: Float32, one input of batch 1: normalised float32 [1, 3, H, W], or uint8 [1, H, W, 3]. Not changed.
        tensors: Of float32 activations.
        preprocess: The model's contract.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ValueError: A tensor names no float32 activation of the graph.
    """
    data = model if isinstance(model, bytes) else ir.to_proto(model).SerializeToString(deterministic=True)
    proto = onnx.load_from_string(data)
    source = proto.graph.input[0]
    takes_pixels = source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    modules = dict(_producers(proto.graph)) | ({} if takes_pixels else {source.name: "the model's input"})
    values = dict.fromkeys(tensor.value for tensor in tensors)
    unknown = [name for name in values if name not in modules]
    if unknown:
        raise ValueError(f"the graph has no float activation {unknown[0]!r}")
    outputs = tuple(name for name in values if name != source.name)
    session = _session(proto, outputs)
    return Probe(
        sha256=hashlib.sha256(data).hexdigest(),
        modules=modules,
        bytes_per_image=sum(map(_bytes, session.get_outputs())),
        _session=session,
        _input=source.name,
        _takes_pixels=takes_pixels,
        _outputs=outputs,
        _preprocess=preprocess,
    )


def _session(proto: onnx.ModelProto, outputs: Sequence[str]) -> Any:
    """Uses `proto` up."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("calibration", "onnxruntime", "export") from error
    if outputs:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    serialized = proto.SerializeToString()
    proto.Clear()  # ONNX Runtime makes copies of the weights itself
    session = runtime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    for output in session.get_outputs():
        if output.name in outputs and output.type != "tensor(float)":
            raise ValueError(f"the value {output.name!r} is a {output.type}, no float32 activation")
    return session


def _producers(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Each value that a node gives, and what a message calls the node."""
    for node in graph.node:
        module = module_of(node)
        where = f"module {module!r}" if module else "the model itself" if module == "" else f"node {node.name!r}"
        yield from ((name, where) for name in node.output if name)


def _bytes(output: Any) -> int:
    """Size of a float32 output; a dimension that the graph leaves open counts as 1."""
    return 4 * math.prod(size for size in output.shape if isinstance(size, int))
