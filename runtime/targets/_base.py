"""What is known about a kind of device before one is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgemim.errors import ConfigError

# The most exact first.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

Setting = str | int | bool

# How a graph is written where there are several ways.
Form = Literal["plain", "tensorrt"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A further way to run a flavour's file: on one backend, with settings other than its own.

    Attributes:
        of: Precision of the flavours that can be run so.
        name: Of the candidate it makes; `{flavour}` stands for the flavour's name.
        precision: What the candidate is judged as.
        backend: The only backend that knows the settings.
        options: Laid over the settings of that backend.
        needs: One of `edgemim.runtime.device.FEATURES`, without which a device leaves the candidate out; None: nothing.
    """

    of: str
    name: str
    precision: str
    backend: str
    options: Mapping[str, Setting] = field(default_factory=dict)
    needs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of device.

    Attributes:
        name: What the user writes, and the name of the file.
        summary: One line for people.
        backends: Backends that run there, the preferred one first.
        flavours: Float flavours that export writes for it; `fp32`, which is the reference, among them.
        opsets: Newest ONNX opset by precision, as carried by the ONNX graph; a precision that is not named cannot
            be run. Old versions of a backend may read the older opsets only: fp32 has the one that all of them read.
        variants: Ways to run a flavour beside the plain one, on any backend with its own settings.
        activation_dtypes: Integer types that Q/DQ activations may have; with int8 alone the zero point is 0.
        machines: What `platform.machine()` says on such a device.
        builds_on_device: True if the engine is compiled by the vendor's builder on the very device that runs
            it, so that nothing compiled can be shipped.
        int8_head_dims: Widths of a head whose INT8 attention is fused there; empty: any.
        int8_tokens: Most tokens of such an attention; 0: any number.
        compute_capabilities: Of the NVIDIA GPUs it stands for, such as "8.7"; empty: it has none.
        weakly_typed: Whether a builder there may be too old to take its types from the graph (TensorRT 8.6): every
            candidate then has a second form in fp32/opset 17, whose float layers that builder computes in float16.
        form: How export writes what can be written in several ways: `plain`, with as few nodes as possible, or
            `tensorrt`, as NVIDIA's builder fuses it best.
    """

    name: str
    summary: str
    backends: tuple[str, ...]
    flavours: tuple[str, ...]
    opsets: Mapping[str, int]
    activation_dtypes: tuple[str, ...]
    machines: tuple[str, ...]
    builds_on_device: bool
    variants: tuple[Variant, ...] = ()
    int8_head_dims: tuple[int, ...] = ()
    int8_tokens: int = 0
    compute_capabilities: tuple[str, ...] = ()
    weakly_typed: bool = False
    form: Form = "plain"

    def __post_init__(self) -> None:
        unknown = set(self.opsets) - set(PRECISIONS)
        if unknown:
            raise ConfigError(f"target {self.name}: unknown precision {sorted(unknown)}; known: {PRECISIONS}")
        if "fp32" not in self.flavours or not set(self.flavours) <= set(self.opsets):
            raise ConfigError(
                f"target {self.name}: flavours must name fp32, and no precision without an opset; got {self.flavours}"
            )
        if not self.backends:
            raise ConfigError(f"target {self.name} names no backend")

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that a flavour may have there."""
        return tuple(self.opsets)

    @property
    def is_nvidia(self) -> bool:
        """Whether it is a GPU for which NVIDIA's builder makes engines."""
        return bool(self.compute_capabilities)

    @property
    def builds_ahead(self) -> bool:
        """Whether export builds the engines itself, since NVIDIA's builder needs no GPU of the target for it."""
        return self.is_nvidia and not self.builds_on_device

    def takes(self, *, precision: str, opset: int) -> bool:
        """Whether an ONNX flavour of this precision and opset can run there."""
        return precision in self.opsets and opset <= self.opsets[precision]
