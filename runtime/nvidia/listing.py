"""The kernels of an engine, read from what TensorRT-RTX's builder logs.

Its plan cannot be read without a GPU, but with `ProfilingVerbosity.DETAILED` the builder says, at the severity VERBOSE,
one line for each kernel: its name, its kind, the types of its inputs, and the ONNX nodes that it computes. It is a
structure, no timing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgemim.runtime.nvidia.onnx_file import OnnxFile

_START = "Layers:"
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs): "
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
# The builder's `LayerType` of a convolution.
_CONVOLUTION = "correlation"
# In the name of a kernel that computes a whole attention.
_ATTENTION = "_mha"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel.

    Attributes:
        name: The builder's.
        kind: Its `LayerType`: `gemm`, `kgen`, ...
        inputs: Types of its inputs, constants not among them, such as `Half` and `Int8`.
        nodes: Names of the ONNX nodes that it computes, in part or whole.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def is_attention(self) -> bool:
        """Whether it computes a whole attention: both products and the softmax between them."""
        return _ATTENTION in self.name

    @property
    def is_product(self) -> bool:
        """Whether it multiplies an activation by weights, as a matrix."""
        return not self.is_attention and (self.kind == "gemm" or "Fc" in self.name)


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What an engine consists of.

    Attributes:
        kernels: How many one inference launches.
        products: Those that multiply by weights, by the type of the activation.
        convolutions: Those that convolve with weights, likewise.
        attentions: By torch module of every softmax, the types of the inputs of the one kernel that it is computed
            in with its attention, joined by `/`; None where it is not: an attention that fell apart.
    """

    kernels: int
    products: Mapping[str, int]
    convolutions: Mapping[str, int]
    attentions: Mapping[str, str | None]

    @property
    def fused(self) -> Counter[str]:
        """Attentions that are one kernel each, by the types of their inputs."""
        return Counter(types for types in self.attentions.values() if types is not None)

    @property
    def unfused(self) -> int:
        """Softmaxes outside of such an attention."""
        return sum(types is None for types in self.attentions.values())


def read_kernels(messages: Iterable[str]) -> list[Kernel]:
    """The kernels of the last engine that a log speaks of; none if it lists none."""
    listings = [message for message in messages if message.startswith(_START)]
    return [_kernel(line) for line in listings[-1].splitlines() if line.startswith("Name: ")] if listings else []


def read_structure(kernels: Sequence[Kernel], onnx: OnnxFile) -> Structure:
    """What the kernels of an engine make of the graph that it was built from."""
    products = Counter(kernel.inputs[0] for kernel in kernels if kernel.is_product)
    convolutions = Counter(kernel.inputs[0] for kernel in kernels if kernel.kind == _CONVOLUTION)
    attentions: dict[str, str | None] = {}
    for node in onnx.nodes:
        if node.operator == "Softmax":
            whole = [kernel for kernel in kernels if kernel.is_attention and node.name in kernel.nodes]
            name = _numbered(node.module or node.name, attentions)
            attentions[name] = "/".join(sorted(set(whole[0].inputs))) if whole else None
    return Structure(
        kernels=len(kernels), products=dict(products), convolutions=dict(convolutions), attentions=attentions
    )


def _kernel(line: str) -> Kernel:
    match = _LINE.match(line)
    if match is None:
        return Kernel(name=line.split(",")[0].removeprefix("Name: "), kind="", inputs=("",), nodes=())
    return Kernel(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(_TYPE.findall(match["inputs"])) or ("",),
        nodes=tuple(_NODE.findall(line)),
    )


def _numbered(name: str, known: Mapping[str, object]) -> str:
    """`name`, or `name#1` where a module has a second softmax."""
    number, free = 0, name
    while free in known:
        number += 1
        free = f"{name}#{number}"
    return free
