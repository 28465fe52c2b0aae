"""What is known about a kind of device before one is at hand."""

from __future__ import annotations

from dataclasses import dataclass

from edgemim.errors import ConfigError

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of device.

    Attributes:
        name: What the user writes, and the name of the file.
        summary: One line for people.
        backends: Backends that run there, the preferred one first.
        opset: Newest ONNX opset that all of them read; export writes this one.
        precisions: Precisions a candidate may have, as carried by the ONNX graph.
        activation_dtypes: Integer types that Q/DQ activations may have; with int8 alone the zero point is 0.
        machines: What `platform.machine()` says on such a device.
        builds_on_device: True if the engine is compiled by the vendor's builder on the very device that runs
            it, so that nothing compiled can be shipped.
    """

    name: str
    summary: str
    backends: tuple[str, ...]
    opset: int
    precisions: tuple[str, ...]
    activation_dtypes: tuple[str, ...]
    machines: tuple[str, ...]
    builds_on_device: bool

    def __post_init__(self) -> None:
        unknown = set(self.precisions) - set(PRECISIONS)
        if unknown:
            raise ConfigError(f"target {self.name}: unknown precision {sorted(unknown)}; known: {PRECISIONS}")
        if not self.backends:
            raise ConfigError(f"target {self.name} names no backend")

    def takes(self, *, precision: str, opset: int) -> bool:
        """Whether an ONNX flavour of this precision and opset can run there."""
        return precision in self.precisions and opset <= self.opset
